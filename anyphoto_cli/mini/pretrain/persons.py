"""The person detector: a small anchor-free net, shipped in the form of a YOLO export (v8 and later)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from anyphoto_cli.mini.pretrain.album import Album, open_album
from anyphoto_cli.mini.pretrain.loop import Schedule, fit, load_trained
from anyphoto_cli.mini.pretrain.onnx_file import write_onnx
from anyphoto_cli.mini.pretrain.person_samples import INPUT, person_sample

STRIDES = (8, 16, 32)
LEVELS = ((0.0, 80.0), (48.0, 176.0), (112.0, 1e9))
"""Person sizes (root of the area, px of the input) that each stride answers for; the overlaps are meant."""
PICTURES = 16_000
SCHEDULE = Schedule(steps=2800, batch=32, lr=3e-3, decay=0.7)
SETTLED = 0.7
"""From this share of the steps on, batch statistics are frozen: see `settle`."""
HIDDEN = 0.15
"""People whose face is less visible are neither wanted nor punished in training."""


class PersonNet(nn.Module):
    """[n, 3, INPUT, INPUT] RGB 0-1 -> class logits [n, a] and boxes [n, 4, a] as x0, y0, x1, y1 in px of the input.

    a: the cells of all strides, finest first, row by row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_block(3, 12, 2), _block(12, 24, 2), _block(24, 40, 2), _Residual(40))
        self.middle = nn.Sequential(_block(40, 64, 2), _Residual(64))
        self.deep = nn.Sequential(_block(64, 72, 2), _Residual(72))
        self.lateral = nn.ModuleList(nn.Conv2d(c, 40, 1) for c in (40, 64, 72))
        self.merge = nn.ModuleList(_block(40, 40) for _ in range(2))
        self.head = _block(40, 40)
        self.answer = nn.Conv1d(40, 5, 1)
        nn.init.normal_(self.answer.weight, std=0.01)
        # Few cells hold a person: start from "rarely", and from boxes of about the levels' sizes.
        bias = torch.tensor([-3.0, 3.0, 3.0, 3.0, 3.0])
        self.answer.bias = nn.Parameter(bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        fine = self.stem(images)
        middle = self.middle(fine)
        deep = self.lateral[2](self.deep(middle))
        middle = self.merge[1](self.lateral[1](middle) + functional.interpolate(deep, scale_factor=2.0))
        fine = self.merge[0](self.lateral[0](fine) + functional.interpolate(middle, scale_factor=2.0))
        features = torch.cat([self.head(level).flatten(2) for level in (fine, middle, deep)], 2)
        # Box sides are up to 256 px: bfloat16 would round them to whole pixels.
        with torch.autocast(images.device.type, enabled=False):
            raw = functional.conv1d(features.float(), self.answer.weight, self.answer.bias)
            centres, strides = (value.to(raw.device) for value in cells())
            sides = functional.softplus(raw[:, 1:]) * strides
            boxes = torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], 1)
        return raw[:, 0], boxes


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = _block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.inner(x)
        return result


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU(inplace=True)
    )


@lru_cache(maxsize=1)
def cells() -> tuple[Tensor, Tensor]:
    """Centres [2, a] x, y in px of the input, and strides [1, a] of all cells."""
    centres, strides = [], []
    for stride in STRIDES:
        along = (torch.arange(INPUT // stride) + 0.5) * stride
        y, x = torch.meshgrid(along, along, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, x.numel()), float(stride)))
    return torch.cat(centres, 1), torch.cat(strides, 1)


def train_persons(folder: Path, minutes: float | None = None, device: str = "cpu") -> nn.Module:
    """Train, or go on training, in `folder`; minutes: stop after that long."""
    album = open_album(folder / "album", PICTURES)
    torch.manual_seed(0)
    return fit("persons", PersonNet(), partial(_loss, album), SCHEDULE, folder, device=device, minutes=minutes)


def _loss(album: Album, model: nn.Module, samples: range, step: int) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    settle(model, step >= SETTLED * SCHEDULE.steps)
    images, people = zip(*(person_sample(album, number) for number in samples), strict=True)
    pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    logits, boxes = model(pixels.float() / 255)
    return person_loss(logits, boxes, _padded(people).to(device))


