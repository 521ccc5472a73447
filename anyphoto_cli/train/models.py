"""What a run trains on and with: the frozen base with a fresh adapter, its VAE, text encoders and recogniser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.faces.recogniser_torch import load_recogniser
from anyphoto_cli.model import bases, memory
from anyphoto_cli.model.adapter import AdapterCard, FacePackCard
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.train.objective import Parts


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


def open_models(config: TrainConfig, local: int = 0) -> Models:
    """Load the base, freeze it, add a fresh adapter. local: which device of the machine, with device auto or cuda.

    Raises InputError and EnvironmentFault as `generate` does.
    """
    base = bases.resolve_base(config.model)
    folder = bases.base_folder(base)
    device = memory.pick_device(config.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local)
    dtype = memory.pick_dtype({"no": "float32", "bf16": "bfloat16"}.get(config.mixed_precision, "auto"), device)
    pack = open_faces(config.face_pack or base.face_pack, device.type)
    pipeline = memory.open_pipeline(folder, bases.pipeline_class(folder), device, dtype, config.base_storage)
    for model in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        model.requires_grad_(False)
    # The same numbers on every rank and in every run: A of the LoRA and the projector's first layer are random.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        pipeline.transformer.add_anyphoto(config.method)
    pipeline.transformer.train()
    if config.gradient_checkpointing:
        pipeline.transformer.enable_gradient_checkpointing()
    if config.compile:
        pipeline.transformer.compile_repeated_blocks(dynamic=True)
    recogniser = load_recogniser(_recogniser_file(pack)).to(device) if config.loss.face_weight else None
    parts = Parts(
        pipeline.transformer, pipeline.vae, _TextEncoder(pipeline), recogniser, device, dtype, config.guidance_scale
    )
    card = AdapterCard(
        base_model=base.source, base_revision=bases.revision_of(folder), method=config.method,
        face_pack=FacePackCard(name=pack.name, sha256=pack.sha256),
    )  # fmt: skip
    return Models(parts, pipeline, card, pack, base.steps)


def _recogniser_file(pack: Any) -> Path:
    file = getattr(pack, "recogniser_file", None)
    if not isinstance(file, Path):
        remedy = "Give one with an ONNX recogniser, or set loss.face_weight: 0"
        raise InputError(f"{pack.name} has no recogniser file", field="face_pack", remedy=remedy)
    return file


class _TextEncoder:
    """Captions -> (T5 states, CLIP's pooled vector), live; the empty caption is kept."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """[n, T, d], [n, p]."""
        pipeline = self._pipeline
        states, pooled, _ = pipeline.encode_prompt(
            list(captions), None, pipeline._execution_device, max_sequence_length=pipeline.text_length
        )
        return states, pooled
