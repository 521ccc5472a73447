"""The person detector: a small anchor-free net, shipped in the form of a YOLO export (v8 and later)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from anyphoto_cli.mini.pretrain.album import Album, fresh_pictures, open_album
from anyphoto_cli.mini.pretrain.loop import Schedule, fit, load_trained
from anyphoto_cli.mini.pretrain.onnx_file import write_onnx
from anyphoto_cli.mini.types import STYLES, DrawnPicture
from anyphoto_cli.preprocess.yolo_onnx import YoloOnnx, overlaps
from anyphoto_cli.types import Picture

INPUT = 256
"""Side of the net's square input, px."""
STRIDES = (8, 16, 32)
LEVELS = ((0.0, 80.0), (48.0, 176.0), (112.0, 1e9))
"""Person sizes (root of the area, px of the input) that each stride answers for; the overlaps are meant."""
PICTURES = 16_000
SCHEDULE = Schedule(steps=2800, batch=32, lr=3e-3, decay=0.7)
SETTLED = 0.7
"""From this share of the steps on, batch statistics are frozen: see `settle`."""
HIDDEN = 0.15
"""People whose face is less visible are neither wanted nor punished in training."""
_GREY = 114


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


# Training


def train_persons(folder: Path, minutes: float | None = None, device: str = "cpu") -> nn.Module:
    """Train, or go on training, in `folder`; minutes: stop after that long."""
    album = open_album(folder / "album", PICTURES)
    torch.manual_seed(0)
    return fit("persons", PersonNet(), partial(_loss, album), SCHEDULE, folder, device=device, minutes=minutes)


def _loss(album: Album, model: nn.Module, samples: range, step: int) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    settle(model, step >= SETTLED * SCHEDULE.steps)
    images, people = zip(*(_sample(album, number) for number in samples), strict=True)
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


# Pictures for training


