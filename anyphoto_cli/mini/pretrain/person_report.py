"""How good the person detector is on drawn people it never saw, through the code that runs any YOLO export."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.mini.pretrain.album import fresh_pictures
from anyphoto_cli.mini.types import STYLES, DrawnPicture
from anyphoto_cli.preprocess.yolo_onnx import YoloOnnx, overlaps
from anyphoto_cli.types import Picture


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
