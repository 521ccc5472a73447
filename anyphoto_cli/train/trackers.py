"""Curves for whoever watches them elsewhere: TensorBoard's files, and Weights & Biases."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.commit import committed
from anyphoto_cli.runtime.progress import Listener


class Tracker(Protocol):
    """Hears every line of metrics."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values that are not finite are left out."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class TensorBoard:
    """Event files in `folder`. A run that goes on after step `first` writes another file; TensorBoard lays them over
    each other, and hides what the older ones say of later steps.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=first + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars by name."""
        for name, value in _finite(values).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """All of it on disk."""
        self._writer.close()


WANDB_ID = "wandb_id"
"""In output_dir: a run that goes on, or is queued again, goes on there, too."""


class WandB:
    """One run of Weights & Biases; key, project and the like are its own environment's affair (WANDB_*)."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        import wandb

        project = {} if os.environ.get("WANDB_PROJECT") else {"project": "anyphoto"}
        self._run: Any = wandb.init(
            dir=str(folder), config=config.told(), resume="allow", id=_wandb_id(folder / WANDB_ID), **project
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """By name."""
        self._run.log(_finite(values), step=step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


class Several:
    """Each of them hears everything."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """To all."""
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        """All."""
        for tracker in self._trackers:
            tracker.close()


class Nobody(Several):
    """Where nobody watches."""

    def __init__(self) -> None:
        super().__init__(())


def _wandb_id(file: Path) -> str:
    if not file.is_file():
        with committed(file) as out:
            out.write(f"{os.environ.get('WANDB_RUN_ID') or uuid.uuid4().hex}\n".encode())
    return file.read_text(encoding="utf-8").strip()


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name != "step" and math.isfinite(value)}


def open_tracker(config: TrainConfig, first: int, listener: Listener) -> Tracker:
    """TensorBoard unless nobody watches; beside it W&B, where it was asked for. Where TensorBoard is not installed, a
    note and none; W&B was asked for by name, so that its lack is a fault.

    Raises EnvironmentFault for a missing wandb.
    """
    folder, found = Path(config.output_dir), list[Tracker]()
    if config.report_to == "wandb":
        try:
            found.append(WandB(folder, config))
        except ImportError as error:
            raise EnvironmentFault("needs wandb", field="report_to", remedy="Run: pip install wandb") from error
    if config.report_to != "none":
        try:
            found.append(TensorBoard(folder / "tensorboard", first))
        except ImportError:
            listener.notice('No TensorBoard here: metrics.jsonl has the curves, or pip install "anyphoto[train]"')
    return found[0] if len(found) == 1 else Several(found)
