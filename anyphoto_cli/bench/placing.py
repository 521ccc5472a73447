"""From a case to a layout: who stands where. The benchmark gives photos; our method wants five points a face.

gt: where the real photo has them: the case's own landmarks, else the faces found in it, each given to the reference it
resembles; people whose face is not found take a box of the case that holds no other; without a photo all take their
boxes. reference: where each reference
has its own face; of several people each has an upright strip of the picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.scores import assignment, cosines
from anyphoto_cli.bench.sources import picture_of
from anyphoto_cli.config.bench import RunConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.reference_face import find_reference_face
from anyphoto_cli.files.commit import committed
from anyphoto_cli.geometry import fitting_size, upright_landmarks
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Box, Face, Picture

Points = NDArray[np.float64]
_SEEN = 0.5
"""Lowest detection score of a face in the original that somebody is put upon."""
_ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


def write_layout(case: Case, folder: Path, analyzer: FaceAnalyzer, config: RunConfig, side: int) -> Path:
    """`folder`/<id>.json and its references beside it, <id>_1.jpg ...: `anyphoto generate` takes the folder as it is.

    side: px; the picture has about side x side pixels, in the original's proportions. Raises InputError where people
    cannot be placed.
    """
    names = [_written(source.read(), folder / f"{case.id}_{k}") for k, source in enumerate(case.references, 1)]
    references = [picture_of(source) for source in case.references]
    original = picture_of(case.gt) if case.gt is not None else None
    frame = frame_of(case, original)
    width, height = fitting_size(*frame, side)
    places = _places(case, original, references, frame, analyzer, config.layout_from)
    weighed = {} if config.strength is None else {"strength": config.strength}
    faces = [
        {"name": f"person {k}", "reference": name, "landmarks": (points * scale).round(2).tolist(), **weighed}
        for k, (name, (points, scale)) in enumerate(
            zip(names, [(points, (width / w, height / h)) for points, (w, h) in places], strict=True), 1
        )
    ]
    document: dict[str, Any] = {
        "version": 1, "prompt": case.prompt, "width": width, "height": height, "seed": config.seed, "faces": faces,
    }  # fmt: skip
    if config.guidance_scale is not None:
        document["guidance_scale"] = config.guidance_scale
    with committed(folder / f"{case.id}.json") as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())
    return folder / f"{case.id}.json"


def frame_of(case: Case, original: Picture | None) -> tuple[float, float]:
    """(width, height) of what the case's landmarks and boxes are px of."""
    if case.size is not None:
        return case.size
    return (float(original.shape[1]), float(original.shape[0])) if original is not None else (1.0, 1.0)


def _places(
    case: Case, original: Picture | None, references: Sequence[Picture], frame: tuple[float, float],
    analyzer: FaceAnalyzer, layout_from: str,
) -> list[tuple[Points, tuple[float, float]]]:  # fmt: skip
    """(landmarks, the (width, height) they are px of) of each person."""
    if layout_from == "reference":
        return _in_strips(references, analyzer)
    if case.landmarks:
        return [(np.asarray(points, np.float64), frame) for points in case.landmarks]
    if original is None:
        return [(points, frame) for points in _in_boxes(case)]
    width, height = original.shape[1], original.shape[0]
    boxes = [_scaled(box, width / frame[0], height / frame[1]) for box in case.boxes]
    return [(points, (width, height)) for points in _in_original(case.id, original, boxes, references, analyzer)]


def _in_boxes(case: Case) -> list[Points]:
    """Upright faces in the case's boxes, of which there is one for each person, in their order."""
    if len(case.boxes) != case.people:
        what = "has no original to take the places from"
        if case.boxes:
            what += f", and {len(case.boxes)} boxes for {case.people} people"
        raise InputError(what, field=case.id, remedy="Use --layout-from reference")
    return [upright_landmarks(box) for box in case.boxes]


def _scaled(box: Box, across: float, down: float) -> Box:
    return Box(box.x0 * across, box.y0 * down, box.x1 * across, box.y1 * down)


def _in_original(
    id_: str, original: Picture, boxes: Sequence[Box], references: Sequence[Picture], analyzer: FaceAnalyzer
) -> list[Points]:  # fmt: skip
    """Places in px of the original; so are the boxes."""
    found = [face for face in analyzer.detect([original])[0] if face.score >= _SEEN]
    owner: dict[int, int] = {}
    if found:
        known = [find_reference_face(analyzer, reference).face for reference in references]
        people = analyzer.embed(_crops(references, known))
        there = analyzer.embed(np.stack([norm_crop(original, face.landmarks) for face in found]))
        owner = assignment(cosines(people, there))
    places = {who: found[face].landmarks.astype(np.float64) for who, face in owner.items()}
    left = [who for who in range(len(references)) if who not in places]
    free = [box for box in boxes if not any(_holds(box, points) for points in places.values())]
    if len(left) > len(free):
        what = f"its original shows {len(found)} faces for {len(references)} people"
        raise InputError(what, field=id_, remedy="Use --layout-from reference")
    places |= {who: upright_landmarks(box) for who, box in zip(left, free, strict=False)}
    return [places[who] for who in range(len(references))]


def _crops(pictures: Sequence[Picture], faces: Sequence[Face]) -> Picture:
    return np.stack([norm_crop(picture, face.landmarks) for picture, face in zip(pictures, faces, strict=True)])


def _holds(box: Box, points: Points) -> bool:
    x, y = points.mean(0)
    x0, y0, x1, y1 = box
    return bool(x0 <= x <= x1 and y0 <= y <= y1)


def _in_strips(
    references: Sequence[Picture], analyzer: FaceAnalyzer
) -> list[tuple[Points, tuple[float, float]]]:  # fmt: skip
    """Each reference, whole, in the middle of its strip: of n people the k-th has the k-th n-th of a square."""
    n, places = len(references), []
    for k, reference in enumerate(references):
        height, width = reference.shape[:2]
        points = find_reference_face(analyzer, reference).face.landmarks.astype(np.float64)
        scale = min(1 / n / width, 1 / height)
        at = np.array([(k + 0.5) / n - scale * width / 2, 0.5 - scale * height / 2])
        places.append((points * scale + at, (1.0, 1.0)))
    return places


def _written(data: bytes, stem: Path) -> str:
    """The reference as it came, under the ending its bytes say; what generate does not read is refused there."""
    ending = next((ending for start, ending in _ENDINGS.items() if data.startswith(start)), ".img")
    file = stem.with_name(stem.name + ending)
    if not (file.is_file() and file.read_bytes() == data):
        with committed(file) as out:
            out.write(data)
    return file.name
