"""The VAE: /8, 16 channels, like FLUX's, on drawn pictures and on white canvases with a pasted face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.picture import draw_picture
from anyphoto_cli.mini.pretrain.loop import Schedule, fit

CROP = 64
PER_PICTURE = 2
SCHEDULE = Schedule(steps=7500, batch=8, lr=2e-3, warmup=200, decay=0.6, betas=(0.9, 0.99), weight_decay=0.0, ema=0.998)
KL_WEIGHT = 2e-4


def build_vae() -> Any:
    """diffusers' AutoencoderKL, 1.6 million numbers, without attention: it takes any size."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        latent_channels=16,
        block_out_channels=(24, 48, 72, 96),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
        sample_size=128,
    )


def train_vae(folder: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Train or go on training; `folder`/vae.pt holds the state."""
    torch.manual_seed(1)
    vae = build_vae().to(memory_format=torch.channels_last)
    fit("vae", vae, lambda model, numbers, step: vae_loss(model, numbers, device), SCHEDULE, folder,
        device=device, minutes=minutes)  # fmt: skip


def vae_loss(vae: Any, numbers: range, device: str) -> dict[str, Tensor]:
    """Distance in colour and in edges, and a faint pull of the latents to a standard normal."""
    pictures = as_tensor(np.concatenate([crops(number) for number in numbers[::PER_PICTURE]])).to(device)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    posterior = vae.encode(pictures).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    terms = distance(decoded, pictures)
    return terms | {"loss": terms["loss"] + KL_WEIGHT * kl, "kl": kl, "std": posterior.mean.detach().float().std()}


def distance(decoded: Tensor, pictures: Tensor) -> dict[str, Tensor]:
    """Squared and absolute error, and that of the edges."""
    difference = decoded.float() - pictures
    across, down = difference.diff(dim=-1).abs().mean(), difference.diff(dim=-2).abs().mean()
    loss = 4 * difference.square().mean() + 0.5 * difference.abs().mean() + 0.5 * (across + down)
    psnr = 10 * torch.log10(4 / difference.detach().square().mean((1, 2, 3))).mean()
    return {"loss": loss, "psnr": psnr}


def crops(number: int) -> np.ndarray:
    """[2, 64, 64, 3] RGB, 0-255, of picture `number`; one in eight lies on a white canvas, as references do."""
    chance = Chance("vae", number)
    pixels = draw_picture(number).pixels
    found = []
    for _ in range(PER_PICTURE):
        y, x = chance.below(pixels.shape[0] - CROP + 1), chance.below(pixels.shape[1] - CROP + 1)
        crop = pixels[y : y + CROP, x : x + CROP]
        found.append(_on_canvas(crop, chance) if chance.happens(0.125) else crop)
    return np.stack(found)


def _on_canvas(crop: np.ndarray, chance: Chance) -> np.ndarray:
    """A rectangle of the crop on white."""
    canvas = np.full_like(crop, 255)
    top, left = chance.below(CROP // 2), chance.below(CROP // 2)
    height, width = 16 + chance.below(CROP - 16 - top), 16 + chance.below(CROP - 16 - left)
    canvas[top : top + height, left : left + width] = crop[top : top + height, left : left + width]
    return canvas


def as_tensor(pictures: np.ndarray) -> Tensor:
    """[n, H, W, 3] 0-255 -> [n, 3, H, W], -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def reconstruct(vae: Any, pictures: Tensor) -> Tensor:
    """Encode and decode without chance. [n, 3, H, W], -1 to 1, both ways."""
    decoded: Tensor = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
    return decoded.clamp(-1, 1)
