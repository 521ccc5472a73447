"""The mini face detector: a small convolutional net with SCRFD's outputs, trained on drawn pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.mini.pretrain.face_pictures import drawn_pictures
from anyphoto_cli.mini.pretrain.face_samples import SIDE, DetectorSamples
from anyphoto_cli.mini.pretrain.loop import Schedule, fit, load_trained
from anyphoto_cli.mini.pretrain.onnx_file import write_onnx

NAME = "face-detector"
SCHEDULE = Schedule(steps=12_000, batch=16, lr=2.5e-3, decay=0.7, weight_decay=0.02, betas=(0.9, 0.98), clip=5.0)

SHIFT = 0.5
"""Taken off every logit at export: insightface's threshold of .5 then lies at .62, where recall and precision meet."""

_STRIDES, _ANCHORS = (8, 16, 32), 2
_SIZES = ((0, 44), (36, 90), (76, 130), (110, 170), (150, 220), (190, 1e9))
"""Which faces (root of the box area, px) each of the two anchors of each stride answers for; both where they overlap.
Small strides take larger faces than usual: landmarks shall be right to 3 % of a face."""


class ConvNorm(nn.Sequential):
    """3x3 or 1x1 convolution, batch norm and, unless `active` is off, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, active: bool = True) -> None:
        norm = nn.BatchNorm2d(outputs, momentum=0.03)
        layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), norm]
        super().__init__(*layers, *([nn.ReLU()] if active else []))


class Residual(nn.Module):
    """x + two 3x3 convolutions, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = ConvNorm(channels, channels), ConvNorm(channels, channels, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> the same."""
        return F.relu(x + self.second(self.first(x)))


class FaceDetector(nn.Module):
    """[n, 3, 256, 256], (RGB - 127.5) / 128 -> logits [n, K, 1], boxes [n, K, 4], landmarks [n, K, 10].

    K runs over strides 8, 16, 32, rows, columns, two anchors. Boxes are distances left, up, right, down from the
    cell's corner, landmarks are x, y from it, both in strides.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 24, 40, 56, 60), neck: int = 40, pointer: int = 96) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.stem = nn.Sequential(ConvNorm(3, a, stride=2), ConvNorm(a, b, stride=2))
        near = nn.Sequential(ConvNorm(b, c, stride=2), Residual(c))
        middle = nn.Sequential(ConvNorm(c, d, stride=2), Residual(d))
        self.stages = nn.ModuleList([near, middle, ConvNorm(d, e, stride=2)])
        self.lateral = nn.ModuleList([ConvNorm(width, neck, 1) for width in (c, d, e)])
        self.tower = ConvNorm(neck, neck)
        # Ten coordinates to a fraction of a cell need more channels than a box does.
        self.finder = nn.Sequential(ConvNorm(neck, neck), nn.Conv2d(neck, _ANCHORS * 5, 1))
        self.pointer = nn.Sequential(ConvNorm(neck, pointer), nn.Conv2d(pointer, _ANCHORS * 10, 1))
        # Nearly everything is background, and a face reaches about two strides to every side of its centre.
        _start(self.finder, torch.tensor([-4.0] + [2.0] * 4))
        _start(self.pointer, torch.zeros(10))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All strides in one row, for training."""
        found, points = (torch.cat(parts, 1).float() for parts in zip(*self.levels(pictures), strict=True))
        return found[..., :1], found[..., 1:], points

    def levels(self, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each stride the logits and boxes [n, cells * 2, 5], and the landmarks [n, cells * 2, 10]."""
        x, maps = self.stem(pictures), []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        for i in (1, 0):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], scale_factor=2.0, mode="nearest")
        towers = [self.tower(m) for m in maps]
        return [
            (_rows(self.finder(tower), stride, 5), _rows(self.pointer(tower), stride, 10))
            for tower, stride in zip(towers, _STRIDES, strict=True)
        ]


