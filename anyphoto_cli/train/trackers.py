"""Curves for whoever watches them elsewhere: TensorBoard's files, or Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.runtime.progress import Listener


class Tracker(Protocol):
    """Hears every line of metrics."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values that are not finite are left out."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Nobody:
    """Where nobody watches."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


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


class WandB:
    """One run of Weights & Biases; the key is its own environment's affair."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        import wandb

        self._run: Any = wandb.init(project="anyphoto", dir=str(folder), config=config.told(), resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """By name."""
        self._run.log(_finite(values), step=step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name != "step" and math.isfinite(value)}


def open_tracker(config: TrainConfig, first: int, listener: Listener) -> Tracker:
    """Where TensorBoard is not installed, a note and none; W&B was asked for by name, so that its lack is a fault.

    Raises EnvironmentFault for a missing wandb.
    """
    folder = Path(config.output_dir)
    if config.report_to == "tensorboard":
        try:
            return TensorBoard(folder / "tensorboard", first)
        except ImportError:
            listener.notice('No TensorBoard here: metrics.jsonl has the curves, or pip install "anyphoto[train]"')
    if config.report_to == "wandb":
        try:
            return WandB(folder, config)
        except ImportError as error:
            raise EnvironmentFault("needs wandb", field="report_to", remedy="Run: pip install wandb") from error
    return Nobody()
