"""YOLO exports on onnxruntime alone: letterbox, one run, non-maximum suppression. No ultralytics, no torchvision.

Two forms: [n, 4 + classes (+ 32 mask coefficients), answers] of YOLOv5u to YOLO12, and [n, answers, 6] of the exports
that suppress by themselves (`nms=True`, `end2end`). Boxes are those of ultralytics' own predictor to .1 px.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.types import Box, Person, Picture

LEAST_SCORE, MOST_OVERLAP = 0.25, 0.7
_COEFFICIENTS = 32
_GREY = 114
_REMEDY = "Export one with: yolo export model=yolo11x.pt format=onnx"


class YoloOnnx:
    """A person detector from an .onnx file. masks: whether it has any. Raises InputError for a file of another form."""

    def __init__(self, file: Path, device: str = "cpu", threads: int = 0) -> None:
        import onnxruntime

        from anyphoto_cli.faces.insightface_pack import onnx_providers, session_options

        self.file, self.name = file, file.name
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), session_options(threads), providers=onnx_providers(device)
            )
        except Exception as error:  # onnxruntime raises kinds of its own
            raise self._refused(f"is not an ONNX file ({type(error).__name__})") from error
        told = self._session.get_modelmeta().custom_metadata_map
        given = self._session.get_inputs()[0]
        outputs = self._session.get_outputs()
        if len(given.shape) != 4 or len(outputs[0].shape) != 3 or len(outputs) > 2:  # boxes, and masks where there are
            raise self._refused("is not a YOLO export")
        self.masks = len(self._session.get_outputs()) > 1
        self._input, self._batch = given.name, given.shape[0] if isinstance(given.shape[0], int) else None
        self._dtype = np.float16 if "float16" in given.type else np.float32
        sides = given.shape[2:] if isinstance(given.shape[2], int) else _literal(told, "imgsz", [640, 640])
        if len(set(sides)) != 1:
            raise self._refused(f"takes {sides[1]}x{sides[0]} px instead of a square")
        self.size = int(sides[0])
        names = _literal(told, "names", {0: "person"})
        self._classes = len(names)
        self._person = next((number for number, name in names.items() if name == "person"), None)
        if self._person is None:
            raise self._refused("knows no class named person")

    def _refused(self, what: str) -> InputError:
        return InputError(what, file=self.file, field="--person-model", remedy=_REMEDY)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the file."""
        return sha256_of(self.file)

    def persons(self, pictures: Sequence[Picture], least_score: float = LEAST_SCORE) -> list[list[Person]]:
        """[H, W, 3] RGB each -> its persons, best first."""
        found: list[list[Person]] = []
        step = self._batch or 8
        for first in range(0, len(pictures), step):
            found += self._run(pictures[first : first + step], least_score)
        return found

    def _run(self, pictures: Sequence[Picture], least_score: float) -> list[list[Person]]:
        fitted = [letterbox(picture, self.size) for picture in pictures]
        images = np.zeros((self._batch or len(pictures), 3, self.size, self.size), self._dtype)
        for image, (pixels, _, _) in zip(images, fitted, strict=False):
            image[:] = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        outputs = [out.astype(np.float32) for out in self._session.run(None, {self._input: images})]
        return [
            self._persons(picture, scale, margin, [out[k] for out in outputs], least_score)
            for k, (picture, (_, scale, margin)) in enumerate(zip(pictures, fitted, strict=True))
        ]

    def _persons(
        self, picture: Picture, scale: tuple[float, float], margin: tuple[int, int], outputs: list[Any], least: float
    ) -> list[Person]:
        boxes, scores, weights = self._answers(outputs[0], least)
        height, width = picture.shape[:2]
        placed = ((boxes - margin * 2) / (scale * 2)).clip(0, [width, height, width, height])
        masks: Sequence[Any] = [None] * len(placed)
        if len(outputs) > 1 and len(weights) and weights.shape[1] == _COEFFICIENTS:
            masks = _masks(weights, outputs[1], placed, picture, margin, self.size)
        return [
            Person(Box(*map(float, box)), float(score), mask)
            for box, score, mask in zip(placed, scores, masks, strict=True)
        ]

    def _answers(self, raw: NDArray[np.float32], least: float) -> tuple[Any, Any, Any]:
        """Boxes [k, 4] px of the input, scores [k], mask coefficients [k, 32 or 0]; best first."""
        if raw.shape[1] in (6, 6 + _COEFFICIENTS):  # suppressed already: x0 y0 x1 y1 score class
            kept = raw[(raw[:, 4] > least) & (raw[:, 5].round() == self._person)]
            kept = kept[np.argsort(-kept[:, 4], kind="stable")]
            return kept[:, :4], kept[:, 4], kept[:, 6:]
        answers = raw.T
        if answers.shape[1] < 4 + self._classes:
            raise self._refused(f"answers with {answers.shape[1]} numbers for {self._classes} classes")
        classes = answers[:, 4 : 4 + self._classes]
        answers = answers[(classes[:, self._person] > least) & (classes.argmax(1) == self._person)]
        scores = answers[:, 4 + (self._person or 0)]
        boxes = np.concatenate([answers[:, :2] - answers[:, 2:4] / 2, answers[:, :2] + answers[:, 2:4] / 2], 1)
        kept = suppress(boxes, scores, MOST_OVERLAP)
        return boxes[kept], scores[kept], answers[kept, 4 + self._classes :]


