"""Pictures to FLUX latents and back, for any diffusers VAE of 16 channels and /8: AutoencoderKL, or the tiny TAEF1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from anyphoto_cli.types import Picture

DOWN = 8
"""Pixels per latent pixel."""


def to_pixels(pictures: Sequence[Picture]) -> Tensor:
    """[H, W, 3] uint8 each -> [n, 3, H, W] float32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.ascontiguousarray(picture) for picture in pictures]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(vae: Any, pixels: Tensor, latent: str = "mode", generator: torch.Generator | None = None) -> Tensor:
    """[n, 3, H, W] in [-1, 1] -> [n, 16, H/8, W/8], shifted and scaled as the transformer expects.

    latent: "mode" or "sample" of the posterior (a VAE without one gives its latents). Runs in the VAE's own format.
    """
    encoded = vae.encode(pixels.to(vae.dtype))
    if hasattr(encoded, "latent_dist"):
        posterior = encoded.latent_dist
        z = posterior.mode() if latent == "mode" else posterior.sample(generator)
    else:
        z = encoded.latents
    return cast(Tensor, (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """[n, 16, h, w] -> [n, 3, 8h, 8w], about [-1, 1]; the inverse of `encode` as far as the VAE is one."""
    z = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return cast(Tensor, vae.decode(z.to(vae.dtype), return_dict=False)[0])
