"""Faces within persons. Paper A.2: faces are looked for in each person's box, and in the whole picture once.

A small face is seen better in its person's box, a face whose person was missed only in the whole picture; what both
see is one face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyphoto_cli.preprocess.identity_matching import iou
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Box, Embeddings, Face, Picture

SAME_FACE = 0.45
"""Overlap (IoU) from which two detections are the same face."""
_EYES = np.radians(35)
_LEAST_WINDOW = 16
_MOST_SHARE = 0.85
"""A person who fills so much of the picture is seen as well in the whole of it: a second look would find the same."""


@dataclass(frozen=True)
class FaceRule:
    """From when on a face is worth a place in the data. min_score: below it nothing is a face, below sure_score it is
    flagged; 0-1. px, degrees; sharpness: variance of the Laplacian of the face at 112 px. margin: a person's box is
    enlarged by that share before its faces are looked for.
    """

    min_score: float = 0.5
    sure_score: float = 0.65
    min_side: float = 40.0
    min_sharpness: float = 20.0
    max_yaw: float = 65.0
    margin: float = 0.15


@dataclass(frozen=True, eq=False)
class FoundFace:
    """A face in px of the picture. person: index of the person it belongs to, or -1. flags: what speaks against it
    ("small", "blurred", "turned", "unsure"), in this order.
    """

    face: Face
    person: int
    flags: tuple[str, ...]


def find_faces(
    picture: Picture, persons: Sequence[Box], analyzer: FaceAnalyzer, rule: FaceRule = FaceRule()
) -> list[FoundFace]:
    """Every face once, from left to right. persons: boxes in px of the picture."""
    return find_all_faces([picture], [persons], analyzer, rule)[0]


def find_all_faces(
    pictures: Sequence[Picture], persons: Sequence[Sequence[Box]], analyzer: FaceAnalyzer, rule: FaceRule = FaceRule()
) -> list[list[FoundFace]]:
    """`find_faces` for several pictures; the detector gets all their windows in one call."""
    windows = [face_windows(picture, boxes, rule) for picture, boxes in zip(pictures, persons, strict=True)]
    crops = [
        picture[y0:y1, x0:x1]
        for picture, boxes in zip(pictures, windows, strict=True)
        for x0, y0, x1, y1 in boxes
    ]  # fmt: skip
    answers = iter(analyzer.detect(crops))
    return [
        _merged(picture, boxes, [next(answers) for _ in inside], inside, rule)
        for picture, boxes, inside in zip(pictures, persons, windows, strict=True)
    ]


def face_windows(picture: Picture, persons: Sequence[Box], rule: FaceRule) -> list[tuple[int, int, int, int]]:
    """Where faces are looked for, px: the whole picture, then each person that is not nearly all of it."""
    height, width = picture.shape[:2]
    windows = [(0, 0, width, height)]
    for box in persons:
        x0, y0, x1, y1 = (int(value) for value in enlarged(box, rule.margin, picture))
        if min(x1 - x0, y1 - y0) >= _LEAST_WINDOW and max(x1 - x0, y1 - y0) <= _MOST_SHARE * max(width, height):
            windows.append((x0, y0, x1, y1))
    return windows


def _merged(
    picture: Picture, persons: Sequence[Box], answers: Sequence[Sequence[Face]],
    windows: Sequence[tuple[int, int, int, int]], rule: FaceRule,
) -> list[FoundFace]:  # fmt: skip
    seen = [
        moved(face, window[:2])
        for faces, window in zip(answers, windows, strict=True)
        for face in faces
        if face.score >= rule.min_score
    ]
    faces = sorted(without_doubles(seen), key=lambda face: (face.box.x0 + face.box.x1, face.box.y0))
    owners = assign_to_persons([face.box for face in faces], persons)
    return [FoundFace(face, owner, flags(picture, face, rule)) for face, owner in zip(faces, owners, strict=True)]


def embed_faces(picture: Picture, faces: Sequence[FoundFace], analyzer: FaceAnalyzer) -> Embeddings:
    """[f, 512], unit length: the recogniser on each face's norm-crop."""
    return embed_all([picture], [faces], analyzer)


