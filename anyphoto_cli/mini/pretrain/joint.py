"""Flow matching and guidance at once, for a base that has learned both: neither is unlearned while the other goes on.

Told 1, the base learns from pictures; told more, from what guidance by two passes of its own averaged weights gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyphoto_cli.mini.pretrain.base import (
    MiniBase,
    batch,
    distil_loss,
    is_hidden,
    length_at,
    noise_and_time,
    velocity_error,
)
from anyphoto_cli.mini.pretrain.loop import Schedule, begin_with, fit, load_trained

NAME = "joint"
SCHEDULE = Schedule(
    steps=10_000, batch=64, lr=8e-4, warmup=200, decay=0.5, betas=(0.9, 0.98), weight_decay=0.02, ema=0.999,
    muon_lr=1.6e-3,
)  # fmt: skip
DISTIL_EVERY = 2
"""Every second step is of guidance; it takes half as long again as one of flow matching."""
TIMES = (0.4, 1.2)
"""As `base.TIMES`; later in noise, where a short run before settled too few people."""


def train_jointly(folder: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Go on from `folder`/base.pt, a base that guidance was distilled into, or from where this stopped."""
    torch.manual_seed(4)
    base, teacher = MiniBase(), MiniBase().to(device).requires_grad_(False)
    begin_with(folder, NAME, load_trained(folder, "base", base))
    fit(NAME, base, lambda model, numbers, step: joint_loss(model, teacher, numbers, step, folder, device),
        SCHEDULE.asked_for(), folder, device=device, minutes=minutes, log_every=100, hidden=is_hidden,
        average_in=teacher)  # fmt: skip


def joint_loss(model: Any, teacher: Any, numbers: range, step: int, folder: Path, device: str) -> dict[str, Tensor]:
    """`base.distil_loss` in every second step, else the squared error of the velocity, told 1."""
    if step % DISTIL_EVERY == DISTIL_EVERY - 1:
        terms = distil_loss(model, teacher, numbers, step, folder, device)
        return {"loss": terms["loss"], "guidance": terms["loss"].detach()}
    latents, prompts, grid, weights = batch(numbers, step, folder, device)
    noise, t = noise_and_time(latents, numbers, TIMES)
    ones = torch.ones(len(latents), device=device)
    noisy = latents + t[:, None, None] * (noise - latents)
    velocity = model(noisy, t, model.read(prompts, length_at(step)), grid, ones)
    return velocity_error(velocity, noise - latents, weights)
