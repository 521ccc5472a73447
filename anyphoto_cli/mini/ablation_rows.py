"""What the ablation measured: its rows' scores, kept in a small file, so that another machine can add seeds to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.bench.results import SCORES, SUMMARY, all_lines
from anyphoto_cli.bench.statistics import interval
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.train.plots import METRICS as METRICS_FILE

METRICS = {"sim_gt": "Sim(GT)", "sim_ref": "Sim(Ref)", "copy_paste": "CP"}
Table = dict[tuple[str, str], "Scores"]
"""(name of a row and its seed, end of the set's names) -> its scores."""


@dataclass(frozen=True)
class Scores:
    """One row of one seed on one set. cases: metric -> a value a case, None where it has none. expected, found: people
    asked for, and those at their places. off: their mean error, face heights; None without any. swapped: of those
    found. minutes: of training; None where there was none. day: of the scoring.
    """

    cases: Mapping[str, Sequence[float | None]]
    expected: int
    found: int
    off: float | None
    swapped: int
    minutes: float | None
    day: str


@dataclass(frozen=True)
class Measured:
    """One row over its seeds. cases: metric -> [cases] means over seeds, nan where a case has none. found: share of
    the people found at their places. off: mean error there, face heights. swapped: share of those found. minutes: of
    training, of the seed with the fewest (others had more work beside them); nan where there was none.
    """

    label: str
    seeds: int
    cases: Mapping[str, NDArray[np.float64]]
    found: float
    off: float
    swapped: float
    minutes: float


def read_scores(folder: Path, name: str, end: str, samples: int) -> Scores | None:
    """Of `folder`/rowsEND/NAME, as `bench run` left it; None where it is not through. samples: of a training step."""
    scored = scores_of(folder, name, end)
    if not (scored / SUMMARY).is_file():  # the lines come one by one: a part of them must not be kept as the whole
        return None
    lines = all_lines(scored)
    legs = [next(iter(line["legs"].values())) if line["status"] == "scored" else {} for line in lines]
    placed = [line["placement"] for line in lines if line.get("placement")]
    errors = [one["error"] for one in placed if one["error"] is not None]
    return Scores(
        {metric: [_rounded(leg.get(metric)) for leg in legs] for metric in METRICS},
        sum(one["expected"] for one in placed), sum(one["placed"] for one in placed),
        _rounded(float(np.mean(errors))) if errors else None, sum(one["swapped"] for one in placed),
        _minutes(folder / "runs" / name / METRICS_FILE, samples), str(datetime.now(UTC).date()),
    )  # fmt: skip


def scores_of(folder: Path, name: str, end: str) -> Path:
    """Where `bench run` puts a row's scores."""
    return folder / f"rows{end}" / name / SCORES


def seeded(row: str, seed: int) -> str:
    """What a row of one seed is called."""
    return f"{row}-{seed}"


def sibling(name: str, row: str) -> str:
    """Another row of the same seed."""
    return seeded(row, int(name.rpartition("-")[2]))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _minutes(file: Path, samples: int) -> float | None:
    """That training took, all pieces of the run; None where it is not known."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    steps = np.diff([0, *(line["step"] for line in lines)])
    seconds = sum(samples * int(n) / line["samples_per_s"] for n, line in zip(steps, lines, strict=True))
    return round(float(seconds) / 60, 2) or None


def read_kept(file: Path) -> tuple[dict[str, Any], Table]:
    """(how the rows were made, they), as `write_kept` wrote them; ({}, {}) where there is no file.

    Raises InputError for a file of another form.
    """
    if not file.is_file():
        return {}, {}
    try:
        how, *lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        made = {name: how[name] for name in ("steps", "samples")} | how
        table = {(line.pop("row"), line.pop("set")): Scores(**line) for line in lines}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"holds no rows of an ablation ({type(error).__name__})", file=file,
                         remedy="Remove it to measure all of them anew, or name another --page") from error  # fmt: skip
    return made, table


def write_kept(file: Path, made: Mapping[str, Any], table: Table) -> None:
    """A line for how they were made, then one a row, in the order of their names."""
    rows = [{"row": name, "set": end, **asdict(scores)} for (name, end), scores in sorted(table.items())]
    with committed(file) as out:
        out.write("".join(json.dumps(line, sort_keys=True) + "\n" for line in [dict(made), *rows]).encode())


def measured(table: Table, label: str, names: Sequence[str], end: str = "") -> Measured | None:
    """A row over those of its `names` (one a seed) that there are; None without any."""
    runs = [table[name, end] for name in names if (name, end) in table]
    if not runs:
        return None
    found, expected = sum(one.found for one in runs), sum(one.expected for one in runs)
    minutes = [one.minutes for one in runs if one.minutes is not None]
    return Measured(
        label, len(runs), {metric: _per_case([one.cases[metric] for one in runs]) for metric in METRICS},
        found / max(expected, 1), _mean([one.off for one in runs], [one.found for one in runs]),
        sum(one.swapped for one in runs) / max(found, 1), min(minutes, default=np.nan),
    )  # fmt: skip


def _mean(values: Sequence[float | None], weights: Sequence[int]) -> float:
    """Of those that are known; nan where none is."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None and weight]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else np.nan


def _per_case(runs: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """[cases]: each case's mean over the seeds in which it has a value."""
    values = np.array([[np.nan if value is None else value for value in run] for run in runs], np.float64)
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(0)
    means: NDArray[np.float64] = np.divide(sums, known.sum(0), out=np.full(sums.shape, np.nan), where=known.any(0))
    return means


def difference(less: NDArray[np.float64], more: NDArray[np.float64]) -> tuple[float, float, float, int]:
    """(mean of more - less, its 95 % interval, cases): paired, over cases that both have."""
    both = np.isfinite(less) & np.isfinite(more)
    gaps = (more - less)[both]
    low, high = interval(gaps.tolist())
    return (float(gaps.mean()) if len(gaps) else np.nan), low, high, len(gaps)


def verdict(gap: tuple[float, float, float, int]) -> str:
    """holds: the interval lies above 0; reversed: below; open: it holds 0."""
    _, low, high, count = gap
    if not count or not np.isfinite(low):
        return "not measured"
    return "holds" if low > 0 else "**reversed**" if high < 0 else "open"
