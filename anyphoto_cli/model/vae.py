"""Pictures to FLUX latents and back, for any diffusers VAE of 16 channels and /8: AutoencoderKL, or the tiny TAEF1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from anyphoto_cli.runtime.uploads import upload
from anyphoto_cli.types import Picture

DOWN = 8
"""Pixels per latent pixel."""
PIXELS_AT_ONCE = {"cpu": 2**15, "cuda": 2**23}
"""So many are encoded in one call: what lies between the VAE's layers then stays in a CPU's caches (a third faster at
128 px), and of many large canvases within a GPU's memory: 8 at 1024 px.
"""


def to_pixels(pictures: Sequence[Picture], device: torch.device | None = None) -> Tensor:
    """[H, W, 3] uint8 each -> [n, 3, H, W] float32 in [-1, 1], on a device: they go there as bytes."""
    stacked = torch.from_numpy(np.stack([np.ascontiguousarray(picture) for picture in pictures]))
    stacked = upload(stacked, device or stacked.device)
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(vae: Any, pixels: Tensor, latent: str = "mode", generator: torch.Generator | None = None) -> Tensor:
    """[n, 3, H, W] in [-1, 1] -> [n, 16, H/8, W/8], shifted and scaled as the transformer expects.

    latent: "mode" or "sample" of the posterior (a VAE without one gives its latents). Runs in the VAE's own format.
    """
    found = posterior(vae, pixels)
    if not isinstance(found, Tensor):
        found = found.mode() if latent == "mode" else found.sample(generator)
    return cast(Tensor, (found - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor)


def posterior(vae: Any, pixels: Tensor) -> Any:
    """[n, 3, H, W] -> diffusers' distribution over [n, 16, H/8, W/8], or those latents where the VAE has none."""
    room = PIXELS_AT_ONCE.get(pixels.device.type, PIXELS_AT_ONCE["cuda"])
    parts = pixels.to(vae.dtype).split(max(room // (pixels.shape[-2] * pixels.shape[-1]), 1))
    encoded = [vae.encode(part) for part in parts]
    if not hasattr(encoded[0], "latent_dist"):
        return torch.cat([part.latents for part in encoded])
    distribution = type(encoded[0].latent_dist)
    return distribution(torch.cat([part.latent_dist.parameters for part in encoded]))


def decode(vae: Any, latents: Tensor) -> Tensor:
    """[n, 16, h, w] -> [n, 3, 8h, 8w], about [-1, 1]; the inverse of `encode` as far as the VAE is one."""
    z = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return cast(Tensor, vae.decode(z.to(vae.dtype), return_dict=False)[0])


@contextmanager
def tiling(vae: Any, on: bool) -> Iterator[None]:
    """Decode in overlapping tiles of the VAE's own size (1024 px for FLUX's) for a while; off: leave all as it is."""
    if not on or vae.use_tiling:
        yield
        return
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()
