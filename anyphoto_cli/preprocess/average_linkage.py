"""Average linkage on cosines, exactly, without a table of all pairs: memory grows with the number of faces alone.

Of unit vectors the mean cosine between two groups is the dot product of the groups' means, so that means are all that
is kept. No group joins another before some pair of their faces is as alike as asked, so the connected components of
those pairs are clustered by themselves, each by the nearest-neighbour chain (Murtagh 1983). Higher bars first change
nothing of the result: they join what is most alike anyway, and leave small components at the last one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Means = NDArray[np.float32]
_STEPS = (2 / 3, 1 / 3, 0.0)
"""Of the way from the bar that was asked for to a cosine of 1."""
_CELLS = 2**24
"""Of the table of all pairs, seen at a time: 64 MiB."""
_ROUNDING = 1e-6
"""Of a dot product: nearer by less is not nearer, or a chain could lead round."""


def average_linkage(rows: Means, least: float) -> NDArray[np.int64]:
    """[n, d] unit vectors -> [n] number of the group of each. The two groups most alike are joined first, as long as
    their mean cosine is at least `least`.
    """
    group = np.arange(len(rows))
    means, sizes = np.asarray(rows, np.float32), np.ones(len(rows))
    for step in _STEPS:
        joined = _joined(means, sizes, least + (1 - least) * step)
        means, sizes = _means(means, sizes, joined)
        group = joined[group]
    return group


def _joined(means: Means, sizes: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """[n] the new number of each group: 0, 1, ... without a gap."""
    into = np.arange(len(means))
    for members in _components(means, least):
        into[members] = members[_chained(means[members], sizes[members], least)]
    numbered: NDArray[np.int64] = np.unique(into, return_inverse=True)[1]
    return numbered


def _means(means: Means, sizes: NDArray[np.float64], joined: NDArray[np.int64]) -> tuple[Means, NDArray[np.float64]]:
    order = np.argsort(joined, kind="stable")
    starts = np.flatnonzero(np.diff(joined[order], prepend=-1))
    together = np.add.reduceat(sizes[order], starts)
    shares = (sizes[order] / together[joined[order]]).astype(np.float32)
    return np.add.reduceat(means[order] * shares[:, None], starts), together


def _components(means: Means, least: float) -> Iterator[NDArray[np.int64]]:
    """Places of the rows that pairs with a dot product of at least `least` connect; single rows left out."""
    label = _labels(means, least)
    order = np.argsort(label, kind="stable")
    starts = np.flatnonzero(np.diff(label[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        if len(members) > 1:
            yield members


def _labels(means: Means, least: float) -> NDArray[np.int32]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(means)
    label = np.arange(count, dtype=np.int32)
    at = 0
    while at < count:
        end = at + max(_CELLS // (count - at), 1)
        near = means[at:end] @ means[at:].T >= least
        near &= label[at:end, None] != label[None, at:]
        one, other = np.nonzero(near)
        if len(one):
            pairs = np.unique(np.stack([label[at + one], label[at + other]]), axis=1)
            graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), (count, count))
            label = connected_components(graph, directed=False)[1][label]
        at = end
    return label


def _chained(means: Means, sizes: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """[m] for each row the first of its group, by the nearest-neighbour chain: from a row to its nearest, on to that
    one's nearest, until two are each other's nearest. These are joined; who has nobody near enough stays as it is.
    """
    into = np.arange(len(means))
    place = np.arange(len(means))
    means, sizes, free = means.copy(), sizes.copy(), np.ones(len(means), bool)
    left, chain = len(means), list[int]()
    while left:
        if not chain:
            if 2 * left < len(free):
                means, sizes, place, free = means[free], sizes[free], place[free], free[free]
            chain.append(int(np.argmax(free)))
        tip = chain[-1]
        alike = np.where(free, means @ means[tip], -np.inf)
        alike[tip] = -np.inf
        nearest = int(np.argmax(alike))
        if len(chain) > 1 and alike[chain[-2]] >= alike[nearest] - _ROUNDING:
            nearest = chain[-2]
        if alike[nearest] < least:
            free[tip], left = False, left - 1
            chain.pop()
        elif len(chain) > 1 and nearest == chain[-2]:
            chain = chain[:-2]
            first, second = min(tip, nearest), max(tip, nearest)
            both = sizes[first] + sizes[second]
            means[first] += np.float32(sizes[second] / both) * (means[second] - means[first])
            sizes[first], free[second], left = both, False, left - 1
            into[place[second]] = place[first]
        else:
            chain.append(nearest)
    for row in range(len(into)):  # a group's number is lower than those it took in
        into[row] = into[into[row]]
    return into
