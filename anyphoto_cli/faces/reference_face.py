"""The face a reference picture stands for: retried at other sizes and with padding, the largest one wins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anyphoto_cli.errors import InputError
from anyphoto_cli.geometry import intersection
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Box, Face, Picture

SIZES = (640, 320, 160)
PADDINGS = (0.0, 0.5, 1.0)
"""Shares of the longer side added on every edge: detectors miss faces that fill the picture."""

MAX_SIDE = 2048
"""Larger pictures are looked at smaller: padded by their own size on every edge, 48 megapixels would be 430."""


@dataclass(frozen=True, eq=False)
class ReferenceFace:
    """The chosen face, in the picture's own px. choice: one sentence on how it was found, for the user. faces: how
    many the picture shows.
    """

    face: Face
    choice: str
    faces: int = 1


def find_reference_face(analyzer: FaceAnalyzer, picture: Picture, named: Box | None = None) -> ReferenceFace:
    """The largest face of a reference picture or, where a source names the person's box, the one that fits it best.

    picture: [H, W, 3] RGB. Tries the picture as it is first, then smaller detector inputs, then padding; the first
    try that finds any face decides. Raises InputError when none does, and when none has its middle in `named`.
    """
    fixed = getattr(analyzer, "fixed_size", None)
    small, scale = _shrunk(picture)
    for padding in PADDINGS:
        for size in SIZES[:1] if fixed else SIZES:
            if faces := _detect_padded(analyzer, small, size, padding):
                found = [_enlarged(face, scale) for face in faces]
                return _largest(found, padding) if named is None else _named(found, named)
    height, width = picture.shape[:2]
    raise InputError(
        f"{analyzer.name} found no face in the reference ({width}x{height})",
        remedy="Use a clear frontal photo, another --face-pack, or give reference_landmarks",
    )


def _shrunk(picture: Picture) -> tuple[Picture, tuple[float, float]]:
    """The picture with no side above MAX_SIDE, and how many px of its own, across and down, are one of that."""
    import cv2

    height, width = picture.shape[:2]
    if (times := max(height, width) / MAX_SIDE) <= 1:
        return picture, (1.0, 1.0)
    size = max(round(width / times), 1), max(round(height / times), 1)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)), (width / size[0], height / size[1])


def _enlarged(face: Face, scale: tuple[float, float]) -> Face:
    (across, down), (x0, y0, x1, y1) = scale, face.box
    return Face(Box(x0 * across, y0 * down, x1 * across, y1 * down), face.landmarks * scale, face.score)


def _detect_padded(analyzer: FaceAnalyzer, picture: Picture, size: int, padding: float) -> list[Face]:
    pad = round(max(picture.shape[:2]) * padding)
    padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), constant_values=127) if pad else picture
    found = analyzer.detect([padded], size)[0]
    return [_shift(face, pad) for face in found if _inside(_shift(face, pad), picture)]


def _shift(face: Face, pad: int) -> Face:
    x0, y0, x1, y1 = face.box
    return Face(Box(x0 - pad, y0 - pad, x1 - pad, y1 - pad), face.landmarks - pad, face.score)


def _inside(face: Face, picture: Picture) -> bool:
    """Whether the face's middle is in the picture itself, not in the padding."""
    height, width = picture.shape[:2]
    x, y = face.landmarks.mean(0)
    return bool(0 <= x < width and 0 <= y < height)


def _largest(faces: list[Face], padding: float) -> ReferenceFace:
    face = max(faces, key=lambda face: face.box.area)
    x0, y0, x1, y1 = (round(value) for value in face.box)
    choice = f"face at {x0},{y0} - {x1},{y1}, score {face.score:.2f}"
    if len(faces) > 1:
        choice += f", the largest of {len(faces)}"
    if padding:
        choice += ", found after padding a tight crop"
    return ReferenceFace(face, choice, len(faces))


def _named(faces: list[Face], box: Box) -> ReferenceFace:
    """Of those whose middle lies in the box the one that shares most with it."""
    inside = [face for face in faces if _holds(box, face)]
    if not inside:
        raise InputError("shows no face where its json names the person")
    face = max(inside, key=lambda face: intersection(face.box, box).area / max(face.box.area, box.area, 1e-9))
    return ReferenceFace(face, f"the face that its json names, score {face.score:.2f}")


def _holds(box: Box, face: Face) -> bool:
    x, y = face.landmarks.mean(0)
    return bool(box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1)
