"""report.html: what became of the photos, to look through offline. Numbers of all photos, pictures of a sample."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.errors import one_line
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.html import Histogram, Series, bars, histogram, render_page
from anyphoto_cli.types import Box, Points


@dataclass(frozen=True)
class Counts:
    """What the report says about all photos; plain numbers, any size of run.

    stages: in order, the first is all photos. reasons: (status "dropped" or "failed", reason, photos), most frequent
    first. widths: (label of a size, photos). people: (identified people of a kept photo, photos). scores: 40 bins
    from 0 to 1, match scores of matched faces. unmatched: the same of the best score of faces that matched nobody.
    threshold: of the match. identities: (name, kept photos, references), up to 200, most photos first.
    """

    stages: tuple[tuple[str, int], ...]
    reasons: tuple[tuple[str, str, int], ...]
    widths: tuple[tuple[str, int], ...]
    people: tuple[tuple[int, int], ...]
    scores: tuple[int, ...]
    unmatched: tuple[int, ...]
    threshold: float
    identities: tuple[tuple[str, int, int], ...]
    identities_in_all: int


@dataclass(frozen=True, eq=False)
class SheetFace:
    """A face on a contact sheet; px of the thumbnail. name: "" for nobody known. score: of the match."""

    box: Box
    landmarks: Points
    name: str
    score: float
    flags: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SheetPicture:
    """One entry of a contact sheet. status: kept, dropped or failed.

    jpeg: a thumbnail, longer side about 360 px; b"" when the photo is unreadable. width, height: of the thumbnail.
    """

    id: str
    status: str
    reason: str
    key: str
    jpeg: bytes
    width: int
    height: int
    persons: tuple[Box, ...]
    faces: tuple[SheetFace, ...]
    caption: str


def write_report(
    file: Path, title: str, facts: Sequence[tuple[str, str]], counts: Counts, pictures: Sequence[SheetPicture]
) -> None:
    """One page, about as large as its pictures; the same input gives the same bytes.

    Raises EnvironmentFault when jinja2 is missing or the disk refuses.
    """
    template = Path(__file__).with_suffix(".html.j2").read_text(encoding="utf-8")
    reasons = [(reason, count) for _, reason, count in counts.reasons]
    page = render_page(
        template, title, facts, counts=counts,
        stages=bars(counts.stages, whole=counts.stages[0][1] if counts.stages else 0),
        reasons=bars(reasons, badges=[status for status, _, _ in counts.reasons]),
        widths=bars(counts.widths), people=bars([(_people(n), count) for n, count in counts.people]),
        scores=_score_chart(counts), pictures=pictures, general=_general, drawn=draw, remarks=remarks, px=_px,
        choices=_choices(pictures), names=sorted({face.name for picture in pictures for face in picture.faces} - {""}),
    )  # fmt: skip
    with committed(file) as out:
        out.write(page)


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def _score_chart(counts: Counts) -> Histogram:
    matched = Series("matched faces", "first", counts.scores)
    unmatched = Series("best score of faces that matched nobody", "second", counts.unmatched)
    label = f"threshold {counts.threshold:g}"
    return histogram("Match scores", [unmatched, matched], 0.0, 1.0, counts.threshold, label)


def _general(reason: str) -> str:
    """Reasons that differ in a number or name another photo, as one: they are chosen from a short list."""
    if reason.startswith("repeats photo "):
        return "repeats another photo"
    return one_line(re.sub(r"\d+", "N", reason))


def _choices(pictures: Sequence[SheetPicture]) -> dict[str, list[tuple[str, int]]]:
    """What the filter offers: statuses and reasons among the pictures, most frequent first."""
    found = {
        "status": Counter(picture.status for picture in pictures),
        "reason": Counter(_general(picture.reason) for picture in pictures if picture.reason),
    }
    return {what: sorted(counter.items(), key=lambda entry: (-entry[1], entry[0])) for what, counter in found.items()}


# What is drawn over a picture.

_SHOWN_WIDTH, _SHOWN_HEIGHT = 320, 256
"""px: a picture stands on the page in about this room. Letters are sized for it, whatever the thumbnail's size."""
_LETTER, _LABEL_HEIGHT, _PADDING = 12.0, 18.0, 5.0
_LONGEST = 20
"""Letters of a name on a picture; all of it stands below, and in the tooltip."""


@dataclass(frozen=True)
class Label:
    """Name and score beside a face. x, y: the point of the plate next to the face, px of the thumbnail.

    The rest is counted from that point, so that a label which is drawn smaller stays beside its face. plate: behind
    the letters. text_x, text_y: where the letters begin, and their base line. text_width: of all of them. letter: size.
    """

    name: str
    score: str
    x: float
    y: float
    plate: Box
    text_x: float
    text_y: float
    text_width: float
    letter: float


