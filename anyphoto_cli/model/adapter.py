"""The adapter on disk: a Hugging Face model folder.

    pytorch_lora_weights.safetensors   keys and header as diffusers writes them
    id_projector.safetensors           the projector of Eq. 16
    anyphoto.json                      base, face pack, the method's choices, sha256 of the two; written last

A stock FluxPipeline opens the LoRA file, but runs it on every token: wrong pictures. The projector it cannot know.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from anyphoto_cli import __version__
from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed, sha256_of
from anyphoto_cli.model.hub import hub_folder
from anyphoto_cli.model.location_lora import ADAPTER

LORA_FILE, PROJECTOR_FILE, CARD_FILE = (
    "pytorch_lora_weights.safetensors",
    "id_projector.safetensors",
    "anyphoto.json",
)
LORA_PREFIX = "transformer."
"""Of the keys in LORA_FILE, as diffusers names them; `read_weights` gives them without."""
FORMAT_VERSION = 1


class FacePackCard(BaseModel):
    """Which recogniser's embeddings the adapter understands."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    sha256: str


class StartCard(BaseModel):
    """That the weights lie part of the way from another adapter's to a run's. sha256: of that adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    share: float = Field(gt=0, lt=1, description="Of the way from it to the run.")


class AdapterCard(BaseModel):
    """anyphoto.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # later versions may say more

    format_version: int = Field(FORMAT_VERSION, ge=1)
    anyphoto_version: str = __version__
    base_model: str = Field(description="Hub id or name of the base it was trained on.")
    base_revision: str = Field("", description="Commit or content hash of that base.")
    face_pack: FacePackCard
    embedding: int = Field(512, ge=1, le=65536, description="Width of the recogniser's vectors.")
    train_step: int = Field(0, description="Optimiser steps; 0: untrained.")
    method: MethodConfig = MethodConfig()
    start: StartCard | None = Field(None, description="Where export took the weights part of the way between two.")
    files: dict[str, str] = Field(default_factory=dict, description="File name -> sha256.")

    @property
    def sha256(self) -> str:
        """One hash for the whole adapter: weights and choices."""
        content = json.dumps([sorted(self.files.items()), self.method.model_dump()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def save_adapter(folder: Path, transformer: Any, card: AdapterCard) -> AdapterCard:
    """Write the adapter of a transformer; returns the card with the files' hashes.

    Weights are stored as they are (float32 masters in training). Raises ValueError when there is no adapter.
    """
    from diffusers import FluxPipeline
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    if transformer.id_projector is None:
        raise ValueError("this transformer has no AnyPhoto adapter to save")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        FluxPipeline.save_lora_weights(
            temporary,
            transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name=ADAPTER),
            transformer_lora_adapter_metadata=transformer.peft_config[ADAPTER].to_dict(),
        )
        projector = {k: v.contiguous() for k, v in transformer.id_projector.state_dict().items()}
        save_file(projector, Path(temporary) / PROJECTOR_FILE, metadata={"format": "pt"})
        hashes = {name: sha256_of(Path(temporary) / name) for name in (LORA_FILE, PROJECTOR_FILE)}
        card = card.model_copy(update={"files": hashes, "method": transformer.method})
        for name in hashes:
            (Path(temporary) / name).replace(folder / name)
    with committed(folder / CARD_FILE) as file:
        file.write(card.model_dump_json(indent=2).encode())
    return card


def read_card(folder: Path) -> AdapterCard:
    """anyphoto.json of an adapter folder. Raises InputError when it is none, or from a later format."""
    file = folder / CARD_FILE
    if not file.is_file():
        raise InputError(f"holds no {CARD_FILE}", file=folder, field="--adapter", remedy="Is this an AnyPhoto adapter?")
    try:
        card = AdapterCard.model_validate_json(file.read_bytes())
    except (ValidationError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        raise InputError(f"is damaged ({first['msg']})", file=file, field=".".join(map(str, first["loc"]))) from error
    if card.format_version > FORMAT_VERSION:
        raise InputError(f"has format {card.format_version}", file=file, remedy="Run: pip install -U anyphoto")
    return card


def read_weights(folder: Path, card: AdapterCard) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(LoRA, projector) state dicts, checked against the card. Raises InputError on missing or changed files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (LORA_FILE, PROJECTOR_FILE):
        file = folder / name
        if not file.is_file():
            raise InputError("is missing", file=file, remedy="Copy the whole adapter folder")
        if card.files.get(name) != sha256_of(file):
            raise InputError("does not match its sha256 in anyphoto.json", file=file, remedy="Download or save it anew")
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
    """Put a saved adapter into a transformer, in its number format. Raises InputError where they do not fit."""
    from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading

    card = read_card(folder)
    lora, projector = read_weights(folder, card)
    if any(parameter.is_meta for parameter in transformer.parameters()):
        raise InputError("must be loaded before sequential offload is switched on", file=folder, field="--adapter")
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


def find_adapter(
    source: str | Path, subfolder: str | None = None, revision: str | None = None, token: str | None = None
) -> Path:
    """The local folder of an adapter: a path, or a hub id, downloaded (only the three files) or taken from the cache.

    Raises InputError for a path that does not exist, EnvironmentFault when the hub cannot give it.
    """
    if Path(source).is_dir():
        return Path(source, subfolder) if subfolder else Path(source)
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise InputError("no such folder", file=text, field="--adapter", remedy="Give a folder, or a hub id: org/name")
    prefix = f"{subfolder}/" if subfolder else ""
    wanted = [prefix + name for name in (LORA_FILE, PROJECTOR_FILE, CARD_FILE)]
    folder = hub_folder("the adapter", text, wanted, revision=revision, token=token)
    return folder / subfolder if subfolder else folder
