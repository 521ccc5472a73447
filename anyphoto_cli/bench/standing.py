"""Runs and published rows as tables: `anyphoto bench table`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from anyphoto_cli.bench.measured import measured_by
from anyphoto_cli.bench.results import SCORES, SETTINGS, SUMMARY, read_summary
from anyphoto_cli.bench.rows import COLUMNS, SUBSET_NAMES, Counts, Row
from anyphoto_cli.bench.tables import published_rows
from anyphoto_cli.errors import InputError
from anyphoto_cli.runtime.run_record import read_record


def run_name(run: Path) -> str:
    """What tables call a run: its folder, or of a folder scores/ the one that it lies in."""
    return _home(run).name


def run_names(runs: Sequence[Path]) -> list[str]:
    """Of each; where several have one name, as much of their paths as tells them apart."""
    homes = [_home(run) for run in runs]
    return [_told_apart(home, [other for other in homes if other != home]) for home in homes]


def _home(run: Path) -> Path:
    folder = run.resolve()
    return folder.parent if folder.name == SCORES else folder


def _told_apart(home: Path, others: Sequence[Path]) -> str:
    ends = (home.parts[-count:] for count in range(1, len(home.parts) + 1))
    alone = (end for end in ends if all(other.parts[-len(end) :] != end for other in others))
    return "/".join(next(alone, home.parts))


def scores_of(run: Path) -> Path:
    """The folder of scores that a user means by a run."""
    return run / SCORES if not (run / SUMMARY).is_file() and (run / SCORES / SUMMARY).is_file() else run


def rows_for(subset: str, runs: Sequence[Path], filtered: bool, with_published: bool = True) -> list[Row]:
    """Published rows, then ours. filtered: the mean without outliers, as the reference evaluator prints it."""
    rows = published_rows(subset) if with_published else []
    for run, name in zip(map(scores_of, runs), run_names(runs), strict=True):
        summary, record = read_summary(run), read_record(run, SETTINGS)
        part = summary["subsets"].get(subset)
        if part is not None:
            key = "filtered_mean" if filtered else "mean"
            told = {column: part["metrics"][column] for column in COLUMNS}
            values = {column: told[column][key] for column in COLUMNS}
            intervals = {c: (t["low"], t["high"]) for c, t in told.items() if t["low"] is not None}
            lacking = summary.get("not_available", {})
            measured = measured_by(summary["face_models"], lacking, record)
            rows.append(Row(name, subset, values, intervals=intervals, counts=counts_of(part), measured=measured,
                            not_available=lacking, filtered=filtered))  # fmt: skip
    return rows


def counts_of(part: Mapping[str, Any]) -> Counts:
    """Of one part of a summary; an older version's lacks some."""
    told: dict[str, Any] = {one.name: part.get(one.name) for one in fields(Counts)}
    return Counts(**told)


def tables_for(
    runs: Sequence[Path], subsets: Sequence[str] = (), filtered: bool = True, with_published: bool = True
) -> dict[str, list[Row]]:  # fmt: skip
    """Subset -> rows. None named: those that any run has, or all without runs. Raises InputError where there would be
    no row.
    """
    if not subsets:
        there = [name for run in map(scores_of, runs) for name in read_summary(run)["subsets"] if name in SUBSET_NAMES]
        subsets = [name for name in SUBSET_NAMES if name in there or not runs]
    tables = {name: rows_for(name, runs, filtered, with_published) for name in subsets}
    if runs and not any(not row.published for rows in tables.values() for row in rows):
        told = " and ".join(subsets) or "p1, p2 or p3"
        raise InputError(f"holds no case of {told}", file=runs[0], remedy="Name another run, or no --subset")
    if not any(tables.values()):
        raise InputError("leaves no row to show", field="--no-published", remedy="Name a run")
    return tables
