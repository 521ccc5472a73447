"""What a run would be and need, without training: parameters, tokens, memory, speed. Computed, not measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.data.bank import read_index
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.train.activations import kept_gigabytes
from anyphoto_cli.train.batches import samples_of
from anyphoto_cli.train.face_check import check_faces
from anyphoto_cli.train.optimiser import trained_parameters
from anyphoto_cli.train.validation import read_layouts
from anyphoto_cli.train.wide_groups import WideGroups, wide_groups

PAPER_DAYS = 5.0
"""The paper's own run: 200,000 steps on 64 H20 in five days."""
_QUANTISED = {"fp8": 1.0, "nf4": 0.57}
"""Bytes a number of the base takes; of T5 in nf4 only."""
_T5, _CLIP, _VAE = 0.400, 0.010, 0.015
"""Numbers of T5-XXL, CLIP, and VAE with recogniser beside FLUX.1's 11.9 billion, as shares of them."""


@dataclass(frozen=True)
class Estimate:
    """base, trained: parameters, millions. samples; faces, tokens: of a sample in the mean, and tokens at most.

    identities, references, single: in the bank, photos of each in the mean, and how many have only one.
    gigabytes: of one device, a sharded base split among the ranks of this launch. samples_per_s: of all devices
    together, for the run to take the paper's five days. wide_groups: who does not fit into the square.
    """

    base: float
    trained: float
    samples: int
    faces: float
    tokens: float
    most_tokens: int
    noise_tokens: int
    identities: int
    references: float
    single: int
    steps: int
    devices: int
    epochs: float
    gigabytes: float
    samples_per_s: float
    wide_groups: WideGroups

    def lines(self) -> list[str]:
        """For people."""
        told = [
            f"base {self.base:.1f} M parameters, trained {self.trained:.2f} M",
            f"{self.samples} samples, {self.faces:.1f} faces and {self.tokens:.0f} location tokens each (at most "
            f"{self.most_tokens}) beside {self.noise_tokens} noise tokens",
            f"a bank of {self.identities} identities with {self.references:.1f} photos each; {self.single} with one "
            "only: no replacement where that is the picture itself",
            f"{self.steps} steps on {self.devices} device{'s' if self.devices > 1 else ''}: {self.epochs:.1f} times "
            "through the data",
            f"memory of a device: about {self.gigabytes:.1f} GB (computed from parameter counts, not measured)",
            f"for five days, as the paper's run took: {self.samples_per_s:.2f} samples a second over all devices",
            self.wide_groups.line(),
        ]
        return [line for line in told if line]


def estimate(config: TrainConfig, listener: Listener | None = None) -> Estimate:
    """Raises as `run` does for shards that do not fit; the base's weights are not loaded, nor downloaded."""
    listener = listener or Listener()
    listener.stage("Reading the shards")
    samples = samples_of(config)
    if samples.recounted:
        listener.caution(samples.recounted)
    photos = [count for folder in samples.folders for count in read_index(folder / "bank")[1]["references"]]
    check_faces(config, download=False)
    read_layouts(config)
    transformer = _skeleton(config)
    trained = sum(p.numel() for p in trained_parameters(transformer).values())
    whole = sum(p.numel() for p in transformer.parameters())
    faces = np.concatenate([index.faces[index.faces > 0] for index in samples.indices])
    at_once = config.train_batch_size * config.gradient_accumulation_steps * ranks()
    noise = (config.data.resolution // 16) ** 2
    per_step = config.max_train_steps * at_once
    return Estimate(
        base=(whole - trained) / 1e6, trained=trained / 1e6, samples=len(samples), faces=float(faces.mean()),
        tokens=float(samples.costs.mean()), most_tokens=int(samples.costs.max()), noise_tokens=noise,
        identities=len(photos), references=float(np.mean(photos or [0])), single=sum(count == 1 for count in photos),
        steps=config.max_train_steps, devices=ranks(), epochs=per_step / len(samples),
        gigabytes=_gigabytes(config, transformer, whole - trained, trained, noise + float(samples.costs.mean())),
        samples_per_s=per_step / (PAPER_DAYS * 86400), wide_groups=wide_groups(samples.indices),
    )  # fmt: skip


def ranks() -> int:
    """Of the launch: what torchrun says, or WORLD_SIZE before a dry run; else 1."""
    told = os.environ.get("WORLD_SIZE", "1")
    return max(int(told), 1) if told.isdigit() else 1


def _skeleton(config: TrainConfig) -> Any:
    """The transformer with its adapter and without memory; FLUX.1's sizes for a base that is not on this machine."""
    import torch

    from anyphoto_cli.model import bases
    from anyphoto_cli.model.transformer import AnyPhotoTransformer

    base = bases.resolve_base(config.model)
    local = base.shipped is not None or base.build is not None or Path(base.source).is_dir()
    sizes: Any = {"guidance_embeds": True}
    if local:  # outside of meta: a base may have to be built first
        sizes = AnyPhotoTransformer.load_config(bases.base_folder(base), subfolder="transformer")
    with torch.device("meta"):
        transformer = AnyPhotoTransformer.from_config(sizes)
        transformer.add_anyphoto(config.method)
    return transformer


def _gigabytes(config: TrainConfig, transformer: Any, base: float, trained: float, tokens: float) -> float:
    """Weights, gradients and Adam's two moments in float32, and what blocks keep for the backward pass.

    Kept: with checkpointing one input a block, one block in full, and what `activation_memory_gb` allows; else all.
    """
    optimiser = trained * (4 + 4 + (2 if config.use_8bit_adam else 8))
    blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    width, number = transformer.inner_dim, config.train_batch_size * (tokens + config.method.t5_length)
    each = _format_bytes(config)
    kept = kept_gigabytes(transformer, int(number), blocks, each)
    if config.gradient_checkpointing:
        fewest = each * blocks * width * number / 1e9 + kept_gigabytes(transformer, int(number), 1, each)
        kept = min(kept, fewest + (config.activation_memory_gb or 0.0))
    return float(frozen_gigabytes(config, base) + optimiser / 1e9 + kept)


def _format_bytes(config: TrainConfig) -> int:
    """A number of the base's format."""
    whole = config.mixed_precision == "no" or (config.mixed_precision == "auto" and config.device == "cpu")
    return 4 if whole else 2


def frozen_gigabytes(config: TrainConfig, base: float) -> float:
    """The base, or a rank's part of it; the text encoders, unless captions are read before; VAE and recogniser.

    base: its numbers.
    """
    each = _format_bytes(config)
    parts = ranks() if config.sharding == "fsdp" else 1
    t5 = _T5 * base * (_QUANTISED["nf4"] if config.base_storage == "nf4" else each)
    text = 0.0 if config.text_embeddings == "cached" else t5 + _CLIP * base * each
    return (base * _QUANTISED.get(config.base_storage, each) / parts + text + _VAE * base * each) / 1e9
