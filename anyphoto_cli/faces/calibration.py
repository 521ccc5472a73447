"""From which cosine on two faces are one person's: a number of its own for every recogniser, measured, never assumed.

Measured over a bank of known people and stored with the pack's name and hash: below $ANYPHOTO_HOME, or beside the
models of a pack that brings its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anyphoto_cli.config.home import anyphoto_home
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.pair_cosines import HighEnd, of_different, of_one
from anyphoto_cli.files.commit import committed
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Embeddings

FILE = "calibration.json"
STRANGERS = 0.99
"""Of a hundred pairs of different people, one lies above the threshold."""
FEWEST = 100
"""Pairs of different people below which that one in a hundred is a guess, and nobody is judged by it."""


class Calibration(BaseModel):
    """A pack's measure. Cosines; `same` is None where nobody has two photos."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pack: str
    sha256: str
    threshold: float = Field(ge=-1, le=1, description="From here on two faces are taken for one person's.")
    people: int
    photos: int
    same_pairs: int
    same_mean: float | None
    same_p05: float | None
    different_pairs: int
    different_mean: float
    different_max: float
    false_reject: float | None = Field(description="Share of one person's pairs below the threshold.")
    forced: bool = Field(default=False, description="Believed by request, however few the pairs.")

    @property
    def believed(self) -> bool:
        """Whether there are pairs enough to judge people by; those of one person say nothing of the threshold."""
        return self.forced or self.different_pairs >= FEWEST


def calibrated(embeddings: Mapping[str, Embeddings], pack: str, sha256: str) -> Calibration:
    """embeddings: name -> [n, 512] of one person's photos. The threshold is the 99th percentile of different people.

    Raises InputError with fewer than two people.
    """
    names = [name for name, rows in embeddings.items() if len(rows)]
    if len(names) < 2:
        raise InputError(f"shows {len(names)} people with a face", field="REFS", remedy="Two are needed, 15 are better")
    rows = [embeddings[name] for name in names]
    counts = [len(one) for one in rows]
    alike, pairs = sum(map(_pairs, counts)), _pairs(sum(counts))
    different, same = HighEnd(pairs - alike, STRANGERS), HighEnd(alike, 0.95)
    for cosines in of_different(np.concatenate(rows), np.repeat(np.arange(len(rows)), counts)):
        different.add(cosines)
    for cosines in chain.from_iterable(map(of_one, rows)):
        same.add(-cosines)  # it is their low end that is told
    threshold = round(different.quantile, 4)
    below = sum(int((cosines < threshold).sum()) for cosines in chain.from_iterable(map(of_one, rows)))
    return Calibration(
        pack=pack, sha256=sha256, threshold=threshold, people=len(rows), photos=sum(counts), same_pairs=alike,
        same_mean=round(-same.mean, 4) if alike else None, same_p05=round(-same.quantile, 4) if alike else None,
        different_pairs=different.count, different_mean=round(different.mean, 4),
        different_max=round(different.maximum, 4), false_reject=round(below / alike, 4) if alike else None,
    )  # fmt: skip


def most_alike(embeddings: Mapping[str, Embeddings]) -> tuple[str, str, float]:
    """(a name, another, the highest cosine between a photo of each). embeddings: of two people or more."""
    names = [name for name, rows in embeddings.items() if len(rows)]
    cosine, one, other = max(
        (float((embeddings[one] @ embeddings[other].T).max()), one, other)
        for place, one in enumerate(names) for other in names[place + 1 :]
    )  # fmt: skip
    return one, other, cosine


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def calibration_file(analyzer: FaceAnalyzer) -> Path:
    """Where this machine keeps a pack's."""
    return anyphoto_home() / "calibrations" / f"{Path(analyzer.name).name}-{analyzer.sha256[:12]}.json"


def write_calibration(calibration: Calibration, file: Path) -> None:
    """One JSON document."""
    with committed(file) as out:
        out.write(calibration.model_dump_json(indent=2).encode() + b"\n")


def find_calibration(analyzer: FaceAnalyzer) -> Calibration | None:
    """This machine's own, else the one that came with the pack; None where there is none for these very models.

    Raises InputError for a damaged file.
    """
    folder = getattr(analyzer, "folder", None)
    for file in (calibration_file(analyzer), *([Path(folder) / FILE] if folder else [])):
        if file.is_file() and (found := _read(file)).sha256 == analyzer.sha256:
            return found
    return None


def _read(file: Path) -> Calibration:
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
        return Calibration.model_validate(value)
    except (ValidationError, ValueError) as error:
        remedy = "Run: anyphoto faces calibrate REFS"
        raise InputError(f"is damaged ({type(error).__name__})", file=file, remedy=remedy) from error
