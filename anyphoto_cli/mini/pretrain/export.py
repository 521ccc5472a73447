"""Trained parts -> one diffusers folder of float16 safetensors that stock `FluxPipeline` opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyphoto_cli.mini.picture import draw_picture
from anyphoto_cli.mini.pretrain.base import MiniBase
from anyphoto_cli.mini.pretrain.loop import load_trained
from anyphoto_cli.mini.pretrain.phases import BASE, last_begun
from anyphoto_cli.mini.pretrain.refine import trained_vae_parts
from anyphoto_cli.mini.pretrain.vae import as_tensor

SHIFT = 1.6
"""How far the scheduler's times are drawn towards noise, at every size; FLUX.1-dev's rule gives .47 for 128 px. The
number of people is settled there: with fewer of the steps at it a render more often leaves one out or adds one.
"""


def trained_vae(folder: Path) -> Any:
    """The trained VAE with the shift and scale that make its latents a standard normal, as FLUX's have them."""
    vae = trained_vae_parts(folder)
    shift, scale = _latent_statistics(vae)
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return vae


@torch.no_grad()
def _latent_statistics(vae: Any, pictures: int = 256) -> tuple[float, float]:
    """(mean, 1 / standard deviation) over drawn pictures, rounded so that every machine writes the same."""
    drawn = np.stack([draw_picture(number).pixels for number in range(pictures)])
    latents = torch.cat([vae.encode(as_tensor(part)).latent_dist.mode() for part in np.split(drawn, 16)])
    return round(float(latents.mean()), 4), round(1 / float(latents.std()), 4)


def build_pipeline(vae: Any, base: Any) -> Any:
    """diffusers' own FluxPipeline around the trained parts, with FLUX.1-dev's scheduler but for `SHIFT`."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=SHIFT, max_shift=SHIFT, max_image_seq_len=4096
    )
    return FluxPipeline(scheduler, vae, base.clip, base.clip_tokenizer, base.t5, base.t5_tokenizer, base.transformer)


def trained_base(folder: Path) -> Any:
    """The base of the last stage that was begun."""
    return load_trained(folder, last_begun(folder, *BASE), MiniBase())


def export_base(folder: Path, out: Path) -> None:
    """Write the pipeline folder, all weights in float16."""
    pipeline = build_pipeline(trained_vae(folder), trained_base(folder))
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