def _sample(album: Album, number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Input picture and people of a sample, a pure function of its number."""
    chance = np.random.default_rng((7, number))
    kind = chance.random()
    make = _mosaic if kind < 0.15 else _empty if kind < 0.2 else _placed
    pixels, people = make(album, chance)
    return _recoloured(pixels, chance), people


def _mosaic(album: Album, chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Four pictures in one: smaller people, more of them, and straight edges that are no person."""
    half = INPUT // 2
    pixels, people = np.full((INPUT, INPUT, 3), _GREY, np.uint8), []
    for x, y in ((0, 0), (half, 0), (0, half), (half, half)):
        tile, rows = _mirrored(album, chance)
        scale = half / max(tile.shape[:2])
        tile = _resized(tile, scale)
        pixels[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        people.append(_moved(rows, scale, x, y))
    return pixels, np.concatenate(people)


def _empty(album: Album, chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What a picture shows above all heads: places without people are no people."""
    picture, people = _mirrored(album, chance)
    pixels = np.full((INPUT, INPUT, 3), _GREY, np.uint8)
    above = int(people[:, [1, 5]].min())
    if above > 8:
        strip = _resized(picture[:above], INPUT / max(above, picture.shape[1]))
        top = int(chance.integers(INPUT - strip.shape[0] + 1))
        pixels[top : top + strip.shape[0], : strip.shape[1]] = strip
    return pixels, people[:0]


def _placed(album: Album, chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """As at inference half of the time, else smaller or larger and anywhere."""
    picture, people = _mirrored(album, chance)
    fit_scale = INPUT / max(picture.shape[:2])
    if chance.random() < 0.5:
        scale = fit_scale
        left, top = ((INPUT - round(side * scale)) / 2 for side in picture.shape[1::-1])
    else:
        scale = fit_scale * float(np.exp(chance.uniform(np.log(0.4), np.log(1.25))))
        left, top = (chance.uniform(*sorted((0.0, INPUT - side * scale))) for side in picture.shape[1::-1])
    x, y = round(left - 0.1), round(top - 0.1)
    picture = _resized(picture, scale)
    pixels = np.full((INPUT, INPUT, 3), _GREY, np.uint8)
    cut = picture[max(-y, 0) : INPUT - y, max(-x, 0) : INPUT - x]
    pixels[max(y, 0) : max(y, 0) + cut.shape[0], max(x, 0) : max(x, 0) + cut.shape[1]] = cut
    return pixels, _moved(people, scale, x, y)


def _mirrored(album: Album, chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    index = int(chance.integers(len(album)))
    picture, people = album.picture(index), album.people_of(index).copy()
    if chance.random() < 0.5:
        picture = np.asarray(cv2.flip(picture, 1), np.uint8)
        people[:, [0, 2, 4, 6]] = picture.shape[1] - people[:, [2, 0, 6, 4]]
    return picture, people


def _moved(people: NDArray[np.float32], scale: float, x: float, y: float) -> NDArray[np.float32]:
    """People after scaling and shifting; boxes end at the input's edge, and a face cut in half counts as hidden."""
    moved = people.copy()
    moved[:, :8] = moved[:, :8] * scale + np.tile([x, y], 4)
    whole = moved[:, 4:8].copy()
    moved[:, :8] = moved[:, :8].clip(0, INPUT)
    left = _area(moved[:, 4:8]) / np.maximum(_area(whole), 1e-6)
    moved[:, 8] = np.where(left < 0.6, 0.0, moved[:, 8])
    moved[left < 0.6, 4:8] = whole[left < 0.6]
    return moved


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
    return area


def _resized(picture: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _recoloured(pixels: NDArray[np.uint8], chance: np.random.Generator) -> NDArray[np.uint8]:
    """Light, colour cast, grey, blur, noise: pictures of other sources are not as clean as the renderer's."""
    gain = chance.uniform(0.8, 1.2) * chance.uniform(0.93, 1.07, 3)
    table = (np.arange(256)[:, None] * gain + chance.uniform(-12, 12)).clip(0, 255).astype(np.uint8)
    pixels = np.asarray(cv2.LUT(pixels, table.reshape(1, 256, 3)))
    if chance.random() < 0.08:
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    if chance.random() < 0.15:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), chance.uniform(0.5, 1.8)))
    if chance.random() < 0.15:
        noise = chance.normal(0, chance.uniform(2, 10), (INPUT, INPUT, 1)).astype(np.float32)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    return pixels


# Export


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


# Measuring


class PersonDetector:
    """The shipped file, through the same code as any YOLO export."""

    def __init__(self, file: Path) -> None:
        self._yolo = YoloOnnx(file, threads=1)
        self.size = self._yolo.size

    def __call__(self, picture: Picture, least_score: float = 0.25) -> NDArray[np.float32]:
        """Boxes and scores [k, 5] x0, y0, x1, y1 in px of the picture, score; best first."""
        found = self._yolo.persons([picture], least_score)[0]
        return np.array([[*person.box, person.score] for person in found], np.float32).reshape(-1, 5)


def measure_persons(file: Path, pictures: Sequence[DrawnPicture] | int = 960) -> dict[str, Any]:
    """The detector on pictures of held-out people (by default drawn afresh): average precision, recall, speed."""
    drawn = fresh_pictures(pictures) if isinstance(pictures, int) else pictures
    detector = PersonDetector(file)
    began = time.perf_counter()
    found = [detector(picture.pixels, 0.001) for picture in drawn]
    seconds = time.perf_counter() - began
    truth = [true_boxes(picture) for picture in drawn]
    steps = np.arange(0.5, 0.96, 0.05)
    sure = [rows[rows[:, 4] >= 0.25] for rows in found]
    pairs = [match(rows, boxes, 0.5) for rows, boxes in zip(sure, truth, strict=True)]
    hits = sum(int(right.sum()) for right in pairs)
    people = sum(map(len, truth))
    return {
        "pictures": len(drawn),
        "people": people,
        "ap50": average_precision(found, truth, 0.5),
        "ap75": average_precision(found, truth, 0.75),
        "ap50_95": float(np.mean([average_precision(found, truth, float(step)) for step in steps])),
        "recall": hits / people,
        "precision": hits / max(sum(map(len, sure)), 1),
        "counted_right": float(np.mean([len(rows) == len(boxes) for rows, boxes in zip(sure, truth, strict=True)])),
        "ap50_by_people": _by([len(picture.people) for picture in drawn], found, truth),
        "ap50_by_style": _by([STYLES.index(picture.style) for picture in drawn], found, truth, STYLES),
        "ms_per_picture": 1000 * seconds / len(drawn),
        "bytes": file.stat().st_size,
    }


def true_boxes(picture: DrawnPicture) -> NDArray[np.float64]:
    """[people, 4] px as a detector counts them: 0 is the picture's edge, not the centre of its first pixel."""
    return np.array([one.person_box for one in picture.people], np.float64).reshape(-1, 4) + 0.5


def _by(keys: list[int], found: Any, truth: Any, names: Sequence[str] | None = None) -> dict[str, float]:
    """AP50 of each group of pictures."""
    groups = {}
    for key in sorted(set(keys)):
        chosen = [index for index, own in enumerate(keys) if own == key]
        name = names[key] if names else str(key)
        groups[name] = average_precision([found[i] for i in chosen], [truth[i] for i in chosen], 0.5)
    return groups


def match(found: NDArray[Any], truth: NDArray[Any], least_overlap: float) -> NDArray[np.bool_]:
    """Which rows of found [k, 5], best first, are right: each takes the free true box that it overlaps most."""
    right, free = np.zeros(len(found), bool), np.ones(len(truth), bool)
    shares = overlaps(found, truth)
    for row in range(len(found)):
        open_shares = np.where(free, shares[row], -1.0)
        if len(truth) and open_shares.max() >= least_overlap:
            right[row], free[open_shares.argmax()] = True, False
    return right


def average_precision(found: Sequence[NDArray[Any]], truth: Sequence[NDArray[Any]], least_overlap: float) -> float:
    """Area under the precision-recall curve over all pictures, precision made monotone (all points, as VOC 2010)."""
    right = np.concatenate([match(rows, boxes, least_overlap) for rows, boxes in zip(found, truth, strict=True)])
    order = np.argsort(-np.concatenate([rows[:, 4] for rows in found]), kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * right[order]).sum() / max(sum(map(len, truth)), 1))
