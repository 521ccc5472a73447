"""Runs and published rows as tables: `anyphoto bench table`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from anyphoto_cli.bench.results import SCORES, SUMMARY, read_summary
from anyphoto_cli.bench.tables import COLUMNS, SUBSET_NAMES, Counts, Row, published_rows
from anyphoto_cli.config.bench import PROTOCOLS
from anyphoto_cli.errors import InputError


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
        summary = read_summary(run)
        part = summary["subsets"].get(subset)
        if part is not None:
            key = "filtered_mean" if filtered else "mean"
            told = {column: part["metrics"][column] for column in COLUMNS}
            values = {column: told[column][key] for column in COLUMNS}
            intervals = {c: (t["low"], t["high"]) for c, t in told.items() if t["low"] is not None}
            models = ", ".join(summary["face_models"])
            note = f"{part['scored']} of {part['cases']} cases, coverage {part['coverage']}, faces by {models}"
            counts = counts_of(part)
            apart = _why_apart(summary["face_models"])
            rows.append(Row(name, subset, values, note=note, intervals=intervals, counts=counts, apart=apart))
    return rows


def counts_of(part: Mapping[str, Any]) -> Counts:
    """Of one part of a summary; an older version's has no `people` and `found`."""
    return Counts(
        part["scored"], part["cases"], part.get("found"), part.get("people"), part["coverage"], part["expected_faces"]
    )  # fmt: skip


def _why_apart(face_models: Iterable[str]) -> str:
    """A face model's cosines are its own: likeness that another one saw is not more or less than published likeness."""
    theirs = cast(tuple[str, ...], PROTOCOLS["withanyone"]["face_packs"])
    if set(face_models) == set(theirs):
        return ""
    return f"judged by {', '.join(face_models)}, published rows by {', '.join(theirs)}: not ranked with them"


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
