"""What may be another way when a run goes on: some keys always, some where one asks for it, some never."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError

FREE = {
    "output_dir", "checkpointing_steps", "checkpoints_total_limit", "logging_steps", "timeout_s", "device",
    "gradient_checkpointing", "activation_memory_gb", "overlap_encoding", "compile", "data.workers", "data.shards",
    "data.bad_shards", "report_to", "validation_steps", "validation_layouts",
}  # fmt: skip
"""Keys that may differ when a run goes on: they change no number of it. Shards are known by their manifest's hash."""
FIXED = {
    "model", "face_pack", "adapter", "base", "face pack", "seed", "gradient_accumulation_steps", "use_8bit_adam",
    "shards' manifest", "shards left out",
}  # fmt: skip
"""Keys that never may, and all of the method: weights or optimiser would not fit, or samples be seen twice or never."""
ADDED = {"loss.face_on_dropped": True, "loss.face_least_eyes": 12.0}
"""Keys that older runs did not write down, and what they did."""
TOGETHER = ("world_size", "train_batch_size")
"""May change where their product stays: the plan of an epoch has the same samples in every step then."""
OPTION = "--allow-changes"
WAS = "changes"
"""Where a run's facts tell what was changed on the way: a list of {step, key, before, now}."""
_OTHER_WAYS = "Go on with what it began with, or give a new output_dir"


def flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's keys as one types them, without those of FREE."""
    found: dict[str, Any] = {}
    for key, value in told.items():
        if isinstance(value, dict) and key in ("data", "loss", "method"):
            found |= {f"{key}.{inner}": told for inner, told in value.items()}
        else:
            found[key] = value
    return {key: value for key, value in found.items() if key not in FREE}


def check_allowed(allowed: Sequence[str], config: TrainConfig) -> None:
    """Raises InputError for keys that a run does not have, or that never may change."""
    known = {*flat(config.told()), *FREE, *TOGETHER, "threads"}
    for key in allowed:
        if _never(key):
            raise InputError(f"{key} may not change while a run goes on", field=OPTION, remedy="Give a new output_dir")
        if key not in known:
            near = get_close_matches(key, known, 1)
            remedy = f"Did you mean {near[0]}?" if near else ""
            raise InputError(f"{key!r} is no key of a run", field=OPTION, remedy=remedy)


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, before, now) of each that is not the same, by name."""
    for key in sorted({*before, *now} - {WAS}):
        if before.get(key) != now.get(key):
            yield key, before.get(key), now.get(key)


def changes(
    folder: Path, step: int, before: Mapping[str, Any], now: Mapping[str, Any], allowed: Sequence[str]
) -> list[dict[str, Any]]:  # fmt: skip
    """What is changed at `step`, as facts tell it. before, now: facts. Raises InputError for what is not allowed."""
    before = {**{key: was for key, was in ADDED.items() if key in now}, **before}
    found = list(differing(before, now))
    if "max_train_steps" in now and now["max_train_steps"] < step:
        remedy = "Ask for more, or give a new output_dir"
        raise InputError(f"this run is at step {step} already", file=folder, field="max_train_steps", remedy=remedy)
    for key, was, told in found:
        if key.replace(" ", "_") not in allowed or not _can(key, before, now):
            what = f"this run began with {was!r}, now it is {told!r}"[:300]
            raise InputError(what, file=folder, field=key, remedy=_remedy(key, before, now))
    return [{"step": step, "key": key, "before": was, "now": told} for key, was, told in found]


def _never(key: str) -> bool:
    return key in FIXED or key.startswith("method.")


def _can(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether it may change where one asks for it."""
    if key.replace(" ", "_") in TOGETHER:
        return _at_once(before) == _at_once(now)
    if key == "ema_decay":
        return before.get(key) is not None and now.get(key) is not None  # else there is no average to go on with
    return not _never(key)


def _remedy(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if _can(key, before, now):
        return f"{_OTHER_WAYS}, or allow it: {OPTION} {key.replace(' ', '_')}"
    if key.replace(" ", "_") in TOGETHER:
        whole = f"ranks x train_batch_size is {_at_once(before)} as before, and you give {OPTION} {','.join(TOGETHER)}"
        return f"{_OTHER_WAYS}. Both may change where {whole}"
    return _OTHER_WAYS


def _at_once(facts: Mapping[str, Any]) -> int:
    """Samples of all ranks in a micro-step."""
    return int(facts.get("world size", 1)) * int(facts.get("train_batch_size", 1))
