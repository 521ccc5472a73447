"""What every stage of one call of `anyphoto preprocess` needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.preprocess.exclusions import Exclusions
from anyphoto_cli.preprocess.work import PhotoList, Work
from anyphoto_cli.runtime.executors import run_through
from anyphoto_cli.runtime.jobs import Job
from anyphoto_cli.runtime.progress import Listener


def too_many(failed: int, seen: int, wanted: int, most: float) -> bool:
    """Whether more than the share `most` of what was seen failed: asked from the 50th on, or of all where fewer are
    wanted.
    """
    return seen >= min(50, wanted) and failed > most * seen


@dataclass(frozen=True, eq=False)
class StageRun:
    """out: the run's folder. refs: folder of known faces, or None. exclusions: what must not be in the data. photos,
    work: the list, and what is made of it. device: resolved. workers: processes of a stage.
    """

    out: Path
    refs: Path | None
    config: PreprocessConfig
    options: RunOptions
    exclusions: Exclusions
    photos: PhotoList
    work: Work
    listener: Listener
    device: str
    workers: int

    @property
    def bank(self) -> Path:
        """Of the known faces, as training reads it."""
        return self.out / "bank"

    def do(self, job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Through the executor that was asked for. Jobs without a device need no card."""
        gpus = 1.0 if getattr(job, "device", "cpu").startswith("cuda") else 0.0
        return run_through(
            self.options.executor, job, numbers, self.workers, address=self.options.ray_address, gpus=gpus
        )  # fmt: skip

    def left(self, stage: str) -> int:
        """Pieces of a stage that are not done."""
        return len(self.work.missing(stage, len(self.photos)))

    def begun(self, stage: str) -> bool:
        """Whether anything was made with the options of a stage: until then a mistake in them costs nothing."""
        made = any(file.stat().st_size for file in self.work.folder.glob(f"{stage}/*"))
        return made or (stage == "match" and self.bank.is_dir())
