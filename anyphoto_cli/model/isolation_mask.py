"""The mask of identity-isolated attention, M of Eq. 19."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=2)
@torch.inference_mode(False)  # what is kept must do for training, too
def isolation_mask(n_global: int, lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """M of Eq. 19, [S, S]: 0 where a token may look, -inf elsewhere. Kept: the blocks of a model ask for one and the
    same. Rows lie 16 bytes apart, as torch's masked kernels want them.
    """
    owner = torch.tensor([0] * n_global + [i for i, n in enumerate(lengths, 1) for _ in range(n)], device=device)
    i, j = owner[:, None], owner[None, :]
    allowed = (i == 0) | (j == 0) | (i == j)
    total = len(owner)
    mask = torch.zeros(total, -(-total // 8) * 8, dtype=dtype, device=device)[:, :total]
    return mask.masked_fill_(~allowed, float("-inf"))