def _start(branch: nn.Sequential, values: Tensor) -> None:
    """Let a branch's last convolution begin with these answers, for every anchor."""
    weight, bias = branch[-1].parameters()
    nn.init.normal_(weight, std=0.01)
    bias.data.copy_(values.repeat(_ANCHORS))


def _rows(answer: Tensor, stride: int, width: int) -> Tensor:
    """[n, 2 * width, h, w] -> [n, h * w * 2, width]. Sizes are constants: no arithmetic on shapes in the export."""
    return answer.permute(0, 2, 3, 1).reshape(-1, (SIDE // stride) ** 2 * _ANCHORS, width)


class ScrfdOutputs(nn.Module):
    """The detector as insightface's SCRFD reads it: scores, boxes and landmarks, each at strides 8, 16, 32."""

    def __init__(self, net: FaceDetector) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """[n, 3, 256, 256] -> 3 x [n, K_s, 1] in 0-1, 3 x [n, K_s, 4], 3 x [n, K_s, 10]."""
        levels = self.net.levels(pictures)
        scores = [torch.sigmoid(found[..., :1] - SHIFT) for found, _ in levels]
        return (*scores, *[found[..., 1:] for found, _ in levels], *[points for _, points in levels])


@dataclass(frozen=True, eq=False)
class Priors:
    """Of every answer: corner [K, 2] px of its cell, stride [K], and the face sizes [K, 2] px it answers for."""

    corner: NDArray[np.float32]
    stride: NDArray[np.float32]
    sizes: NDArray[np.float32]


def priors() -> Priors:
    """In the net's order: stride, row, column, anchor."""
    corners, strides, sizes = [], [], []
    for level, stride in enumerate(_STRIDES):
        side = SIDE // stride
        rows, columns = np.mgrid[:side, :side]
        corners.append(np.repeat(np.stack([columns, rows], -1).reshape(-1, 2) * stride, _ANCHORS, 0))
        strides.append(np.full(side * side * _ANCHORS, stride))
        sizes.append(np.tile(_SIZES[2 * level : 2 * level + 2], (side * side, 1)))
    joined = [np.concatenate(parts).astype(np.float32) for parts in (corners, strides, sizes)]
    return Priors(*joined)


def assign(boxes: NDArray[np.float32], wanted: NDArray[np.bool_], prior: Priors) -> NDArray[np.int64]:
    """The face each answer stands for: its index, -1 for none, -2 for "either is fine".

    boxes: [n, 4] px. wanted: [n], false for a face that is too hidden to count. A face is wanted of the cells within
    one stride of its centre; the rim around them and neighbouring sizes are free to find it too.
    """
    answer = np.full(len(prior.stride), -1, np.int64)
    if not len(boxes):
        return answer
    centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    size = np.sqrt(np.maximum(extent.prod(1), 1e-6))[:, None]
    away = np.abs(prior.corner[None] - centre[:, None]).max(-1) / prior.stride
    inside = np.abs(prior.corner[None] - centre[:, None]) <= extent[:, None] / 2
    low, high = prior.sizes[:, 0], prior.sizes[:, 1]
    near_size = (size >= low * 0.85) & (size <= high * 1.18)
    sure = wanted[:, None] & (size >= low) & (size <= high) & (away <= 1.0)
    free = near_size & np.where(wanted[:, None], away <= 1.5, inside.all(-1) | (away <= 2.0))
    answer[free.any(0)] = -2
    nearest = np.where(sure, away, np.inf).argmin(0)
    return np.where(sure.any(0), nearest, answer)


class DetectorLoss:
    """Cross-entropy of scores with the quality of their boxes; errors of boxes and landmarks in shares of the face."""

    def __init__(self, samples: DetectorSamples, device: str = "cpu") -> None:
        self.samples, self.device, self.prior = samples, device, priors()

    def __call__(self, model: nn.Module, numbers: range, step: int) -> dict[str, Tensor]:
        """See loop.Loss."""
        pixels, targets, labels = self._batch(numbers)
        logits, boxes, points = model(pixels)
        face = labels == 1
        count = face.sum().clamp(min=1)
        # targets: 4 distances, 10 offsets, and the weight of a stride.
        target = targets[face]
        # Where several answers find a face, the one with the best box shall win: its score says how good it is.
        quality = torch.zeros_like(logits[..., 0])
        quality[face] = _overlap(boxes[face].detach(), target[:, :4]) ** 0.7
        entropy = F.binary_cross_entropy_with_logits(logits[..., 0], quality, reduction="none")
        score = entropy[labels >= 0].sum() / count
        box = ((boxes[face] - target[:, :4]).abs().mean(1) * target[:, 14]).sum() / count
        point = ((points[face] - target[:, 4:14]).abs().mean(1) * target[:, 14]).sum() / count
        return {"loss": score + 4 * box + 12 * point, "score": score, "box": box, "points": point}

    def _batch(self, numbers: range) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [n, 3, 256, 256], targets [n, K, 15], labels [n, K]: 1 face, 0 none, -1 no matter."""
        pixels, targets, labels = [], [], []
        for number in numbers:
            sample = self.samples[number]
            chosen = assign(sample.box, sample.wanted, self.prior)
            pixels.append(sample.pixels)
            targets.append(self._targets(sample.box, sample.landmarks, chosen))
            labels.append(np.where(chosen >= 0, 1, chosen + 1))
        batch = torch.from_numpy(np.stack(pixels)).to(self.device).permute(0, 3, 1, 2).float().sub_(127.5).div_(128)
        return batch, torch.from_numpy(np.stack(targets)).to(self.device), torch.from_numpy(np.stack(labels))

    def _targets(self, box: NDArray[np.float32], points: NDArray[np.float32], chosen: NDArray) -> NDArray[np.float32]:
        out = np.zeros((len(chosen), 15), np.float32)
        at = np.flatnonzero(chosen >= 0)
        if not len(at):
            return out
        which, corner, stride = chosen[at], self.prior.corner[at], self.prior.stride[at, None]
        out[at, 0:2] = (corner - box[which, :2]) / stride
        out[at, 2:4] = (box[which, 2:] - corner) / stride
        out[at, 4:14] = ((points[which] - corner[:, None]) / stride[..., None]).reshape(-1, 10)
        size = np.sqrt((box[which, 2:] - box[which, :2]).prod(1))
        # In shares of the face's size; of small faces no such precision is to be had, nor asked.
        out[at, 14] = stride[:, 0] / size * (size / 48).clip(0.25, 1)
        return out


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """[n, 4] distances from the same points -> intersection over union, [n]."""
    one = one.clamp(min=0)
    both = torch.minimum(one, other)
    shared = (both[:, 0] + both[:, 2]).clamp(min=0) * (both[:, 1] + both[:, 3]).clamp(min=0)
    areas = [(x[:, 0] + x[:, 2]) * (x[:, 1] + x[:, 3]) for x in (one, other)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


def train_detector(
    folder: Path, minutes: float | None = None, device: str = "cpu", schedule: Schedule = SCHEDULE
) -> FaceDetector:
    """Train, or go on training, in `folder`; draws its pictures first. About 20 minutes of one free core in all."""
    torch.manual_seed(1)
    net = FaceDetector()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = DetectorLoss(DetectorSamples(drawn_pictures(folder)), device)
    fit(NAME, net, loss, schedule, folder, device=device, minutes=minutes)
    return net


def trained_detector(folder: Path) -> FaceDetector:
    """The net of a run, ready for use."""
    net = FaceDetector()
    load_trained(folder, NAME, net)
    net.eval()
    return net


def write_detector(net: FaceDetector, file: Path) -> None:
    """The net in SCRFD's form, for any number of pictures."""
    outputs = [f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in _STRIDES]
    write_onnx(ScrfdOutputs(net), torch.zeros(2, 3, SIDE, SIDE), "data", outputs, file, batch="n")
