"""Whether a picture shows whom it should, where it should: every face found, matched to the layout by place, compared.

What fails most in group pictures is told by name: somebody missing, unlike, off their place, swapped with another,
there twice, or nobody's. Paper 4.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.config.verify import VerifyConfig
from anyphoto_cli.faces.calibration import FEWEST, find_calibration
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.placement import at_their_places, exchanged
from anyphoto_cli.generate.conditions import Conditions
from anyphoto_cli.layout.schema import Layout
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Box, Embeddings, Face, Picture

State = Literal["good", "found", "unlike", "off", "swapped", "perhaps swapped", "twice", "missing"]
"""found: it is there, and no threshold says whether it is them. perhaps swapped: nor does one say so, yet two or more
would be far better off at each other's places. twice: another one, who stands at their own place as well.
"""
ANOTHER: tuple[State, ...] = ("swapped", "perhaps swapped", "twice")
"""Somebody else's face, named in `like`."""
FORMAT = 1
MISSING, SWAPPED, EXTRA, OFF = -1.0, 0.5, 0.25, 0.5
"""What they cost in `score`."""


@dataclass(frozen=True)
class FaceVerdict:
    """One person asked for. cosine: of the face at their place to their reference. off: of its middle, in heights of
    the face asked for. box: where it was found, px. like: whom it resembles instead.
    """

    name: str
    state: State
    cosine: float | None = None
    off: float | None = None
    box: Box | None = None
    like: str = ""


@dataclass(frozen=True)
class ExtraFace:
    """A face nobody asked for. twice: the person who stands at their own place as well, or ""."""

    box: Box
    twice: str = ""


@dataclass(frozen=True)
class Verdict:
    """Of one picture. threshold: the cosine that was asked for, None: none was known; threshold_from: who says so.

    score: see `score_of`; the higher the better. passed: None where nothing is wrong and likeness was not judged.
    """

    faces: tuple[FaceVerdict, ...]
    extra: tuple[ExtraFace, ...]
    threshold: float | None
    threshold_from: str
    face_pack: str
    face_pack_sha256: str
    score: float
    passed: bool | None

    def to_json(self) -> dict[str, Any]:
        """As it is written beside the picture: numbers rounded, what is empty left out."""
        return {"format": FORMAT, **{key: _plain(value) for key, value in asdict(self).items()}}

    def lines(self) -> list[str]:
        """For people: one a face."""
        return [*(_line(face) for face in self.faces), *(_extra_line(face) for face in self.extra)]


def threshold_for(analyzer: FaceAnalyzer, config: VerifyConfig) -> tuple[float | None, str]:
    """(cosine, who says so): what is asked for, else the pack's calibration; None: likeness is not judged."""
    if config.threshold is not None:
        return config.threshold, "as asked for"
    found = find_calibration(analyzer)
    if found is None:
        return None, f"{analyzer.name} is not calibrated: run anyphoto faces calibrate REFS"
    told = f"calibration of {found.pack} over {found.people} people"
    if not found.believed:
        few = f"fewer than {FEWEST} pairs of different people, too few to judge by"
        return None, f"{told} has {few}: run anyphoto faces calibrate REFS over more"
    return found.threshold, told


def verify_picture(
    picture: Picture, layout: Layout, conditions: Conditions, analyzer: FaceAnalyzer, config: VerifyConfig | None = None
) -> Verdict:
    """picture: [H, W, 3], of any size. conditions: the layout's people, embedded by the same pack."""
    config = config or VerifyConfig()
    threshold, told = threshold_for(analyzer, config)
    found = [face for face in analyzer.detect([picture])[0] if face.score >= config.least_score]
    rows = _embedded(picture, found, analyzer)
    similar = rows @ conditions.embeddings.T if len(found) else np.zeros((0, len(layout.faces)))
    scale = np.array([picture.shape[1] / layout.width, picture.shape[0] / layout.height])
    places = np.array([face.place * scale for face in layout.faces]).reshape(-1, 5, 2)
    points = np.array([face.landmarks for face in found]).reshape(-1, 5, 2)
    pairs = {place: (face, away) for face, place, away in at_their_places(points, places)}
    names = [face.name for face in layout.faces]
    judge = _Judge(names, similar, threshold, config.off_by, {place: face for place, (face, _) in pairs.items()})
    faces = tuple(
        judge.of(place, found, *pairs[place]) if place in pairs else FaceVerdict(name, "missing")
        for place, name in enumerate(names)
    )
    taken = {face for face, _ in pairs.values()}
    extra = tuple(judge.extra(k, face) for k, face in enumerate(found) if k not in taken)
    return Verdict(faces, extra, threshold, told, analyzer.name, analyzer.sha256, score_of(faces, extra),
                   _passed(faces, extra))  # fmt: skip


