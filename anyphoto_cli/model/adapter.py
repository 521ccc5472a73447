"""The adapter on disk: a Hugging Face model folder.

    pytorch_lora_weights.safetensors   keys and header as diffusers writes them
    id_projector.safetensors           the projector of Eq. 16
    anyphoto.json                      base, face pack, the method's choices, sha256 of the two; written last

A stock FluxPipeline opens the LoRA file, but runs it on every token: wrong pictures. The projector it cannot know.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import sha256_of, sync, sync_folder
from anyphoto_cli.model.adapter_card import (
    CARD_FILE,
    LORA_FILE,
    PROJECTOR_FILE,
    AdapterCard,
    FacePackCard,
    StartCard,
    check_files,
    find_adapter,
    read_card,
)
from anyphoto_cli.model.location_lora import ADAPTER

__all__ = [
    "CARD_FILE", "LORA_FILE", "PROJECTOR_FILE", "AdapterCard", "FacePackCard", "StartCard", "copy_weights",
    "find_adapter", "load_adapter", "read_card", "read_weights", "save_adapter",
]  # fmt: skip

_SAVING = ".saving-"
_LEFT = re.compile(re.escape(_SAVING) + r"[a-z0-9_]{8}")
"""The names that `tempfile` gives."""
LORA_PREFIX = "transformer."
"""Of the keys in LORA_FILE, as diffusers names them; `read_weights` gives them without."""


def save_adapter(folder: Path, transformer: Any, card: AdapterCard) -> AdapterCard:
    """Write the adapter of a transformer; returns the card with the files' hashes.

    Weights are stored as they are (float32 masters in training). Raises ValueError when there is no adapter,
    EnvironmentFault where the disk does not take it; what lay in the folder is as it was then. (Who is killed among
    the three last steps leaves a card that does not fit its weights, which is refused.)
    """
    if transformer.id_projector is None:
        raise ValueError("this transformer has no AnyPhoto adapter to save")
    with onto_disk(folder):
        return _save(folder, transformer, card)


@contextmanager
def onto_disk(folder: Path) -> Iterator[None]:
    """Raises EnvironmentFault where tensors cannot be written: safetensors has an error of its own for a full disk."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise EnvironmentFault(f"cannot write here ({reason})", file=folder) from error


def _save(folder: Path, transformer: Any, card: AdapterCard) -> AdapterCard:
    """All three files beside their places first, then each to its own."""
    from diffusers import FluxPipeline
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_SAVING) as temporary:
        FluxPipeline.save_lora_weights(
            temporary,
            transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name=ADAPTER),
            transformer_lora_adapter_metadata=transformer.peft_config[ADAPTER].to_dict(),
        )
        projector = {k: v.contiguous() for k, v in transformer.id_projector.state_dict().items()}
        save_file(projector, Path(temporary) / PROJECTOR_FILE, metadata={"format": "pt"})
        hashes = {name: sha256_of(Path(temporary) / name) for name in (LORA_FILE, PROJECTOR_FILE)}
        card = card.model_copy(update={"files": hashes, "method": transformer.method})
        (Path(temporary) / CARD_FILE).write_bytes(card.model_dump_json(indent=2).encode())
        for name in (*hashes, CARD_FILE):
            sync(Path(temporary) / name)
        for name in hashes:
            (Path(temporary) / name).replace(folder / name)
        sync_folder(folder)  # before the card, which says that they are there
        (Path(temporary) / CARD_FILE).replace(folder / CARD_FILE)
        sync_folder(folder)
    return card


def sweep_saving(folder: Path) -> None:
    """Remove what a killed `save_adapter` left in a folder; links are not followed. Only for the folder's holder."""
    for left in [] if folder.is_symlink() else list(folder.glob(f"{_SAVING}*")):
        if _LEFT.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)


def read_weights(folder: Path, card: AdapterCard) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(LoRA, projector) state dicts, checked against the card. Raises InputError on missing or changed files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_files(folder, card)
    try:
        lora = {key.removeprefix(LORA_PREFIX): value for key, value in load_file(folder / LORA_FILE).items()}
        projector = load_file(folder / PROJECTOR_FILE)
    except SafetensorError as error:
        raise InputError(f"holds broken weights ({error})", file=folder, field="--adapter") from error
    for name, tensor in (lora | projector).items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"holds numbers that are not finite, in {name}", file=folder, field="--adapter")
    return lora, projector


def load_adapter(transformer: Any, folder: Path) -> AdapterCard:
    """Put a saved adapter into a transformer, in its number format, in place of the one that is there.

    Raises InputError where it is damaged, and the one that was there stays, or does not fit: then there is none.
    """
    from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading

    card = read_card(folder)
    lora, projector = read_weights(folder, card)
    if any(parameter.is_meta for parameter in transformer.parameters()):
        raise InputError("must be loaded before sequential offload is switched on", file=folder, field="--adapter")
    if transformer.id_projector is not None:
        transformer.remove_anyphoto()
    with torch.random.fork_rng(devices=[]):  # the numbers it begins with are replaced: nobody's seed is used up by them
        transformer.add_anyphoto(card.method, card.embedding)
    try:
        copy_weights(transformer, lora, projector, folder, card)
    except InputError:
        transformer.remove_anyphoto()  # half an adapter must not render
        raise
    _to_inference_format(transformer)
    # Group offload, where it is on, has to learn of the new modules; diffusers' own LoRA loader does the same.
    _maybe_remove_and_reapply_group_offloading(transformer)
    transformer.card = card
    return card


def copy_weights(transformer: Any, lora: Any, projector: Any, folder: Path, card: AdapterCard) -> None:
    """State dicts into the adapter that a transformer has. Raises InputError where they do not fit its base."""
    from peft.utils import set_peft_model_state_dict

    try:
        loaded = set_peft_model_state_dict(transformer, lora, adapter_name=ADAPTER)
        missing = [key for key in loaded.missing_keys if f".{ADAPTER}." in key]
        if loaded.unexpected_keys or missing:
            raise RuntimeError(f"{len(loaded.unexpected_keys)} unknown and {len(missing)} missing tensors")
        transformer.id_projector.load_state_dict(projector)
    except RuntimeError as error:
        raise InputError(
            f"does not fit this base model ({str(error).splitlines()[-1].strip()[:160]})", file=folder,
            field="--adapter", remedy=f"It was trained on {card.base_model}",
        ) from error  # fmt: skip


def _to_inference_format(transformer: Any) -> None:
    """LoRA in the model's own format and nothing trainable: float32 masters are for training."""
    from anyphoto_cli.model.location_lora import lora_parameters

    dtype = transformer.dtype if transformer.dtype.is_floating_point else torch.bfloat16
    for parameter in lora_parameters(transformer).values():
        parameter.data = parameter.data.to(dtype)
    for parameter in [*lora_parameters(transformer).values(), *transformer.id_projector.parameters()]:
        parameter.requires_grad_(False)
