"""The second half of the VAE's training: on windows around faces, with the recogniser looking on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyphoto_cli.geometry import ARCFACE_SIZE, arcface_template, fit_similarity
from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.picture import draw_picture
from anyphoto_cli.mini.pretrain.loop import Schedule, fit, load_trained
from anyphoto_cli.mini.pretrain.phases import VAE, last_begun
from anyphoto_cli.mini.pretrain.vae import as_tensor, build_vae, distance

SCHEDULE = Schedule(steps=6000, batch=8, lr=3.5e-4, decay=0.9, betas=(0.9, 0.99), weight_decay=0.0, ema=0.998)
POLISH = Schedule(steps=3200, batch=4, lr=2.5e-4, warmup=50, decay=0.9, betas=(0.9, 0.99), weight_decay=0.0, ema=0.995)
SIDE = 96
BLUR = 0.06
"""Most noise the latents get, in shares of their standard deviation: what a base renders is never exact."""
FACE_WEIGHT = 5.0
POLISHED = {"photo": 1.0, "pencil": 2.0, "watercolour": 1.0, "pixel": 1.5, "comic": 1.0, "sepia": 1.0}
"""Styles of the windows while the decoder is polished: the renderer's own mixture is photos, and of 24 pencil drawings
of four people six lost a face in the VAE.
"""
KL_WEIGHT = 1e-4


def refine_vae(folder: Path, recogniser_file: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Train or go on training; `folder`/refined.pt holds the state."""
    from anyphoto_cli.faces.recogniser_torch import load_recogniser

    torch.manual_seed(4)
    vae: Any = load_trained(folder, "vae", build_vae())
    vae = vae.to(device, memory_format=torch.channels_last)
    recogniser = load_recogniser(recogniser_file).to(device)

    def loss(model: nn.Module, numbers: range, step: int) -> dict[str, Tensor]:
        return refine_loss(model, recogniser, numbers, device)

    fit("refined", vae, loss, SCHEDULE.asked_for(), folder, device=device, minutes=minutes)


def polish_vae(folder: Path, recogniser_file: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Train the decoder on alone: latents that a base has learned stay what they are. `folder`/polished.pt."""
    from anyphoto_cli.faces.recogniser_torch import load_recogniser

    torch.manual_seed(7)
    vae: Any = trained_vae_parts(folder).to(device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    recogniser = load_recogniser(recogniser_file).to(device)

    def loss(model: nn.Module, numbers: range, step: int) -> dict[str, Tensor]:
        return refine_loss(model, recogniser, numbers, device, POLISHED)

    fit("polished", vae.train(), loss, POLISH, folder, device=device, minutes=minutes)


def trained_vae_parts(folder: Path) -> Any:
    """The VAE after the last of its phases that was run."""
    return load_trained(folder, last_begun(folder, *VAE), build_vae())


def refine_loss(
    vae: Any, recogniser: nn.Module, numbers: range, device: str, styles: dict[str, float] | None = None
) -> dict[str, Tensor]:
    """Distance of what is made of slightly noisy latents, and 1 - cosine of the face in it."""
    windows, landmarks = zip(*(face_window(number, styles) for number in numbers), strict=True)
    pictures = as_tensor(np.stack(windows)).to(device).contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(numbers.start)
    posterior = vae.encode(pictures).latent_dist
    latents = posterior.sample().float()
    share = BLUR * torch.rand(len(latents), 1, 1, 1, generator=generator).sub(0.5).clamp(min=0).mul(2)
    noise = latents.detach().std() * share.to(device) * torch.randn(latents.shape, generator=generator).to(device)
    decoded = vae.decode(latents + noise).sample.float()
    kl = posterior.kl().float().mean() / latents[0].numel()
    terms = distance(decoded, pictures)
    with torch.no_grad():
        before = F.normalize(recogniser(crop_faces(pictures, landmarks)).float(), dim=1)
    after = F.normalize(recogniser(crop_faces(decoded, landmarks)).float(), dim=1)
    cosine = (before * after).sum(1).mean()
    total = terms["loss"] + FACE_WEIGHT * (1 - cosine) + KL_WEIGHT * kl
    return terms | {"loss": total, "cosine": cosine, "kl": kl}


def face_window(number: int, styles: dict[str, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """([96, 96, 3] RGB, landmarks [5, 2] in it) around one face of picture `number`; one in six stands on white.

    styles: their weights; None: the picture's own.
    """
    chance = Chance("window", number)
    drawn = draw_picture(number, style=Chance("window style", number).weighted(styles) if styles else None)
    person = chance.pick([p for p in drawn.people if p.visible > 0.5] or drawn.people)
    height, width = drawn.pixels.shape[:2]
    middle = person.landmarks.mean(0)
    left = int(min(max(middle[0] - SIDE / 2 + chance.bell(6), 0), width - SIDE))
    top = int(min(max(middle[1] - SIDE / 2 + chance.bell(6), 0), height - SIDE))
    pixels = drawn.pixels
    if chance.happens(1 / 6):
        x0, y0, x1, y1 = (max(round(value), 0) for value in person.face_box)
        pixels = np.full_like(pixels, 255)
        pixels[y0:y1, x0:x1] = drawn.pixels[y0:y1, x0:x1]
    return pixels[top : top + SIDE, left : left + SIDE], person.landmarks - (left, top)


def crop_faces(pictures: Tensor, landmarks: tuple[np.ndarray, ...]) -> Tensor:
    """[n, 3, H, W] -> [n, 3, 112, 112]: `norm_crop`'s warp, differentiable; landmarks px, the first centre is 0."""
    height, width = pictures.shape[-2:]
    target = np.stack(np.meshgrid(np.arange(ARCFACE_SIZE), np.arange(ARCFACE_SIZE)), -1).reshape(-1, 2)
    grids = []
    for points in landmarks:
        onto = fit_similarity(points, arcface_template()).matrix
        at = (target - onto[:, 2]) @ np.linalg.inv(onto[:, :2]).T
        grids.append((at + 0.5) * (2 / np.array([width, height])) - 1)
    grid = torch.from_numpy(np.stack(grids)).float().reshape(-1, ARCFACE_SIZE, ARCFACE_SIZE, 2).to(pictures.device)
    return F.grid_sample(pictures.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
