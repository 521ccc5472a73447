"""Photos that are one: equal bytes, or perceptual hashes that differ in a few bits. The first in the list is kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]
_BITS: Hashes = np.arange(64, dtype=np.uint64)
_SPLIT = 1024
"""Larger groups are split once more: from here on that is cheaper than to compare all with all."""


def first_of_each(hashes: Hashes, distance: int) -> NDArray[np.int64]:
    """For each hash -1 when it is kept, else the place of the earlier kept one that it repeats.

    hashes: [n] uint64. A hash is dropped when an earlier kept one differs in at most `distance` bits.
    """
    earlier: NDArray[np.int64] = np.full(len(hashes), -1, np.int64)
    pairs = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *_alike(hashes, distance)]), axis=0)
    order = np.lexsort((pairs[:, 0], pairs[:, 1]))
    for first, second in pairs[order].tolist():
        if earlier[second] < 0 and earlier[first] < 0:
            earlier[second] = first
        elif earlier[second] < 0 and hashes[first] == hashes[second]:
            earlier[second] = earlier[first]
    return earlier


def _alike(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """Pairs (i < j) within `distance`; equal hashes are told once each, so that a million white pictures stay cheap."""
    if distance < 0:
        return
    _, firsts, which = np.unique(hashes, return_index=True, return_inverse=True)
    repeats = np.flatnonzero(firsts[which] != np.arange(len(hashes)))
    yield np.stack([firsts[which[repeats]], repeats], 1)
    yield from _near(hashes, firsts, _BITS, distance)


def _near(hashes: Hashes, among: NDArray[np.int64], bits: Hashes, distance: int) -> Iterator[Pairs]:
    """Pairs of the places `among`, each at least once. bits: those in which these may differ.

    A pair agrees wholly in at least one of distance + 1 parts of them, and memory holds one pair a place at a time.
    """
    for part in np.array_split(bits, distance + 1):
        shown = hashes[among] & np.bitwise_or.reduce(np.uint64(1) << part)
        order = np.argsort(shown, kind="stable")
        shown, places = shown[order], among[order]
        _, starts, sizes = np.unique(shown, return_index=True, return_counts=True)
        large = sizes > (_SPLIT if len(bits) - len(part) > distance else len(places))
        for start, size in zip(starts[large].tolist(), sizes[large].tolist(), strict=True):
            yield from _near(hashes, places[start : start + size], np.setdiff1d(bits, part), distance)
        small = np.repeat(~large, sizes)
        yield from _within(hashes, places[small], shown[small], distance)


def _within(hashes: Hashes, places: NDArray[np.int64], shown: Hashes, distance: int) -> Iterator[Pairs]:
    """Pairs of the groups of equal `shown`, which stand side by side: each with its next, with its next but one, ..."""
    at, step = np.arange(len(places)), 1
    while len(at):
        at = at[: np.searchsorted(at, len(places) - step)]
        at = at[shown[at] == shown[at + step]]
        one, other = places[at], places[at + step]
        near = np.bitwise_count(hashes[one] ^ hashes[other]) <= distance
        yield np.stack([np.minimum(one, other)[near], np.maximum(one, other)[near]], 1)
        step += 1