def embed_all(pictures: Sequence[Picture], faces: Sequence[Sequence[FoundFace]], analyzer: FaceAnalyzer) -> Embeddings:
    """[all faces, 512], unit length, in their order; the recogniser gets all of them in one call."""
    from anyphoto_cli.faces.norm_crop import norm_crop

    crops = [
        norm_crop(picture, found.face.landmarks)
        for picture, group in zip(pictures, faces, strict=True)
        for found in group
    ]  # fmt: skip
    return analyzer.embed(np.stack(crops)) if crops else np.zeros((0, 512), np.float32)


def without_doubles(faces: Sequence[Face]) -> list[Face]:
    """Of faces that overlap as one, the surest; equal scores: the larger one."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.score, -face.box.area, tuple(face.box))):
        if all(iou(face.box, other.box) < SAME_FACE for other in kept):
            kept.append(face)
    return kept


def assign_to_persons(faces: Sequence[Box], persons: Sequence[Box]) -> list[int]:
    """For each face the person whose box holds most of it (more than half), or -1.

    Of several, the one whose top middle is nearest to the face: a neighbour's box may hold a head that is not theirs.
    """
    return [_owner(face, persons) for face in faces]


def _owner(face: Box, persons: Sequence[Box]) -> int:
    x, y = (face.x0 + face.x1) / 2, (face.y0 + face.y1) / 2
    best, distance = -1, float("inf")
    for number, person in enumerate(persons):
        wide = min(face.x1, person.x1) - max(face.x0, person.x0)
        high = min(face.y1, person.y1) - max(face.y0, person.y0)
        if max(wide, 0) * max(high, 0) <= 0.5 * face.area:
            continue
        away = abs(x - (person.x0 + person.x1) / 2) + abs(y - person.y0)
        if away < distance:
            best, distance = number, away
    return best


def enlarged(box: Box, margin: float, picture: Picture) -> Box:
    """`margin` of its width and height more on each side, whole px, inside the picture."""
    height, width = picture.shape[:2]
    wide, high = box.width * margin, box.height * margin
    x0, y0 = max(int(box.x0 - wide), 0), max(int(box.y0 - high), 0)
    return Box(x0, y0, min(int(np.ceil(box.x1 + wide)), width), min(int(np.ceil(box.y1 + high)), height))


def moved(face: Face, corner: tuple[int, int]) -> Face:
    """From px of a crop to px of the picture."""
    x, y = corner
    x0, y0, x1, y1 = face.box
    return Face(Box(x0 + x, y0 + y, x1 + x, y1 + y), face.landmarks + np.array(corner), face.score)


def flags(picture: Picture, face: Face, rule: FaceRule) -> tuple[str, ...]:
    """What speaks against a face, by the rule."""
    against = {
        "small": min(face.box.width, face.box.height) < rule.min_side,
        "blurred": sharpness(picture, face) < rule.min_sharpness,
        "turned": abs(yaw_of(face)) > rule.max_yaw,
        "unsure": face.score < rule.sure_score,
    }
    return tuple(name for name, applies in against.items() if applies)


def sharpness(picture: Picture, face: Face) -> float:
    """Variance of the Laplacian of the norm-crop's grey levels: how much detail there is at 112 px."""
    import cv2

    from anyphoto_cli.faces.norm_crop import norm_crop

    grey = cv2.cvtColor(norm_crop(picture, face.landmarks), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F)[8:-8, 8:-8].var())


def yaw_of(face: Face) -> float:
    """Degrees, roughly; 0 is frontal, positive where the nose points right in the picture.

    A head is a ball with the eyes at 35 degrees to either side, and the nose stands out by a quarter: turned by y, the
    nose lies tan(y) (1.25 - cos 35) / sin 35 half eye distances beside the middle between the eyes.
    """
    left, right, nose = face.landmarks[:3]
    across = right - left
    length = float(np.hypot(*across))
    if length < 1e-6:
        return 90.0
    beside = float((nose - (left + right) / 2) @ across) / length / (length / 2)
    return float(np.degrees(np.arctan2(beside, (1.25 - np.cos(_EYES)) / np.sin(_EYES))))