def _literal(told: dict[str, str], key: str, default: Any) -> Any:
    """YOLO writes its metadata as Python literals."""
    try:
        return ast.literal_eval(told[key])
    except (KeyError, ValueError, SyntaxError):
        return default


def letterbox(picture: Picture, size: int) -> tuple[Picture, tuple[float, float], tuple[int, int]]:
    """The picture as large as it goes in the middle of a grey square; its scale in x and y; left and top margin, px.

    Rounding as in YOLO's own pipeline, and cv2's bilinear: PIL's smooths, which moves edges.
    """
    import cv2

    height, width = picture.shape[:2]
    fitting = min(size / height, size / width)
    inner = max(round(width * fitting), 1), max(round(height * fitting), 1)
    left, top = (round((size - side) / 2 - 0.1) for side in inner)
    pixels = np.full((size, size, 3), _GREY, np.uint8)
    resized = cv2.resize(picture, inner, interpolation=cv2.INTER_LINEAR)
    pixels[top : top + inner[1], left : left + inner[0]] = resized
    return pixels, (inner[0] / width, inner[1] / height), (left, top)


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], most_overlap: float) -> NDArray[np.intp]:
    """Indices of the boxes that no better kept one overlaps by more, best first."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[overlaps(boxes[best][None], boxes[order])[0] <= most_overlap]
    return np.array(kept, np.intp)


def overlaps(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """IoU [k, m] of boxes [k, 4] and [m, 4]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    both = (high - low).clip(0).prod(-1)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    shares: NDArray[np.float64] = both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)
    return shares


def _masks(
    weights: NDArray[np.float32], prototypes: NDArray[np.float32], boxes: NDArray[np.float64], picture: Picture,
    margin: tuple[int, int], size: int,
) -> list[NDArray[np.bool_]]:  # fmt: skip
    """[H, W] bool each: the weighted prototypes, without the letterbox's margins, enlarged, cut at the box."""
    import cv2

    height, width = picture.shape[:2]
    shrink = size / prototypes.shape[1]
    left, top = (round(side / shrink) for side in margin)
    inner = prototypes[:, top : prototypes.shape[1] - top, left : prototypes.shape[2] - left]
    found = []
    for row, (x0, y0, x1, y1) in zip(weights, np.rint(boxes).astype(int), strict=True):
        large = cv2.resize(np.tensordot(row, inner, 1), (width, height), interpolation=cv2.INTER_LINEAR)
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = large[y0:y1, x0:x1] > 0
        found.append(mask)
    return found
