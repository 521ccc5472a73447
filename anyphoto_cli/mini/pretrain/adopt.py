"""The shipped weights as checkpoints: training goes on from them on a machine that never saw the first part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.pretrain.base import MiniBase
from anyphoto_cli.mini.pretrain.loop import begin_with
from anyphoto_cli.mini.pretrain.reading import trained_encoders
from anyphoto_cli.mini.pretrain.vae import build_vae


def adopt_shipped(folder: Path) -> None:
    """Write `folder`/vae.pt and base.pt from the package; what is there stays. The optimiser begins anew.

    Encoders that learned to read in `folder` take the place of the shipped ones.
    """
    parts = shipped.base_folder()
    vae, base = build_vae(), MiniBase()
    _load(vae, parts / "vae" / "diffusion_pytorch_model.safetensors")
    _load(base.transformer, parts / "transformer" / "diffusion_pytorch_model.safetensors")
    _load(base.clip, parts / "text_encoder" / "model.safetensors")
    _load(base.t5, parts / "text_encoder_2" / "model.safetensors")
    begin_with(folder, "vae", vae)
    if (folder / "text.pt").is_file():
        base.learn_from(*trained_encoders(folder))
    begin_with(folder, "base", base)


def _load(module: nn.Module, file: Path) -> None:
    """float16 on disk, float32 in training. Tensors that share memory stand once in the file."""
    from safetensors.torch import load_file

    stored: dict[str, Any] = {name: value.to(torch.float32) for name, value in load_file(file).items()}
    missing, unexpected = module.load_state_dict(stored, strict=False)
    shared = {name for name, _ in module.named_parameters()}
    if unexpected or shared & set(missing):
        raise ValueError(f"{file} does not fit: {[*unexpected, *missing][:3]}")