def settle(model: nn.Module, settled: bool) -> None:
    """Normalise by running statistics from now on, as at inference.

    Pictures of one batch differ so much that the net learns to use the batch's own mean and spread: without this the
    boxes' overlap is .89 in training and .85 on the very same pictures at inference.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(not settled)


def person_loss(logits: Tensor, boxes: Tensor, people: Tensor) -> dict[str, Tensor]:
    """logits [n, a], boxes [n, 4, a], people [n, p, 9] as in an album, in px of the input.

    A cell's score is to tell how well its box overlaps its person's, so that NMS keeps the best box: 0 at an IoU of
    .4, 1 at 1, so that a poor second box of the same person, which NMS leaves, stays below the usual threshold of .25.
    Sure scores that are wrong count most (weight: squared error). Boxes: CIoU, and by how much of a person's size
    each edge is off.
    """
    owner, ignored = assign(people)
    row, cell = torch.nonzero(owner >= 0, as_tuple=True)
    target = people[row, owner[row, cell], :4]
    predicted = boxes.permute(0, 2, 1)[row, cell]
    overlap, penalty = _ciou(predicted, target)
    wanted = torch.zeros_like(logits)
    wanted[row, cell] = ((overlap.detach() - 0.4) / 0.6).clamp(0, 1)
    error = (wanted - logits.sigmoid()).detach().abs().square() * ~ignored
    count = max(len(row), 1)
    scores = (functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * error).sum() / count
    size = (target[:, 2:] - target[:, :2]).mean(1, keepdim=True).clamp(min=4)
    edges = ((predicted - target).abs() / size).mean(1).sum() / count
    shape = penalty.sum() / count
    return {"loss": 4 * scores + 2 * shape + 2 * edges, "scores": scores, "iou": overlap.sum() / count, "edges": edges}


def assign(people: Tensor) -> tuple[Tensor, Tensor]:
    """people [n, p, 9] -> per cell [n, a] the number of its person or -1, and whether it is left out of the loss.

    A person's cells are those near the middle of the face, at the strides of the person's size: bodies overlap,
    faces hardly do.
    """
    centres, strides = (value.to(people.device) for value in cells())
    levels = torch.tensor(LEVELS, device=people.device)[torch.log2(strides[0] / STRIDES[0]).long()]
    faces, box = people[..., 4:8], people[..., :4].nan_to_num()
    middle = ((faces[..., :2] + faces[..., 2:]) / 2).nan_to_num(-1e4)
    half = ((faces[..., 2:] - faces[..., :2]).mean(-1) / 2).nan_to_num(0.0)
    size = ((box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)).sqrt()
    far = (centres.T[None, :, None] - middle[:, None]).abs().amax(-1)
    near = far <= torch.maximum(0.6 * half[:, None], 0.75 * strides[0][None, :, None])
    near &= (size[:, None] >= levels[None, :, :1]) & (size[:, None] < levels[None, :, 1:])
    hidden = people[:, None, :, 8].nan_to_num(1.0) < HIDDEN
    distance = torch.where(near & ~hidden, far / half[:, None].clamp(min=1), torch.inf)
    closest, owner = distance.min(-1)
    owner = torch.where(closest.isfinite(), owner, -1)
    return owner, (near & hidden).any(-1) & (owner < 0)


def _ciou(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[k, 4] twice -> overlap (IoU) [k] and 1 - CIoU [k] (Zheng et al. 2020: overlap, centres, proportions)."""
    inner = torch.minimum(predicted[:, 2:], target[:, 2:]) - torch.maximum(predicted[:, :2], target[:, :2])
    outer = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    sizes = [box[:, 2:] - box[:, :2] for box in (predicted, target)]
    both = inner.clamp(min=0).prod(1)
    overlap = both / (sizes[0].prod(1) + sizes[1].prod(1) - both + 1e-6)
    apart = ((predicted[:, :2] + predicted[:, 2:] - target[:, :2] - target[:, 2:]) / 2).square().sum(1)
    angles = [torch.atan(size[:, 0] / (size[:, 1] + 1e-6)) for size in sizes]
    bent = 4 / np.pi**2 * (angles[0] - angles[1]).square()
    weight = (bent / (1 - overlap + bent + 1e-6)).detach()
    return overlap, 1 - overlap + apart / (outer.square().sum(1) + 1e-6) + weight * bent


def _padded(people: Sequence[NDArray[np.float32]]) -> Tensor:
    """Rows [p_i, 9] -> [n, p, 9], NaN where there is nobody."""
    padded = np.full((len(people), max(1, *(len(rows) for rows in people)), 9), np.nan, np.float32)
    for index, rows in enumerate(people):
        padded[index, : len(rows)] = rows
    return torch.from_numpy(padded)


class _YoloForm(nn.Module):
    """The net with the outputs of a YOLO export: [n, 5, a] cx, cy, w, h in px of the input, score 0-1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits, boxes = self.net(images)
        low, high = boxes[:, :2], boxes[:, 2:]
        return torch.cat([(low + high) / 2, high - low, logits.sigmoid()[:, None]], 1)


def export_persons(folder: Path, out_file: Path) -> None:
    """Write the trained net of `folder` as ONNX: fixed input [1, 3, INPUT, INPUT], as exports for CPUs are."""
    from anyphoto_cli import __version__

    module = _YoloForm(load_trained(folder, "persons", PersonNet()))
    example = torch.zeros(1, 3, INPUT, INPUT)
    write_onnx(module, example, "images", ["output0"], out_file, facts=_metadata(__version__))


def _metadata(version: str) -> dict[str, str]:
    """What loaders of YOLO exports read; no date, so that the same weights are the same file."""
    return {
        "description": "anyphoto-mini person detector, trained on drawn pictures only",
        "author": "anyphoto",
        "version": version,
        "license": "Apache-2.0",
        "stride": str(max(STRIDES)),
        "task": "detect",
        "batch": "1",
        "imgsz": str([INPUT, INPUT]),
        "names": str({0: "person"}),
        "args": str({"batch": 1, "half": False, "dynamic": False, "simplify": True, "opset": 17, "nms": False}),
        "channels": "3",
        "end2end": "False",
    }
