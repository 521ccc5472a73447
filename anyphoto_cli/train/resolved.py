"""What the keys that leave something open came to, beside the configuration: it stays one that can be given again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.data.shards import MANIFEST, read_manifest
from anyphoto_cli.files.commit import committed
from anyphoto_cli.train.models import Models

RESOLVED = "resolved.json"


def resolved(config: TrainConfig, models: Models, world: int) -> dict[str, Any]:
    """Of the last start. devices: ranks, all together. samples_per_step: of an optimiser step of all of them. shards:
    name of each folder, sha256 of its manifest, samples.
    """
    dtype = str(models.parts.dtype).removeprefix("torch.")
    card = models.card
    return {
        "device": models.parts.device.type,
        "mixed_precision": {"float32": "no", "bfloat16": "bf16"}.get(dtype, dtype),
        "face_pack": {"name": card.face_pack.name, "sha256": card.face_pack.sha256},
        "base": {"source": card.base_model, "revision": card.base_revision},
        "devices": world,
        "samples_per_step": world * config.train_batch_size * config.gradient_accumulation_steps,
        "shards": [_told_of(folder) for folder in config.data.folders],
    }


def keep_resolved(run: Path, told: dict[str, Any]) -> None:
    """Write it into the run's folder."""
    with committed(run / RESOLVED) as out:
        out.write((json.dumps(told, indent=2) + "\n").encode())


def _told_of(folder: Path) -> dict[str, Any]:
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return {"name": folder.resolve().name, "manifest_sha256": digest, "samples": read_manifest(folder).samples}
