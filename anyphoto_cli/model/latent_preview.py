"""What a picture is going to be, while it is still noise: a coarse guess at every step, for next to nothing.

The picture at the end of the straight path is x_t - t v (Eq. 7). From latents to colours a linear map does, one pixel a
latent: it is fitted once, to a chart of colours that the VAE itself has encoded, so that it fits any VAE.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyphoto_cli.model.vae import encode, to_pixels
from anyphoto_cli.types import Picture

_SIDE, _PX = 192, 8
"""Of the chart, px; picture px a latent."""


class LatentPreview:
    """Fitted to a VAE. Feed it the latents of each step, in their order."""

    def __init__(self, vae: Any, device: torch.device, latent: str) -> None:
        chart = _chart()
        latents = encode(vae, to_pixels([chart], device), latent)[0].float().cpu()
        colours = torch.from_numpy(chart).float().unfold(0, _PX, _PX).unfold(1, _PX, _PX).mean((-1, -2))
        rows = torch.cat([latents.flatten(1).T, torch.ones(latents[0].numel(), 1)], 1)
        self._map: Tensor = torch.linalg.lstsq(rows, colours.reshape(-1, 3)).solution
        self._before: tuple[Tensor, float] | None = None

    def picture(self, latents: Tensor, t: float) -> Picture | None:
        """latents: [c, H/8, W/8] at time t (1: noise, 0: the picture) -> [H/8, W/8, 3]; None at the first step.

        Where the next step cannot be told from the last, the latents themselves are shown.
        """
        now, before = latents.detach().float().cpu(), self._before
        self._before = (now, t)
        if before is None:
            return None
        moved = t - before[1]
        clean = now - t * (now - before[0]) / moved if abs(moved) > 1e-6 and now.shape == before[0].shape else now
        rows = torch.cat([clean.flatten(1).T, torch.ones(clean[0].numel(), 1)], 1)
        colours = (rows @ self._map).clamp(0, 255).round().byte().numpy()
        shown: Picture = np.ascontiguousarray(colours.reshape(*clean.shape[1:], 3))
        return shown


def _chart() -> Picture:
    """Patches of 24 px in colours by chance, blurred into each other: flat parts and edges of every kind."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (_SIDE // 24, _SIDE // 24, 3)).astype(np.float64)
    sharp = np.kron(patches, np.ones((24, 24, 1)))
    soft = np.mean([np.roll(sharp, (dy, dx), (0, 1)) for dy in range(-6, 7, 3) for dx in range(-6, 7, 3)], 0)
    chart: Picture = np.concatenate([sharp[: _SIDE // 2], soft[_SIDE // 2 :]]).round().astype(np.uint8)
    return chart
