"""What became of every photo: report.jsonl, the numbers of report.html, and the shards' card."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.bank import read_identity, read_index
from anyphoto_cli.data.sources import PhotoInput
from anyphoto_cli.files.commit import committed
from anyphoto_cli.preprocess.exclusions import REASONS
from anyphoto_cli.preprocess.loading import Unreadable, load_photo
from anyphoto_cli.preprocess.packing import as_jpeg, key_of
from anyphoto_cli.preprocess.report import Counts, SheetFace, SheetPicture, write_report
from anyphoto_cli.preprocess.selection import Selection, ShardPlan
from anyphoto_cli.preprocess.work import PhotoList, Row, Work
from anyphoto_cli.types import Box

_BINS = 40
_SHEET = {"kept": 96, "dropped": 48, "failed": 24}
"""Pictures of each kind on the contact sheets, at equal steps through all of them."""
_THUMB = 360


@dataclass(frozen=True, eq=False)
class Outcome:
    """One photo at the end. status: kept, dropped or failed; reason: why, or "". shard: its name, or ""."""

    number: int
    photo: PhotoInput
    status: str
    reason: str
    shard: str
    detected: Row
    matched: Row
    captioned: Row

    def to_json(self) -> dict[str, Any]:
        """One line of report.jsonl; neither names nor caption of a photo that must not be in the data."""
        told = self.reason not in REASONS
        matches = [match for match in self.matched.get("matches", ()) if match and told]
        return {
            "id": self.photo.id, "status": self.status, "reason": self.reason,
            "key": key_of(self.number) if self.status == "kept" else "", "shard": self.shard,
            "width": self.detected.get("width", 0), "height": self.detected.get("height", 0),
            "persons": len(self.detected.get("persons", ())), "faces": len(self.detected.get("faces", ())),
            "identities": [match[0] for match in matches], "scores": [round(match[1], 4) for match in matches],
            "caption": self.captioned.get("text", "") if told else "",
        }  # fmt: skip


def outcomes(
    photos: PhotoList, work: Work, selection: Selection, plan: ShardPlan, shards: Sequence[str]
) -> Iterator[Outcome]:
    """Every photo in the list's order, exactly once. shards: their names."""
    for chunk in range(len(photos)):
        parts = [work.read(stage, chunk)[0] for stage in ("detect", "match", "caption")]
        listed = photos.photos(chunk)
        for place, number in enumerate(photos.numbers(chunk)):
            detected, matched, captioned = (part[place] for part in parts)
            status, reason = _verdict(number, detected, matched, captioned, selection, photos)
            shard = plan.shard_of(number)
            yield Outcome(
                number, listed[place], status, reason, shards[shard] if shard >= 0 else "", detected, matched, captioned
            )


def _verdict(
    number: int, detected: Row, matched: Row, captioned: Row, selection: Selection, photos: PhotoList
) -> tuple[str, str]:
    if detected["problem"]:
        return "failed", detected["problem"]
    if matched["reason"]:
        return "dropped", matched["reason"]
    if selection.twin[number] >= 0:
        return "dropped", f"repeats photo {photos.photo(int(selection.twin[number])).id}"
    if captioned["problem"]:
        return "failed", f"caption: {captioned['problem']}"
    return "kept", ""


@dataclass
class Tally:
    """What is counted while the outcomes go by."""

    photos: int = 0
    readable: int = 0
    faces: int = 0
    known: int = 0
    kept: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    people: Counter[int] = field(default_factory=Counter)
    identities: Counter[str] = field(default_factory=Counter)
    scores: Any = field(default_factory=lambda: np.zeros(_BINS, int))
    unmatched: Any = field(default_factory=lambda: np.zeros(_BINS, int))
    # Those that the page may show.
    numbers: dict[str, array[int]] = field(default_factory=lambda: {status: array("q") for status in _SHEET})

    @property
    def failed(self) -> int:
        """Photos that could not be used for a reason of their own or of a server."""
        return sum(count for (status, _), count in self.reasons.items() if status == "failed")

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        seen, matches = outcome.detected, outcome.matched.get("matches", ())
        self.photos += 1
        if outcome.reason not in REASONS:
            self.numbers[outcome.status].append(outcome.number)
        if outcome.status != "kept":
            self.reasons[outcome.status, _general(outcome.reason)] += 1
        if seen["problem"]:
            return
        self.readable += 1
        self.faces += bool(seen["faces"])
        self.known += any(matches)
        self.sides[max(seen["width"], seen["height"]).bit_length() - 1] += 1
        for match in filter(None, matches):
            self.scores[_bin(match[1])] += 1
        for best in outcome.matched.get("best", ()):
            self.unmatched[_bin(best)] += 1
        if outcome.status == "kept":
            self.kept += 1
            names = [matches[place][0] for place in outcome.matched["usable"]]
            self.people[len(names)] += 1
            self.identities.update(names)


