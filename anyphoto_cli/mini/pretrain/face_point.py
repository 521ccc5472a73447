"""The shipped detector trained on, without the run that trained it: landmarks gain most from a long, gentle end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyphoto_cli.mini.pretrain.face_detector import DetectorLoss, FaceDetector, write_detector
from anyphoto_cli.mini.pretrain.face_pictures import drawn_pictures
from anyphoto_cli.mini.pretrain.face_samples import SIDE, DetectorSamples
from anyphoto_cli.mini.pretrain.loop import Schedule, fit, progress_of
from anyphoto_cli.mini.pretrain.onnx_file import read_whole

NAME = "face-point"
PICTURES = 16_000
SCHEDULE = Schedule(steps=6000, batch=16, lr=6e-4, warmup=100, decay=0.9, weight_decay=0.0, betas=(0.9, 0.98), clip=5.0,
                    ema=0.998)  # fmt: skip


def point_detector(folder: Path, file: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Train on, in `folder`, the detector in the ONNX `file`, and write it there again once all steps are done."""
    torch.manual_seed(8)
    net = shipped_detector(file).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = DetectorLoss(DetectorSamples(drawn_pictures(folder, PICTURES)), device)
    fit(NAME, net, loss, SCHEDULE, folder, device=device, minutes=minutes)
    if progress_of(folder, NAME) == SCHEDULE.steps:
        write_detector(net.cpu(), file)


def shipped_detector(file: Path) -> FaceDetector:
    """The exported detector as the net it was; its batch norms, which went into the convolutions, only shift now."""
    from onnx import numpy_helper

    graph = read_whole(file).graph
    stored = {value.name: torch.from_numpy(numpy_helper.to_array(value).copy()) for value in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    net = FaceDetector().eval()
    norms = _norm_after(net)
    for conv, node in zip(_in_order(net), nodes, strict=True):
        if node.input[1] in stored and node.input[2] in stored:  # a tower's second use names copies of the same
            _fill(conv, norms.get(conv), stored[node.input[1]], stored[node.input[2]])
    return net


def _in_order(net: nn.Module) -> list[nn.Conv2d]:
    """The convolutions as they are called, which is how the exporter wrote them."""
    called: list[nn.Conv2d] = []

    def note(module: Any, _given: Any, _answer: Any) -> None:
        called.append(module)

    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        net(torch.zeros(1, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return called


def _norm_after(net: nn.Module) -> dict[nn.Module, nn.BatchNorm2d]:
    return {
        pair[0]: pair[1]
        for pair in (list(module) for module in net.modules() if isinstance(module, nn.Sequential))
        if len(pair) > 1 and isinstance(pair[1], nn.BatchNorm2d)
    }


def _fill(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        conv.weight.copy_(weight)
        if norm is None:
            assert conv.bias is not None
            conv.bias.copy_(bias)
            return
        assert norm.running_var is not None
        norm.running_var.fill_(1 - norm.eps)
        norm.bias.copy_(bias)
