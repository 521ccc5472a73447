"""A base that heeds the guidance it is told more: what FLUX.1-dev's 3.5 stands for is moved, not trained anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyphoto_cli.mini.pretrain.base import USUAL, MiniBase
from anyphoto_cli.mini.pretrain.loop import begin_with, load_trained
from anyphoto_cli.mini.pretrain.phases import HEEDING

AS, MOST = 4.5, 6.0
"""What it does when told `USUAL` from then on; told 1 and `MOST` it does what it did, in between evenly."""
FITTED, WEIGHT = 20_000, 5_000.0
"""Numbers that the first layer is fitted to, and how many of them each of 1 and `USUAL` counts for."""


def heed_more(folder: Path) -> None:
    """Write `folder`/heeding.pt, of guided.pt; anew each time."""
    base = load_trained(folder, "guided", MiniBase())
    move_guidance(base.transformer)
    (folder / f"{HEEDING}.pt").unlink(missing_ok=True)
    begin_with(folder, HEEDING, base)


def heard(told: Tensor) -> Tensor:
    """The number that is acted on, for the one told; [n], 1 to `MOST`."""
    below = 1 + (told - 1) * (AS - 1) / (USUAL - 1)
    return torch.where(told <= USUAL, below, AS + (told - USUAL) * (MOST - AS) / (MOST - USUAL))


@torch.no_grad()
def move_guidance(transformer: Any) -> None:
    """Least squares in the first layer that reads the number; nearly exact at 1 and `USUAL`. Elsewhere it is as smooth
    as the number's long waves make it: the short ones, by which two numbers .01 apart differ, mean nothing.
    """
    layer = transformer.time_text_embed.guidance_embedder.linear_1
    told = 1 + (MOST - 1) * torch.rand(FITTED, generator=torch.Generator().manual_seed(0))
    told = torch.cat([torch.tensor([1.0, USUAL]), told])
    weights = torch.ones(len(told), 1, dtype=torch.float64)
    weights[:2] = WEIGHT
    own = torch.cat([layer.weight, layer.bias[:, None]], 1).double()
    waves, wanted = _waves(transformer, told), _waves(transformer, heard(told)) @ own.T
    squares = waves.T @ (weights * waves) + torch.eye(waves.shape[1], dtype=torch.float64)
    own += torch.linalg.solve(squares, waves.T @ (weights * (wanted - waves @ own.T))).T
    layer.weight.copy_(own[:, :-1])
    layer.bias.copy_(own[:, -1])


def _waves(transformer: Any, told: Tensor) -> Tensor:
    """[n, 257]: the sines and cosines that the first layer reads, and 1 for its bias."""
    waves = transformer.time_text_embed.time_proj(told * 1000).double()
    return torch.cat([waves, torch.ones(len(told), 1, dtype=torch.float64)], 1)
