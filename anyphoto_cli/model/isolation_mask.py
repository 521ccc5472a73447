"""The mask of identity-isolated attention, M of Eq. 19."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict

import torch
from torch import Tensor

from anyphoto_cli.runtime.uploads import upload

SMALL = 2560
"""Tokens up to which masks are small, 13 MB in bfloat16: those of a whole batch are kept."""


def isolation_mask(n_global: int, lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """M of Eq. 19, [S, S]: 0 where a token may look, -inf elsewhere. Rows lie 16 bytes apart, as torch's masked kernels
    want them. Kept: every block of a model asks for the masks of a batch, sample after sample.
    """
    if n_global + sum(lengths) <= SMALL:
        return _small(n_global, lengths, device, dtype)
    return _large(n_global, lengths, device, dtype)


def keep_masks_of(different: int) -> None:
    """Keep the small masks of a batch of so many different samples until a batch of fewer comes."""
    _small.room_for(different)


@torch.inference_mode(False)  # what is kept must do for training, too
def _made(n_global: int, lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    owner = upload(torch.arange(1 + len(lengths)).repeat_interleave(torch.tensor([n_global, *lengths])), device)
    i, j = owner[:, None], owner[None, :]
    allowed = (i == 0) | (j == 0) | (i == j)
    total = len(owner)
    mask = torch.zeros(total, -(-total // 8) * 8, dtype=dtype, device=device)[:, :total]
    return mask.masked_fill_(~allowed, float("-inf"))


class _Kept:
    """The masks asked for last: `least` of them, or as many as the batch at hand has. A cache with less room than a
    batch has samples gives none back: each is out again before the next block asks for it.
    """

    def __init__(self, least: int) -> None:
        self.least, self.room = least, least
        self.masks: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(
        self, n_global: int, lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> Tensor:  # fmt: skip
        key = n_global, lengths, device, dtype
        with self._lock:
            if key not in self.masks:
                self.masks[key] = _made(n_global, lengths, device, dtype)
            self.masks.move_to_end(key)
            self._trim()
            return self.masks[key]

    def room_for(self, different: int) -> None:
        with self._lock:
            self.room = max(self.least, different)
            self._trim()

    def _trim(self) -> None:
        while len(self.masks) > self.room:
            self.masks.popitem(last=False)


_small = _Kept(least=16)
_large = functools.lru_cache(maxsize=2)(_made)
