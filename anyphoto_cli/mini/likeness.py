"""Who stands in pictures of the small world, and where: each face asked for, against its reference and its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.results import Results
from anyphoto_cli.bench.sources import FileSource, picture_of
from anyphoto_cli.bench.statistics import interval_over_cases
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.placement import at_their_places
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.mini.probe import read_scene_and_style
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Embeddings, Face, Picture

NEAR = 0.1
"""Of the height of the face asked for: how far its middle may lie from its place."""


@dataclass(frozen=True, eq=False)
class Bank:
    """Everybody who could be meant. names: [n]; embeddings: [n, 512], of one portrait each."""

    names: tuple[str, ...]
    embeddings: Embeddings

    def place_of(self, name: str) -> int:
        """Its row."""
        return self.names.index(name)


@dataclass(frozen=True, eq=False)
class Asked:
    """One face asked for and what was found at its place. people: asked for in its picture. own: its row in the bank.

    similar: [n] cosines to everybody in the bank, None where no face was found. away: of its middle from its place, in
    heights of the face asked for. beside: rows of all people asked for in the picture. style: the picture's as asked,
    read, and read off the face alone.
    """

    people: int
    own: int
    beside: tuple[int, ...]
    similar: NDArray[np.float32] | None = None
    away: float = float("inf")
    style: tuple[str, str, str] = ("", "", "")


def open_bank(refs: Path, analyzer: FaceAnalyzer) -> Bank:
    """The first portrait of everybody in `refs`/NAME/."""
    folders = sorted(folder for folder in refs.iterdir() if folder.is_dir())
    rows = []
    for folder in folders:
        picture = read_picture(next(iter(sorted(folder.iterdir()))))
        face = max(analyzer.detect([picture])[0], key=lambda one: one.box.area)
        rows.append(analyzer.embed(norm_crop(picture, face.landmarks)[None])[0])
    return Bank(tuple(folder.name for folder in folders), np.stack(rows))


def look(
    case: Case, pictures: Path | None, bank: Bank, analyzer: FaceAnalyzer, style: str = "photo"
) -> list[Asked]:  # fmt: skip
    """Every face that a case asks for. pictures: a folder as `bench run` makes it; None: the case's own original."""
    source = Results(pictures).of(case) if pictures is not None else case.gt
    rows = tuple(bank.place_of(_name_of(case, k)) for k in range(case.people))
    if source is None:
        return [Asked(case.people, own, rows, style=(style, "", "")) for own in rows]
    picture = picture_of(source)
    faces = analyzer.detect([picture])[0]
    found = np.stack([face.landmarks for face in faces]) if faces else np.zeros((0, 5, 2))
    pairs = {place: (face, away) for face, place, away in at_their_places(found, np.array(case.landmarks, np.float64))}
    read, asked = read_scene_and_style([picture])[0][1], []
    for place, own in enumerate(rows):
        if place not in pairs:
            asked.append(Asked(case.people, own, rows, style=(style, read, "")))
            continue
        face, away = faces[pairs[place][0]], pairs[place][1]
        similar = bank.embeddings @ analyzer.embed(norm_crop(picture, face.landmarks)[None])[0]
        asked.append(Asked(case.people, own, rows, similar, away, (style, read, _style_of(picture, face))))
    return asked


def _name_of(case: Case, k: int) -> str:
    source = case.references[k]
    assert isinstance(source, FileSource)
    return source.file.stem


def _style_of(picture: Picture, face: Face) -> str:
    """As the probe reads it off the face alone."""
    x0, y0, x1, y1 = (round(value) for value in face.box)
    part = picture[max(y0, 0) : max(y1, 8), max(x0, 0) : max(x1, 8)]
    return read_scene_and_style([part])[0][1] if part.size else ""


def summed_up(pictures: Sequence[Sequence[Asked]]) -> dict[str, Any]:
    """Of the faces asked for, picture by picture. Shares of all of them, but `cosine`, `away` and `swapped`, which are
    of those found.

    impostor_p99: of a found face's cosines to everybody else in the bank; above: share whose cosine to their own
    reference is higher. near: middle within NEAR of the place. rank_1: nearest to their own of all references in the
    bank. swapped: nearer to another of the people asked for in their picture. style, face_style: read as asked for.
    ranges: of each share (low, high), a 95 % interval over pictures, the p99 taken as it is.
    """
    asked = [one for picture in pictures for one in picture]
    found = [one for one in asked if one.similar is not None]
    p99 = float(np.quantile(np.concatenate([_others(one) for one in found]), 0.99)) if found else float("nan")
    looks: dict[str, Callable[[Asked], float | None]] = {
        "found": lambda one: one.similar is not None,
        "above": lambda one: one.similar is not None and _own(one) > p99,
        "near": lambda one: one.away <= NEAR,
        "rank_1": lambda one: one.similar is not None and int(one.similar.argmax()) == one.own,
        "swapped": lambda one: _swapped(one) if one.similar is not None and one.people > 1 else None,
        "style": lambda one: one.style[0] == one.style[1],
        "face_style": lambda one: one.style[0] == one.style[2],
    }
    told = {name: [[look(one) for one in picture] for picture in pictures] for name, look in looks.items()}
    return {
        "pictures": len(pictures), "faces": len(asked), "impostor_p99": p99,
        "cosine": float(np.mean([_own(one) for one in found])) if found else float("nan"),
        "away": float(np.mean([one.away for one in found])) if found else float("nan"),
        **{name: _share(values) for name, values in told.items()},
        "ranges": {name: interval_over_cases(values) for name, values in told.items()},
    }  # fmt: skip


def _share(told: Sequence[Sequence[float | None]]) -> float:
    """Of those of whom it can be told; 0 where there is nobody."""
    known = [value for picture in told for value in picture if value is not None]
    return sum(known) / max(len(known), 1)


def _similar(one: Asked) -> NDArray[np.float32]:
    assert one.similar is not None
    return one.similar


def _own(one: Asked) -> float:
    return float(_similar(one)[one.own])


def _others(one: Asked) -> NDArray[np.float32]:
    return np.delete(_similar(one), one.own)


def _swapped(one: Asked) -> bool:
    return max(one.beside, key=lambda row: float(_similar(one)[row])) != one.own
