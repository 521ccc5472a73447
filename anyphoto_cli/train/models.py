"""What a run trains on and with: the frozen base with a fresh adapter, its VAE, text encoders and recogniser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.faces.recogniser_torch import load_recogniser
from anyphoto_cli.model import bases, memory
from anyphoto_cli.model.adapter import AdapterCard, FacePackCard, copy_weights, find_adapter, read_card, read_weights
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.frozen import Parts
from anyphoto_cli.train.sharding import shard_frozen
from anyphoto_cli.train.text import CachedText, LiveText

TEXT = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


@dataclass(frozen=True, eq=False)
class Models:
    """parts: for the objective. pipeline: diffusers' own around them, for validation. card: of the adapter to be.

    analyzer: the face pack. steps: the base's usual number of denoising steps.
    """

    parts: Parts
    pipeline: Any
    card: AdapterCard
    analyzer: FaceAnalyzer
    steps: int

    @property
    def transformer(self) -> Any:
        """With the adapter."""
        return self.parts.transformer


def open_text(config: TrainConfig, local: int = 0) -> LiveText:
    """The text encoders alone, to read all captions before the base is loaded. Raises as `open_models` does."""
    from diffusers import FluxPipeline

    device, dtype = training_device(config, local), _dtype(config, training_device(config, local))
    folder = bases.base_folder(bases.resolve_base(config.model))
    bases.pipeline_class(folder)  # refuses what is no FLUX
    pipeline = memory.open_pipeline(
        folder, FluxPipeline, device, dtype, _text_storage(config), without=("transformer", "vae")
    )
    return LiveText(pipeline, config.method)


def text_rests_on(config: TrainConfig, local: int = 0) -> dict[str, Any]:
    """What the numbers of a read caption follow from beside the caption."""
    base = bases.resolve_base(config.model)
    return {
        "base": base.source, "revision": bases.revision_of(bases.base_folder(base)),
        "t5_length": config.method.t5_length, "dtype": str(_dtype(config, training_device(config, local))),
        "storage": _text_storage(config),
    }  # fmt: skip


def _text_storage(config: TrainConfig) -> str:
    """fp8 is the transformer's alone."""
    return "full" if config.base_storage == "fp8" else config.base_storage


def open_models(
    config: TrainConfig, ranks: Ranks, text: CachedText | None = None, faces: FaceAnalyzer | None = None
) -> Models:  # fmt: skip
    """Load the base, freeze it, add a fresh adapter. text: captions that were read before; None loads the encoders.
    faces: the face pack, on the training device; None opens it.

    Raises InputError and EnvironmentFault as `generate` does, and for sharding that cannot be.
    """
    base = bases.resolve_base(config.model)
    folder = bases.base_folder(base)
    device = training_device(config, ranks.local)
    dtype = _dtype(config, device)
    sharded = _is_sharded(config, ranks)
    pack = faces or open_faces(config.face_pack or base.face_pack, str(device))
    pipeline = memory.open_pipeline(
        folder, bases.pipeline_class(folder), torch.device("cpu") if sharded else device, dtype, config.base_storage,
        without=TEXT if text is not None else (), offload=False,
    )  # fmt: skip
    for model in pipeline.components.values():
        if isinstance(model, nn.Module):
            model.requires_grad_(False)
    if device.type == "cpu":
        pipeline.vae.to(memory_format=torch.channels_last)  # a third faster there, and the same but for rounding
    # The same numbers on every rank and in every run: A of the LoRA and the projector's first layer are random.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        pipeline.transformer.add_anyphoto(config.method)
    pipeline.transformer.train()
    if config.gradient_checkpointing:
        pipeline.transformer.enable_gradient_checkpointing()
    if config.compile:
        pipeline.transformer.compile_blocks()
    if sharded:
        shard_frozen(pipeline.transformer, device, ranks)
        for model in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            if model is not None:
                model.to(device)
    recogniser = load_recogniser(_recogniser_file(pack)).to(device) if config.loss.face_weight else None
    parts = Parts(
        pipeline.transformer, pipeline.vae, text or LiveText(pipeline, config.method), recogniser, device, dtype,
        config.guidance_scale, _face_vae(config, pipeline.vae, device),
        config.gradient_checkpointing,
    )  # fmt: skip
    card = AdapterCard(
        base_model=base.source, base_revision=bases.revision_of(folder), method=config.method,
        face_pack=FacePackCard(name=pack.name, sha256=pack.sha256),
    )  # fmt: skip
    if config.adapter is not None:
        card = _begin_with(config.adapter, pipeline.transformer, card)
    return Models(parts, pipeline, card, pack, base.steps)