@dataclass(frozen=True)
class DrawnFace:
    """One face of the overlay. told: all there is to say of it. dots: the landmarks as an SVG path of points."""

    look: str
    told: str
    box: Box
    dots: str
    label: Label


def draw(picture: SheetPicture) -> list[DrawnFace]:
    """Faces of a picture with their labels, which avoid each other and the faces where there is room."""
    unit = max(picture.width / _SHOWN_WIDTH, picture.height / _SHOWN_HEIGHT)
    boxes = np.array([face.box for face in picture.faces], np.float64).reshape(-1, 4)
    places: list[Box] = []
    drawn = []
    for face in picture.faces:
        name, score, width = _fitting(face, picture.width / unit - 2 * _PADDING)
        size = np.array([width + 2 * _PADDING, _LABEL_HEIGHT]) * unit
        place = _free_place(face.box, size, picture, boxes, np.array(places).reshape(-1, 4))
        places.append(place)
        label = _label(name, score, width, unit, place, face.box)
        told = (face.name or "unknown") + remarks(face)
        drawn.append(DrawnFace(_look(face), told, face.box, _dots(face.landmarks), label))
    return drawn


def _label(name: str, score: str, width: float, unit: float, place: Box, face: Box) -> Label:
    x = min(max((face.x0 + face.x1) / 2, place.x0), place.x1)
    if abs(place.x0 - face.x0) < unit:
        x = place.x0
    y = place.y1 if place.y0 + place.y1 < face.y0 + face.y1 else place.y0
    plate = Box(place.x0 - x, place.y0 - y, place.x1 - x, place.y1 - y)
    base_line = plate.y0 + 0.72 * plate.height
    return Label(name, score, x, y, plate, plate.x0 + _PADDING * unit, base_line, width * unit, _LETTER * unit)


def remarks(face: SheetFace) -> str:
    """What follows the name: score and flags, such as " 0.71 (blurred)"."""
    score = f" {face.score:.2f}" if face.name else ""
    return score + (f" ({', '.join(face.flags)})" if face.flags else "")


def _px(value: float) -> str:
    return f"{value:.1f}"


def _look(face: SheetFace) -> str:
    return ("known" if face.name else "unknown") + (" flagged" if face.flags else "")


def _dots(points: Points) -> str:
    """Lines of no length; their round ends are dots that keep their size when the picture grows."""
    return "".join(f"M{x + 0.5:.1f} {y + 0.5:.1f}h0" for x, y in points)


def _fitting(face: SheetFace, room: float) -> tuple[str, str, float]:
    """Name, cut where it must be, score, and the width of both, px at the letters' size."""
    score = f"{face.score:.2f}" if face.name else ""
    full = name = one_line(face.name) or "unknown"
    while len(name) > 1 and (len(name) > _LONGEST or _width(f"{name} {score}") > room):
        name = full[: len(name.removesuffix("…")) - 1] + "…"
    return name, score, _width(f"{name} {score}" if score else name)


def _width(text: str) -> float:
    """About what common fonts need; the drawn text is stretched to exactly this."""
    return sum(_letter_width(letter) for letter in text) * _LETTER


def _letter_width(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    if letter in "ijl.,:;'|!()[] ftr":
        return 0.33
    return 0.86 if letter in "mwMW…" else 0.68 if letter.isupper() else 0.57


def _free_place(
    face: Box, size: NDArray[np.float64], picture: SheetPicture, faces: NDArray[np.float64], taken: NDArray[np.float64]
) -> Box:
    """Where a label covers least: above the face, below it, or inside; always within the picture.

    size: [2] of the label. faces, taken: [n, 4] boxes of all faces and of the labels that stand already.
    """
    corners = np.array([
        (x, y)
        for y in (face.y0 - size[1], face.y1, face.y0, face.y1 - size[1])
        for x in (face.x0, face.x1 - size[0], (face.x0 + face.x1 - size[0]) / 2)
    ])  # fmt: skip
    room = np.maximum(np.array([picture.width, picture.height]) - size, 0)
    corners = np.clip(corners, 0, room)
    places = np.concatenate([corners, corners + size], axis=1)
    cost = 10 * _overlaps(places, taken) + _overlaps(places, faces)
    return Box(*map(float, places[int(cost.round(3).argmin())]))


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[Any]:
    """[n] area of each of the boxes a [n, 4] that boxes b [m, 4] cover, each counted."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    covered: NDArray[Any] = np.clip(high - low, 0, None).prod(2).sum(1)
    return covered
