"""Runs side by side: each combination of a sweep trained in turn, and one table of what came out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.sweep import SweepConfig
from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.train.loop import ADAPTER_FOLDER
from anyphoto_cli.train.loop import run as train
from anyphoto_cli.train.plots import read_metrics

TABLE = "sweep.csv"
MEASURES = ("flow", "face", "cosine", "validation_found", "validation_cosine", "validation_error")
LAST = 5
"""Training measures are means of so many last lines: one line is mostly chance."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep. changes: the keys it differs in. finished: its adapter is there."""

    name: str
    changes: dict[str, Any]
    config: TrainConfig

    @property
    def finished(self) -> bool:
        """Whether its adapter is there."""
        return (Path(self.config.output_dir) / ADAPTER_FOLDER / "anyphoto.json").is_file()


def plan(file: Path, settings: Sequence[str] = ()) -> list[Planned]:
    """All runs of a sweep file, every configuration checked before any is trained. Raises InputError by key."""
    sweep = load_config(SweepConfig, file)
    common, runs = file.parent / sweep.config, []
    for name, changes in sweep.runs():
        folder = str(Path(sweep.output_dir) / name)
        try:
            config = load_config(TrainConfig, common, {**changes, "output_dir": folder}, settings)
        except InputError as error:
            raise error.at(file=file, field=f"vary ({name})") from error
        runs.append(Planned(name, changes, config))
    return runs


def shared(runs: Sequence[Planned], part: str | None) -> list[Planned]:
    """The i-th of n parts, "i/n" from 1: every n-th run, for as many jobs. None: all. Raises InputError."""
    if part is None:
        return list(runs)
    first, _, count = part.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise InputError(f"{part!r} is no part", field="--only", remedy="Give i/n, as in 2/8")
    return list(runs[int(first) - 1 :: int(count)])


def sweep(
    runs: Sequence[Planned], listener: Listener | None = None, stop: Callable[[], bool] | None = None
) -> list[Planned]:
    """Train in turn; finished runs are passed over, begun ones go on. Returns those that are finished now.

    Stops after the run under way has stopped. Raises as `train`.
    """
    listener, stop = listener or Listener(), stop or (lambda: False)
    for number, planned in enumerate(runs, 1):
        if planned.finished:
            listener.notice(f"{planned.name}: finished before")
            continue
        listener.stage(f"Run {number} of {len(runs)}: {planned.name}")
        if not train(planned.config, listener=listener, stop=stop).finished:
            break
    return [planned for planned in runs if planned.finished]


def table(runs: Sequence[Planned]) -> list[dict[str, Any]]:
    """A row a run that has metrics: its changes, step, and measures."""
    rows = []
    for planned in runs:
        try:
            lines = read_metrics(Path(planned.config.output_dir))
        except InputError:  # not begun
            continue
        row = {**planned.changes, "step": int(max(line["step"] for line in lines))}
        for key in MEASURES:
            values = [line[key] for line in lines if isinstance(line.get(key), int | float)]
            last = values[-1:] if key.startswith("validation") else values[-LAST:]
            row[key] = round(sum(last) / len(last), 4) if last else None
        rows.append(row)
    return rows


def write_table(runs: Sequence[Planned]) -> Path:
    """sweep.csv beside the runs. Raises ValueError without runs."""
    rows = table(runs)
    out = Path(runs[0].config.output_dir).parent / TABLE
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*runs[0].changes, "step", *MEASURES], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with committed(out) as file:
        file.write(text.getvalue().encode())
    return out