def _begin_with(source: str, transformer: Any, card: AdapterCard) -> AdapterCard:
    """The weights of an adapter in the fresh one's place, its steps counted on. Raises InputError unless it fits."""
    folder = find_adapter(source)
    begun = read_card(folder)
    if begun.face_pack.sha256 != card.face_pack.sha256:
        what = f"was trained with another face pack ({begun.face_pack.name}) than {card.face_pack.name}"
        raise InputError(what, file=folder, field="adapter", remedy="Embeddings of two packs do not mix")
    was, now = begun.method.model_dump(), card.method.model_dump()
    if changed := [key for key in now if was[key] != now[key]]:
        what = f"was trained with {was[changed[0]]!r}, not {now[changed[0]]!r}"
        raise InputError(what, file=folder, field=f"method.{changed[0]}", remedy="Set the method of the adapter")
    copy_weights(transformer, *read_weights(folder, begun), folder, begun)
    return card.model_copy(update={"train_step": begun.train_step})


def training_device(config: TrainConfig, local: int) -> torch.device:
    """local: which device of the machine, with device auto or cuda. Raises InputError where it cannot hold the base."""
    device = memory.pick_device(config.device)
    if device.type == "cpu" and config.base_storage == "nf4":
        raise InputError("nf4 needs a GPU", field="base_storage", remedy="On a CPU use full or fp8")
    if config.base_storage not in memory.ways(device):
        what = f"{device.type} has no 8-bit floats, which {config.base_storage} needs"
        raise InputError(what, field="base_storage", remedy="Use full")
    return torch.device("cuda", local) if device.type == "cuda" and device.index is None else device


def _dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    return memory.pick_dtype({"no": "float32", "bf16": "bfloat16"}.get(config.mixed_precision, "auto"), device)


def _is_sharded(config: TrainConfig, ranks: Ranks) -> bool:
    if config.sharding == "none":
        return False
    if ranks.world == 1:
        remedy = "Launch it with torchrun or accelerate, or set sharding: none and base_storage: nf4"
        raise InputError("fsdp needs several ranks", field="sharding", remedy=remedy)
    if config.base_storage != "full":
        remedy = "Set base_storage: full, or sharding: none"
        raise InputError(f"fsdp and a base kept as {config.base_storage} do not mix", field="sharding", remedy=remedy)
    return True


def _face_vae(config: TrainConfig, vae: Any, device: torch.device) -> Any:
    """Raises InputError for a VAE of other latents, EnvironmentFault where the hub cannot give it."""
    source = config.loss.face_vae
    if source is None or not config.loss.face_weight:
        return None
    from diffusers import AutoencoderTiny

    try:
        tiny = AutoencoderTiny.from_pretrained(source, torch_dtype=vae.dtype).to(device).requires_grad_(False)
    except (OSError, ValueError, KeyError) as error:
        line = str(error).strip().splitlines()[0][:160]
        remedy = "Give a folder that save_pretrained wrote, or madebyollin/taef1"
        raise InputError(f"{source} cannot be opened ({line})", field="loss.face_vae", remedy=remedy) from error
    if tiny.config.latent_channels != vae.config.latent_channels:
        what = f"{source} has {tiny.config.latent_channels} latent channels, the base {vae.config.latent_channels}"
        raise InputError(what, field="loss.face_vae")
    return tiny


def _recogniser_file(pack: Any) -> Path:
    file = getattr(pack, "recogniser_file", None)
    if not isinstance(file, Path):
        remedy = "Give one with an ONNX recogniser, or set loss.face_weight: 0"
        raise InputError(f"{pack.name} has no recogniser file", field="face_pack", remedy=remedy)
    return file