def _bin(score: float) -> int:
    return min(max(int(score * _BINS), 0), _BINS - 1)


def _general(reason: str) -> str:
    """Reasons that name another photo or a size are counted as one."""
    if reason.startswith("repeats photo"):
        return "repeats another photo"
    return "".join("N" if character.isdigit() else character for character in reason)


def write_outcomes(file: Path, found: Iterator[Outcome]) -> Tally:
    """report.jsonl, one line a photo, and what there is to count."""
    tally = Tally()
    with committed(file) as out:
        for outcome in found:
            tally.add(outcome)
            out.write((json.dumps(outcome.to_json(), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    return tally


def counts_of(tally: Tally, bank: Path, config: PreprocessConfig) -> Counts:
    """The report's numbers."""
    references = _references(bank)
    stages = (
        ("Photos", tally.photos), ("Readable", tally.readable), ("With faces", tally.faces),
        ("With known persons", tally.known), ("Kept", tally.kept),
    )  # fmt: skip
    names = sorted({*references, *tally.identities}, key=lambda name: (-tally.identities[name], name))
    return Counts(
        stages=stages,
        reasons=tuple((status, reason, count) for (status, reason), count in most_first(tally.reasons)),
        widths=tuple((f"{2**k}-{2 ** (k + 1) - 1} px", count) for k, count in sorted(tally.sides.items())),
        people=tuple(sorted(tally.people.items())), scores=tuple(tally.scores.tolist()),
        unmatched=tuple(tally.unmatched.tolist()), threshold=config.match_threshold,
        identities=tuple((name, tally.identities[name], references.get(name, 0)) for name in names[:200]),
        identities_in_all=len(names),
    )  # fmt: skip


def most_first(counter: Counter[Any]) -> list[tuple[Any, int]]:
    """The commonest first; equal counts in the order of what is counted."""
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))


def _references(bank: Path) -> dict[str, int]:
    if not (bank / "identities.json").is_file():
        return {}
    return {name: len(read_identity(file, with_patches=False).sources) for name, file in read_index(bank)[0].items()}


def write_page(
    file: Path,
    facts: list[tuple[str, str]],
    tally: Tally,
    photos: PhotoList,
    work: Work,
    selection: Selection,
    bank: Path,
    config: PreprocessConfig,
) -> None:
    """report.html with a sample of every kind."""
    numbers = sorted(n for status, most in _SHEET.items() for n in _steps(tally.numbers[status], most))
    pictures = [_picture(number, photos, work, selection, config) for number in numbers]
    write_report(file, "anyphoto preprocess", facts, counts_of(tally, bank, config), pictures)


def _steps(numbers: Sequence[int], most: int) -> Sequence[int]:
    if len(numbers) <= most:
        return numbers
    return [numbers[k * len(numbers) // most] for k in range(most)]


def _picture(
    number: int, photos: PhotoList, work: Work, selection: Selection, config: PreprocessConfig
) -> SheetPicture:
    chunk, place = divmod(number, photos.chunk)
    photo = photos.photo(number)
    detected, matched, captioned = (work.read(stage, chunk)[0][place] for stage in ("detect", "match", "caption"))
    status, reason = _verdict(number, detected, matched, captioned, selection, photos)
    loaded = load_photo(photo, _THUMB)
    if isinstance(loaded, Unreadable) or "width" not in detected:
        return SheetPicture(photo.id, status, reason, "", b"", 0, 0, (), (), "")
    height, width = loaded.pixels.shape[:2]
    scale = np.array([width / detected["width"], height / detected["height"]])
    return SheetPicture(
        photo.id, status, reason, key_of(number) if status == "kept" else "", as_jpeg(loaded.pixels, 80), width, height,
        tuple(_shrunk(person["box"], scale) for person in detected["persons"]),
        tuple(_face(face, match, scale) for face, match in zip(detected["faces"], matched["matches"], strict=True)),
        captioned["text"],
    )  # fmt: skip


def _shrunk(box: list[float], scale: Any) -> Box:
    return Box(*map(float, np.array(box) * np.tile(scale, 2)))


def _face(face: Row, match: Any, scale: Any) -> SheetFace:
    name, score = (match[0], match[1]) if match else ("", 0.0)
    return SheetFace(
        _shrunk(face["box"], scale), np.array(face["landmarks"]) * scale, name, score, tuple(face["flags"])
    )  # fmt: skip
