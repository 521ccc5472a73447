"""Cosines of all pairs of photos, and what is asked of them, without ever holding them all."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 2**20
"""Cosines: 8 MB."""


class HighEnd:
    """Mean, maximum and a high quantile of `count` numbers that come in parts; only those above it are kept.

    The quantile is numpy's: between two of them it lies on the line.
    """

    def __init__(self, count: int, share: float) -> None:
        place = max(count - 1, 0) * share
        self.count, self._size, self._part = count, count - int(place), place % 1
        self._kept, self._held, self._least, self._sum = list[NDArray[np.float64]](), 0, -math.inf, 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """[n] more of them."""
        self._sum += float(values.sum())
        self._kept.append(values[values >= self._least])
        self._held += len(self._kept[-1])
        if self._held > 2 * self._size + AT_ONCE:
            self._highest()

    @property
    def mean(self) -> float:
        """Of all."""
        return self._sum / self.count

    @property
    def maximum(self) -> float:
        """Of all."""
        return float(self._highest().max())

    @property
    def quantile(self) -> float:
        """As many as the share says lie below."""
        kept = np.sort(self._highest())
        low, high = kept[0], kept[min(1, len(kept) - 1)]
        return float(low + (high - low) * self._part)

    def _highest(self) -> NDArray[np.float64]:
        """Down to the one just below the quantile; smaller ones are let go."""
        kept = np.concatenate(self._kept)
        if len(kept) > self._size:
            kept = np.partition(kept, -self._size)[-self._size :]
            self._least = float(kept.min())
        self._kept, self._held = [kept], len(kept)
        return kept


def of_one(rows: NDArray) -> Iterator[NDArray[np.float64]]:
    """[n, d] of one person, unit length -> cosines of each two, in parts."""
    for _, block in _blocks(rows):
        yield block[np.triu(np.ones(block.shape, bool), 1)]


def of_different(rows: NDArray, owner: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
    """[n, d], unit length, and whose each is, in rising order -> cosines of each two of different people, in parts."""
    for first, block in _blocks(rows):
        yield block[owner[first : first + len(block), None] < owner[None, first:]]


def _blocks(rows: NDArray) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(the first of some rows, their cosines with themselves and all behind them)."""
    exact, some = rows.astype(np.float64), max(AT_ONCE // max(len(rows), 1), 1)
    for first in range(0, len(rows), some):
        yield first, exact[first : first + some] @ exact[first:].T
