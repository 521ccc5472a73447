"""The mini face pack: two ONNX files in insightface's own format."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from anyphoto_cli.mini.pretrain.face_detector import trained_detector, write_detector
from anyphoto_cli.mini.pretrain.face_recogniser import FaceRecogniser
from anyphoto_cli.mini.pretrain.face_settle import settled_recogniser
from anyphoto_cli.mini.pretrain.onnx_file import write_onnx

DETECTOR_FILE, RECOGNISER_FILE = "det_mini.onnx", "w_mini.onnx"
"""insightface loads files in the order of their names and keeps the first of a kind."""


def export_face_pack(folder: Path, out_dir: Path) -> None:
    """Write the two files from the runs saved in `folder`; neither where one of these is missing."""
    detector, recogniser = trained_detector(folder), _without_norm(settled_recogniser(folder))
    write_detector(detector, out_dir / DETECTOR_FILE)
    write_onnx(recogniser, torch.zeros(2, 3, 112, 112), "data", ["embedding"], out_dir / RECOGNISER_FILE, batch="n")


def _without_norm(net: FaceRecogniser) -> nn.Module:
    """The same net with its last batch norm inside the linear layer: the graph then holds known operators only."""
    return nn.Sequential(net.body, nn.Flatten(), _fused(net)).eval()


def _fused(net: FaceRecogniser) -> nn.Linear:
    mean, var = net.norm.running_mean, net.norm.running_var
    assert mean is not None and var is not None
    scale = torch.rsqrt(var + net.norm.eps)
    last = nn.Linear(net.last.in_features, net.last.out_features)
    with torch.no_grad():
        last.weight.copy_(net.last.weight * scale[:, None])
        last.bias.copy_(-mean * scale)
    return last
