"""What tables, charts and reports show: columns, their names, and a system on a subset as a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anyphoto_cli.bench.measured import Measured

COLUMNS = ("sim_gt", "sim_ref", "copy_paste", "blending", "clip_i", "clip_t", "aesthetic")
TITLES = {
    "sim_gt": "Sim(GT)", "sim_ref": "Sim(Ref)", "copy_paste": "CP", "blending": "Bld", "clip_i": "CLIP-I",
    "clip_t": "CLIP-T", "aesthetic": "Aes",
}  # fmt: skip
LOWER_IS_BETTER = frozenset({"copy_paste", "blending"})
SUBSET_NAMES = {"p1": "one person", "p2": "two people", "p3": "three and four people"}


@dataclass(frozen=True)
class Counts:
    """What a row's means are of, as a summary has it: cases scored, of those asked for; None: not known, as of what
    summaries of older versions lack.

    found: faces in the results as a share of the `people` asked for in all cases. coverage: at their places, of the
    `expected_faces`, people whose places are known. place_error: of those, in face heights. The rest are faces.
    """

    scored: int
    cases: int
    found: float | None = None
    people: int | None = None
    coverage: float | None = None
    expected_faces: int | None = None
    place_error: float | None = None
    swapped: int | None = None
    strangers: int | None = None
    duplicates: int | None = None
    extra_faces: int | None = None


@dataclass(frozen=True)
class Row:
    """One system on one subset. values: by COLUMNS; None or missing: not known.

    Of ours: intervals, (low, high) of the plain means, by column; counts; measured, by what (None: as the published
    rows); not_available, what is n/a and why. filtered: whether the values are means without outliers.
    """

    system: str
    subset: str
    values: Mapping[str, float | None]
    published: bool = False
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    counts: Counts | None = None
    measured: Measured | None = None
    not_available: Mapping[str, str] = field(default_factory=dict)
    filtered: bool = True