def _embedded(picture: Picture, found: Sequence[Face], analyzer: FaceAnalyzer) -> Embeddings:
    if not found:
        return np.zeros((0, 512), np.float32)
    return analyzer.embed(np.stack([norm_crop(picture, face.landmarks) for face in found]))


@dataclass(frozen=True, eq=False)
class _Judge:
    """similar: [found, asked] cosines. standing: place -> the face found there."""

    names: Sequence[str]
    similar: NDArray[Any]
    threshold: float | None
    off_by: float
    standing: Mapping[int, int]

    def of(self, place: int, found: Sequence[Face], face: int, away: float) -> FaceVerdict:
        """The verdict on the face found at a place."""
        cosine, like = float(self.similar[face, place]), self._like(place, face)
        state: State = "good"
        if like:
            state = "perhaps swapped" if self.threshold is None else "twice" if like in self._at_home else "swapped"
        elif away > self.off_by:
            state = "off"
        elif self.threshold is None:
            state = "found"
        elif cosine < self.threshold:
            state = "unlike"
        return FaceVerdict(self.names[place], state, cosine, away, found[face].box, like)

    def extra(self, number: int, face: Face) -> ExtraFace:
        """The verdict on a face at no place."""
        if not self.similar.shape[1]:
            return ExtraFace(face.box)
        who = int(self.similar[number].argmax())
        return ExtraFace(face.box, self.names[who] if self._is(number, who) else "")

    def _like(self, place: int, face: int) -> str:
        """The other person that a face is, or may be without a threshold; ""."""
        other = int(self.similar[face].argmax())
        if self.threshold is None:
            other = self._exchanged.get(place, place)
        elif not self._is(face, other):
            return ""
        return self.names[other] if self.names[other] != self.names[place] else ""

    @cached_property
    def _exchanged(self) -> dict[int, int]:
        """Place -> whose the face there may be."""
        places = list(self.standing)
        found = exchanged(self.similar[np.ix_([self.standing[place] for place in places], places)])
        return {places[here]: places[there] for here, there in found.items()}

    @cached_property
    def _at_home(self) -> set[str]:
        """Names of those who stand at a place of their own."""
        return {
            self.names[place] for place, face in self.standing.items()
            if self._is(face, place) and self.names[int(self.similar[face].argmax())] == self.names[place]
        }  # fmt: skip

    def _is(self, face: int, who: int) -> bool:
        return self.threshold is not None and bool(self.similar[face, who] >= self.threshold)


def score_of(faces: Sequence[FaceVerdict], extra: Sequence[ExtraFace]) -> float:
    """What `--best-of` compares: the mean over the people asked for of cosine - off / 2; somebody missing counts -1, a
    face that is another person's .5 less; minus a quarter for each face nobody asked for.
    """
    values = []
    for face in faces:
        if face.cosine is None or face.off is None:
            values.append(MISSING)
        else:
            values.append(face.cosine - OFF * face.off - (SWAPPED if face.state in ANOTHER else 0))
    return (float(np.mean(values)) if values else 0.0) - EXTRA * len(extra)


def _passed(faces: Sequence[FaceVerdict], extra: Sequence[ExtraFace]) -> bool | None:
    states = {face.state for face in faces}
    if extra or states - {"good", "found"}:
        return False
    return None if "found" in states else True


def _line(face: FaceVerdict) -> str:
    if face.cosine is None or face.off is None:
        return f"{face.name}: missing"
    where = f"cosine {face.cosine:.2f}, {face.off:.0%} of a face off"
    said = {"good": "good", "found": "found", "unlike": "unlike the reference", "off": "not at the place",
            "swapped": f"is {face.like}", "perhaps swapped": f"perhaps swapped, more like {face.like}",
            "twice": f"is {face.like} a second time", "missing": "missing"}[face.state]  # fmt: skip
    return f"{face.name}: {said}, {where}"


def _extra_line(face: ExtraFace) -> str:
    x0, y0, x1, y1 = (round(value) for value in face.box)
    return f"{face.twice} a second time at {x0},{y0} - {x1},{y1}" if face.twice else (
        f"a face nobody asked for at {x0},{y0} - {x1},{y1}"
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items() if entry not in (None, "")}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
