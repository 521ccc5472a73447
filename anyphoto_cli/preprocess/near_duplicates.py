"""Photos that are one: equal bytes, or perceptual hashes that differ in a few bits. The first in the list is kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_ROWS = 2048


def first_of_each(hashes: Hashes, distance: int) -> NDArray[np.int64]:
    """For each hash -1 when it is kept, else the place of the earlier kept one that it repeats.

    hashes: [n] uint64. A hash is dropped when an earlier kept one differs in at most `distance` bits.
    """
    earlier: NDArray[np.int64] = np.full(len(hashes), -1, np.int64)
    pairs = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *_near(hashes, distance)]), axis=0)
    order = np.lexsort((pairs[:, 0], pairs[:, 1]))
    for first, second in pairs[order].tolist():
        if earlier[second] < 0 and earlier[first] < 0:
            earlier[second] = first
        elif earlier[second] < 0 and hashes[first] == hashes[second]:
            earlier[second] = earlier[first]
    return earlier


def _near(hashes: Hashes, distance: int) -> Iterator[NDArray[np.int64]]:
    """Pairs (i < j) within `distance`: those agree wholly in at least one of distance + 1 bands of their bits."""
    if distance < 0:
        return
    edges = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] ^ np.uint64(1)))
        for group in np.split(order, starts[1:]):
            if len(group) > 1:
                yield from _within(hashes, np.sort(group), distance)


def _within(hashes: Hashes, group: NDArray[np.int64], distance: int) -> Iterator[NDArray[np.int64]]:
    """Pairs within one group; equal hashes are told once each, so that a million white pictures stay cheap."""
    _, firsts, which = np.unique(hashes[group], return_index=True, return_inverse=True)
    repeats = np.flatnonzero(firsts[which] != np.arange(len(group)))
    yield np.stack([group[firsts[which[repeats]]], group[repeats]], 1)
    single = np.sort(group[firsts])
    for start in range(0, len(single), _ROWS):
        some = single[start : start + _ROWS]
        apart = np.bitwise_count(hashes[some][:, None] ^ hashes[single][None])
        a, b = np.nonzero((apart <= distance) & (some[:, None] < single[None]))
        yield np.stack([some[a], single[b]], 1)
