"""Runs and published rows as tables: `anyphoto bench table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anyphoto_cli.bench.results import RUN, SCORES, SUMMARY, read_summary
from anyphoto_cli.bench.tables import COLUMNS, SUBSET_NAMES, Row, published_rows


def run_name(run: Path) -> str:
    """What tables call a run: its folder, or of scores/ in the folder of `bench run` that one."""
    home = run.resolve()
    return home.parent.name if home.name == SCORES and (home.parent / RUN).is_file() else home.name


def scores_of(run: Path) -> Path:
    """The folder of scores that a user means by a run."""
    return run / SCORES if not (run / SUMMARY).is_file() and (run / SCORES / SUMMARY).is_file() else run


def rows_for(subset: str, runs: Sequence[Path], filtered: bool, with_published: bool = True) -> list[Row]:
    """Published rows, then ours. filtered: the mean without outliers, as the reference evaluator prints it."""
    rows = published_rows(subset) if with_published else []
    for run in map(scores_of, runs):
        summary = read_summary(run)
        part = summary["subsets"].get(subset)
        if part is not None:
            key = "filtered_mean" if filtered else "mean"
            values = {column: part["metrics"][column][key] for column in COLUMNS}
            models = ", ".join(summary["face_models"])
            note = f"{part['scored']} of {part['cases']} cases, coverage {part['coverage']}, faces by {models}"
            rows.append(Row(run_name(run), subset, values, note=note))
    return rows


def tables_for(
    runs: Sequence[Path], subsets: Sequence[str] = (), filtered: bool = True, with_published: bool = True
) -> dict[str, list[Row]]:  # fmt: skip
    """Subset -> rows. None named: those that any run has, or all without runs."""
    if not subsets:
        there = [name for run in map(scores_of, runs) for name in read_summary(run)["subsets"] if name in SUBSET_NAMES]
        subsets = [name for name in SUBSET_NAMES if name in there or not runs]
    return {name: rows_for(name, runs, filtered, with_published) for name in subsets}
