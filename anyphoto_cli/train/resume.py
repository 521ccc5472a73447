"""Going on with a run: what it must have in common with the one that began, and how its state comes back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.model.adapter import copy_weights, read_card, read_weights
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.train.batches import ShardedSamples
from anyphoto_cli.train.checkpoint import Checkpoint, newest_whole, read_optimiser
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.models import Models
from anyphoto_cli.train.optimiser import Optimiser

FREE = {
    "output_dir", "checkpointing_steps", "checkpoints_total_limit", "logging_steps", "timeout_s", "device",
    "gradient_checkpointing", "activation_memory_gb", "overlap_encoding", "compile", "data.workers", "data.shards",
    "data.bad_shards", "report_to", "validation_steps", "validation_layouts",
}  # fmt: skip
"""Keys that may differ when a run goes on: they change no number of it. Shards are known by their manifest's hash."""


def facts_of(config: TrainConfig, ranks: Ranks, models: Models, samples: ShardedSamples) -> dict[str, Any]:
    """What a run that goes on must have in common with the one that began, flat."""
    manifest = Path(config.data.shards) / "manifest.json"
    flat: dict[str, Any] = {}
    for key, value in config.told().items():
        if isinstance(value, dict) and key in ("data", "loss", "method"):
            flat |= {f"{key}.{inner}": told for inner, told in value.items()}
        else:
            flat[key] = value
    kept = {key: value for key, value in flat.items() if key not in FREE}
    return kept | {
        "world size": ranks.world, "threads": torch.get_num_threads() if models.parts.device.type == "cpu" else 0,
        "shards' manifest": hashlib.sha256(manifest.read_bytes()).hexdigest(), "base": models.card.base_revision,
        "face pack": models.card.face_pack.sha256, "shards left out": samples.left_out,
    }  # fmt: skip


def go_on(
    folder: Path, facts: Mapping[str, Any], models: Models, optimiser: Optimiser, listener: Listener, resume: bool
) -> int:
    """The step to begin with; weights and optimiser as they were then.

    Raises InputError for a folder that holds another run, or one that is not to go on (`resume`).
    """
    found, complaints = newest_whole(folder)
    for complaint in complaints:
        listener.caution(complaint)
    if found is None:
        return 0
    if not resume:
        remedy = "Give a new output_dir, or let it go on"
        raise InputError(f"holds a run at step {found.step}", file=folder, field="output_dir", remedy=remedy)
    _compare(folder, facts, found)
    card = read_card(found.folder)
    copy_weights(models.transformer, *read_weights(found.folder, card), found.folder, card)
    optimiser.load_state(read_optimiser(found))
    listener.notice(f"Going on from step {found.step}")
    return found.step


def _compare(folder: Path, facts: Mapping[str, Any], found: Checkpoint) -> None:
    for key in sorted({*facts, *found.facts}):
        before, now = found.facts.get(key), facts.get(key)
        if before != now:
            told = f"this run began with {before!r}, now it is {now!r}"[:300]
            remedy = "Go on with what it began with, or give a new output_dir"
            raise InputError(told, file=folder, field=key, remedy=remedy)


def cut_metrics(file: Path, step: int) -> None:
    """Lines of steps after `step`, which will be done again, go."""
    if not file.is_file():
        return
    lines = [line for line in file.read_text().splitlines() if _step_of(line) <= step]
    with committed(file) as out:
        out.write("".join(line + "\n" for line in lines).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # torn when the run was cut off
        return math.inf
