"""Flow matching: the straight path from picture to noise, its velocity, and the clean picture it implies.

Source: paper 2.1, Eq. 6-8; 3.5, Eq. 20-22. Time runs from 0 (picture X_0) to 1 (noise X_1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def interpolate(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """X_t = (1 - t) X_0 + t X_1. clean, noise: [n, ...]; t: [n], 0-1, float32. Source: Eq. 6, 21."""
    share = t.view(-1, *[1] * (clean.ndim - 1))
    return (1 - share) * clean + share * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """u = X_1 - X_0, what the model is to say at every t. Source: Eq. 7."""
    return noise - clean


def clean_estimate(noisy: Tensor, said: Tensor, t: Tensor) -> Tensor:
    """X_0 as the model's velocity implies it in one step: X_t - t v. t: [n]. Source: Eq. 22."""
    return noisy - t.view(-1, *[1] * (noisy.ndim - 1)) * said


def flow_loss(said: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity, in float32. Source: Eq. 8, 20."""
    return (said.float() - velocity(clean, noise).float()).square().mean()


@dataclass(frozen=True)
class TimeRule:
    """How times are drawn. mean, std: of the normal whose logistic is t (logit-normal; ours, the paper is silent).

    face_max: the face loss is asked for where t is at most this. 1: always, as the paper's text has it.
    """

    mean: float = 0.0
    std: float = 1.0
    face_max: float = 1.0


@dataclass(frozen=True, eq=False)
class Times:
    """t: [n] float32, 0-1. with_faces: whether all of them are at most `face_max`; the same on every rank."""

    t: Tensor
    with_faces: bool


def draw_times(count: int, rule: TimeRule, seed: int, step: int, rank: int) -> Times:
    """Times of one micro-step, a pure function of (seed, step, rank).

    One coin, shared by all ranks, decides whether the micro-step lies in t <= face_max; then every rank decodes faces
    or none does, and nobody waits for the one that must. Over many steps t is logit-normal all the same.
    """
    boundary = _share_below(rule)
    coin = torch.rand((), generator=generator(seed, step, -1), dtype=torch.float64).item()
    with_faces = coin < boundary
    u = torch.rand(count, generator=generator(seed, step, rank), dtype=torch.float64)
    low, high = (0.0, boundary) if with_faces else (boundary, 1.0)
    # The inverse of the normal's distribution, on the part of it that the coin chose; never quite 0 or 1.
    quantile = (low + u * (high - low)).clamp(1e-9, 1 - 1e-9)
    t = torch.sigmoid(rule.mean + rule.std * torch.special.ndtri(quantile))
    return Times(t.float().clamp(max=rule.face_max if with_faces else 1.0), with_faces)


def _share_below(rule: TimeRule) -> float:
    """P(t <= face_max)."""
    if rule.face_max >= 1:
        return 1.0
    if rule.face_max <= 0:
        return 0.0
    logit = torch.logit(torch.tensor(rule.face_max, dtype=torch.float64))
    return float(torch.special.ndtr((logit - rule.mean) / rule.std))


def draw_noise(shape: tuple[int, ...], seed: int, step: int, rank: int, salt: int = 1) -> Tensor:
    """Standard normal float32 on the CPU, the same on every device, a pure function of (seed, step, rank, salt).

    salt: what it is for; 1 is X_1.
    """
    return torch.randn(shape, generator=generator(seed, step, rank, salt))


def generator(seed: int, step: int, rank: int, salt: int = 0) -> torch.Generator:
    """A stream of its own for each step, rank and use: nothing needs to be saved to go on exactly.

    torch's generator for CPUs takes 32 bits of a seed, so that a few of many are the same: among as many as the paper's
    200,000 steps on 64 ranks draw for X_1, one in 300 has a twin. Noise that comes again as seldom does no harm.
    """
    import numpy as np

    words = np.random.SeedSequence([seed, step, rank + 1, salt]).generate_state(2, np.uint64)
    return torch.Generator().manual_seed(int(words[0] & np.uint64(2**63 - 1)))
