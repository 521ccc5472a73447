"""Going on with a run: what it must have in common with the one that began, and how its state comes back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.data.shards import MANIFEST
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed, sha256_of
from anyphoto_cli.model.adapter import CARD_FILE, copy_weights, read_card, read_weights
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.train.batches import ShardedSamples
from anyphoto_cli.train.changes import WAS, changes, flat
from anyphoto_cli.train.checkpoint import ADAPTER_FOLDER, SUMS, Checkpoint, newest_whole, read_optimiser
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.models import Models, training_device
from anyphoto_cli.train.optimiser import Optimiser

Standing = tuple[Checkpoint | None, list[str]]
"""The newest whole checkpoint of a run, and what is wrong with the newer ones."""


def where_it_stands(folder: Path, ranks: Ranks) -> Standing:
    """`newest_whole` of a run, the same on all ranks: those that begin with other weights would be averaged all the
    same. Raises InputError on all of them where they see different ones.
    """
    standing = newest_whole(folder)
    found = standing[0]
    seen = ranks.gather((found.step, sha256_of(found.folder / SUMS)) if found else None)
    if any(other != seen[0] for other in seen):
        remedy = "Do all machines see one output_dir?"
        raise InputError("checkpoints differ between the ranks", file=folder, field="output_dir", remedy=remedy)
    return standing


def refuse_early(
    found: Checkpoint | None, config: TrainConfig, ranks: Ranks, samples: ShardedSamples, resume: bool,
    allowed: Sequence[str],
) -> None:  # fmt: skip
    """Raises InputError for what `go_on` would refuse, as far as that is known before anything is loaded."""
    if found is None:
        return
    folder = found.folder.parent
    if not resume:
        raise _not_to_go_on(folder, found.step)
    known = known_facts(config, ranks, samples)
    changes(folder, found.step, {key: found.facts[key] for key in known if key in found.facts}, known, allowed)


def _not_to_go_on(folder: Path, step: int) -> InputError:
    remedy = "Give a new output_dir, or let it go on"
    return InputError(f"holds a run at step {step}", file=folder, field="output_dir", remedy=remedy)


def facts_of(config: TrainConfig, ranks: Ranks, models: Models, samples: ShardedSamples) -> dict[str, Any]:
    """What a run that goes on must have in common with the one that began, flat."""
    of_models = {"base": models.card.base_revision, "face pack": models.card.face_pack.sha256}
    return known_facts(config, ranks, samples) | of_models


def known_facts(config: TrainConfig, ranks: Ranks, samples: ShardedSamples) -> dict[str, Any]:
    """Those of `facts_of` that are known before models are loaded."""
    device = training_device(config, ranks.local)
    manifests = b"".join((folder / MANIFEST).read_bytes() for folder in config.data.folders)
    return flat(config.told()) | {
        "world size": ranks.world, "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "shards' manifest": hashlib.sha256(manifests).hexdigest(), "shards left out": samples.left_out,
    }  # fmt: skip


def go_on(
    folder: Path, standing: Standing, facts: Mapping[str, Any], models: Models, optimiser: Optimiser,
    listener: Listener, resume: bool, allowed: Sequence[str] = (),
) -> tuple[int, dict[str, Any], Mapping[str, float]]:  # fmt: skip
    """(the step to begin with, the run's facts from there on, sums not logged yet); weights and optimiser as they
    were then.

    standing: of `where_it_stands`. allowed: keys that may be another way from here on, which the facts then tell.
    Raises InputError for a folder that holds another run, or one that is not to go on (`resume`).
    """
    found, complaints = standing
    for complaint in complaints:
        listener.caution(complaint)
    if found is None:
        if (folder / ADAPTER_FOLDER / CARD_FILE).is_file():
            remedy = "Give a new output_dir, or move the adapter away to train anew"
            what = "is trained, and no whole checkpoint is there to go on from"
            raise InputError(what, file=folder / ADAPTER_FOLDER, field="output_dir", remedy=remedy)
        if complaints:
            listener.caution(f"{folder}: no checkpoint is whole, so that training begins at step 0 again")
        return 0, dict(facts), {}
    if not resume:
        raise _not_to_go_on(folder, found.step)
    new = changes(folder, found.step, found.facts, facts, allowed)
    card = read_card(found.folder)
    copy_weights(models.transformer, *read_weights(found.folder, card), found.folder, card)
    optimiser.load_state(read_optimiser(found))
    listener.notice(f"Going on from step {found.step}")
    for change in new:
        listener.caution("from step {step} on {key} is {now}, before it was {before}".format(**change))
    all_of_them = [*found.facts.get(WAS, ()), *new]
    return found.step, {**facts, **({WAS: all_of_them} if all_of_them else {})}, found.unlogged


def cut_metrics(file: Path, step: int) -> None:
    """Lines of steps after `step`, which will be done again, go."""
    if not file.is_file():
        return
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    with committed(file) as out:
        out.write("".join(line + "\n" for line in lines).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # torn when the run was cut off
        return math.inf
