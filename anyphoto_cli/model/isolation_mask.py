"""The mask of identity-isolated attention, M of Eq. 19."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from anyphoto_cli.runtime.uploads import upload

SMALL = 2560
"""Tokens up to which masks are small, 13 MB in bfloat16: those of a whole batch are kept."""


def isolation_mask(n_global: int, lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """M of Eq. 19, [S, S]: 0 where a token may look, -inf elsewhere. Rows lie 16 bytes apart, as torch's masked kernels
    want them. Kept: every block of a model asks for the masks of a batch, sample after sample.
    """
    kept = _of_a_batch if n_global + sum(lengths) <= SMALL else _large
    return kept(n_global, lengths, device, dtype)


@torch.inference_mode(False)  # what is kept must do for training, too
def _made(n_global: int, lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    owner = upload(torch.arange(1 + len(lengths)).repeat_interleave(torch.tensor([n_global, *lengths])), device)
    i, j = owner[:, None], owner[None, :]
    allowed = (i == 0) | (j == 0) | (i == j)
    total = len(owner)
    mask = torch.zeros(total, -(-total // 8) * 8, dtype=dtype, device=device)[:, :total]
    return mask.masked_fill_(~allowed, float("-inf"))


_of_a_batch = functools.lru_cache(maxsize=16)(_made)
_large = functools.lru_cache(maxsize=2)(_made)
