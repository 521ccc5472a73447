"""Runs side by side: each combination of a sweep trained in turn, and one table of what came out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.sweep import SweepConfig
from anyphoto_cli.config.train import DataConfig, TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.train.changes import differing, flat
from anyphoto_cli.train.checkpoint import ADAPTER_FOLDER
from anyphoto_cli.train.distributed import Ranks, joined
from anyphoto_cli.train.loop import run as train
from anyphoto_cli.train.plots import CONFIG, read_metrics

T = TypeVar("T")
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
    for setting in settings:
        if (key := setting.partition("=")[0]) in sweep.vary:
            raise InputError("varies in this sweep", file=file, field=f"vary.{key}", remedy=f"Leave out {setting}")
    for name, changes in sweep.runs():
        folder = str(Path(sweep.output_dir) / name)
        try:
            config = load_config(TrainConfig, common, {**changes, "output_dir": folder}, settings, option="")
        except InputError as error:
            raise error.at(file=file, field=f"vary ({name})") from error
        runs.append(Planned(name, changes, config))
    for planned in runs:
        _compare(planned)
    return runs


def _compare(planned: Planned) -> None:
    """Raises InputError where what is finished was trained with other settings; `train` compares what was begun."""
    folder = Path(planned.config.output_dir)
    if not planned.finished or not (folder / CONFIG).is_file():
        return
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=folder / CONFIG) from error
    # What a later version can be told besides was so then, as its default is.
    defaults = flat(TrainConfig(output_dir="run", data=DataConfig(shards="data")).told())
    for key, before, now in differing(defaults | flat(told), flat(planned.config.told())):
        what = f"this run is finished, with {before!r}; now it is {now!r}"[:300]
        raise InputError(what, file=folder, field=key, remedy="Remove its folder, or give another output_dir")


def shared(runs: Sequence[Planned], part: str | None) -> list[Planned]:
    """The i-th of n parts, "i/n" from 1: every n-th run, for as many jobs. None: all. Raises InputError."""
    if part is None:
        return list(runs)
    first, _, count = part.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise InputError(f"{part!r} is no part", field="--only", remedy="Give i/n, as in 2/8")
    return list(runs[int(first) - 1 :: int(count)])


def sweep(
    runs: Sequence[Planned], listener: Listener | None = None, stop: Callable[[], int] | None = None
) -> tuple[list[Planned], int]:
    """Train in turn; finished runs are passed over, begun ones go on. Returns those that are finished now, and the
    signal that ended it or 0, on all ranks alike.

    Stops after the run under way has stopped. Raises as `train`.
    """
    if not runs:
        return [], 0
    listener, stop, signal = listener or Listener(), stop or (lambda: False), 0
    # The ranks join once: a second process group after the first has ended does not come about.
    with joined(runs[0].config.device, runs[0].config.timeout_s) as ranks:
        told = listener if ranks.first else Listener()
        for number, planned in enumerate(runs, 1):
            if _told_by_the_first(ranks, planned.finished):
                told.notice(f"{planned.name}: finished before")
                continue
            told.stage(f"Run {number} of {len(runs)}: {planned.name}")
            done = train(planned.config, listener=listener, stop=stop)
            if not done.finished:
                signal = done.signal
                break
        finished = _told_by_the_first(ranks, [planned.finished for planned in runs])
    return [planned for planned, done in zip(runs, finished, strict=True) if done], signal


def _told_by_the_first(ranks: Ranks, value: T) -> T:
    """Who wrote the files sees them; on a shared disk others may not yet."""
    return ranks.gather(value)[0]


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
