"""Checkpoints of a run: checkpoint-<step>/ with the adapter, the optimiser, and what the run was.

Where weights are averaged, average/ holds the adapter with those: the one to render with. Written beside, hashed,
renamed; the newest that is whole is gone on from. Nothing random needs saving: noise, times, order and crops follow
from seed and step.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed, sha256_of, sync, sync_folder
from anyphoto_cli.model.adapter import AdapterCard, onto_disk, save_adapter

ADAPTER_FOLDER, AVERAGE = "adapter", "average"
STATE, OPTIMISER, SUMS = "state.json", "optimiser.safetensors", "checkpoint.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_HALF = re.compile(r"\.checkpoint-\d+\.tmp")


@dataclass(frozen=True)
class Checkpoint:
    """step: optimiser steps done. facts: of the run, to compare with when it goes on. unlogged: sums for the next line
    of metrics (`Meter.since_line`).
    """

    folder: Path
    step: int
    facts: Mapping[str, Any]
    unlogged: Mapping[str, float] = field(default_factory=dict)


def save_checkpoint(
    run: Path,
    step: int,
    transformer: Any,
    card: AdapterCard,
    optimiser: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    keep: int,
    averaged: Callable[[], AbstractContextManager[None]] | None = None,
    unlogged: Mapping[str, float] | None = None,
) -> Checkpoint:
    """Write checkpoint-<step> and remove the oldest beyond `keep`, once the new one is whole.

    averaged: a block within which the transformer has its averaged weights; None: there are none. Raises
    EnvironmentFault where the disk does not take it: nothing of it is left then, and the older ones are there.
    """
    folder, temporary = run / f"checkpoint-{step}", run / f".checkpoint-{step}.tmp"
    try:
        with onto_disk(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            card = card.model_copy(update={"train_step": card.train_step + step})
            save_adapter(temporary, transformer, card)
            if averaged is not None:
                with averaged():
                    save_adapter(temporary / AVERAGE, transformer, card)
            _write_state(temporary, optimiser, {"step": step, "facts": dict(facts), "unlogged": dict(unlogged or {})})
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
    except EnvironmentFault as error:
        shutil.rmtree(temporary, ignore_errors=True)
        remedy = "Make room; the same command goes on from the last checkpoint"
        raise EnvironmentFault(error.what, file=folder, remedy=remedy) from error
    sync_folder(run)
    # Those of later steps were not whole when the run went on from before them: they never take this one's place.
    later = [path for path in checkpoints(run) if _step_of(path) > step]
    for old in [*later, *[path for path in checkpoints(run) if path not in later][keep:]]:
        shutil.rmtree(old)
    return Checkpoint(folder, step, facts, unlogged or {})


def sweep_checkpoints(run: Path) -> None:
    """Remove those that a killed run had half written."""
    for left in list(run.glob(".checkpoint-*.tmp")):
        if _HALF.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)


def _write_state(folder: Path, optimiser: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Beside the adapters: the optimiser, what the checkpoint says of itself, and the sha256 of all there is."""
    from safetensors.torch import save_file

    save_file(dict(optimiser), folder / OPTIMISER, metadata={"format": "pt"})
    with committed(folder / STATE) as out:
        out.write((json.dumps(state, indent=2, sort_keys=True) + "\n").encode())
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sums = {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}
    with committed(folder / SUMS) as out:
        out.write((json.dumps(sums, indent=2) + "\n").encode())
    for written in folder.rglob("*"):
        sync(written)


def checkpoints(run: Path) -> list[Path]:
    """Folders named checkpoint-<step>, the newest first."""
    named = (path for path in run.glob("checkpoint-*") if _NAME.fullmatch(path.name))
    return sorted(named, key=_step_of, reverse=True)


def _step_of(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


def newest_whole(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """(the newest checkpoint that is whole, or None; what is wrong with the newer ones)."""
    complaints: list[str] = []
    for folder in checkpoints(run):
        try:
            return read_checkpoint(folder), complaints
        except InputError as error:
            complaints.append(str(error))
    return None, complaints


def read_checkpoint(folder: Path) -> Checkpoint:
    """Compare every file with its sha256. Raises InputError naming the first that is missing or changed."""
    try:
        sums = json.loads((folder / SUMS).read_text())
        for name, expected in sums.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(name)
            file = folder / name
            if not file.is_file() or sha256_of(file) != expected:
                told = "is damaged" if file.is_file() else "is missing"
                raise InputError(f"{told}: an older checkpoint is used where there is one", file=file)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"is no whole checkpoint ({type(error).__name__})", file=folder) from error
    return read_state(folder)


def read_state(folder: Path) -> Checkpoint:
    """What it says of itself, its files unseen. Raises InputError where it says nothing."""
    try:
        state = json.loads((folder / STATE).read_text())
        unlogged = {str(key): float(value) for key, value in state.get("unlogged", {}).items()}
        return Checkpoint(folder, int(state["step"]), dict(state["facts"]), unlogged)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"is no whole checkpoint ({type(error).__name__})", file=folder) from error


def read_optimiser(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Its tensors. Raises InputError where they cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(checkpoint.folder / OPTIMISER))
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=checkpoint.folder / OPTIMISER) from error
