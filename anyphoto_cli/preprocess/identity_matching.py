"""Who is who: faces of a picture against known identities. Paper A.2, "greedy matching".

Each pair of a face and an identity has a score: the cosine to the identity's reference embeddings and, where the
source has boxes with names, the overlap of the face's box with the box of that name. Pairs are taken from the best
score down; each face and each identity is used once, and nothing below the threshold is taken.

Many faces meet the whole bank in one product of float32; what comes near the threshold is computed again in float64,
pair by pair, so that no score depends on the machine's way to multiply matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.data.bank import mean_direction
from anyphoto_cli.geometry import intersection
from anyphoto_cli.types import Box, Embeddings


@dataclass(frozen=True, eq=False)
class KnownIdentities:
    """A bank as the matching sees it. names: sorted, unique. centres: [n, 512]. members: [m, 512] all references, and
    of_member: [m] ascending, which identity each belongs to. All float32 and of unit length.
    """

    names: tuple[str, ...]
    centres: Embeddings
    members: Embeddings
    of_member: NDArray[np.int64]

    @cached_property
    def places(self) -> dict[str, int]:
        """Of the names."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[n + 1] where each identity's members begin."""
        return np.searchsorted(self.of_member, np.arange(len(self.names) + 1))


@dataclass(frozen=True, eq=False)
class Nearness:
    """Of faces to a bank, in float32. cosines: [f, identities] as they are scored. to_centre: [f] the highest to any
    centre.
    """

    cosines: NDArray[np.float32]
    to_centre: NDArray[np.float32]


@dataclass(frozen=True)
class Match:
    """The identity of a face. score: 0-1 (a cosine, or blended with the overlap). cosine: nan without a reference."""

    identity: str
    score: float
    cosine: float


@dataclass(frozen=True)
class MatchingRule:
    """threshold: least score. overlap_weight: share of the box overlap where the source names boxes. centre_weight:
    share of the cosine to the identity's centre, the rest being the best single reference.
    """

    threshold: float = 0.4
    overlap_weight: float = 0.4
    centre_weight: float = 0.5


_ERROR = 1e-3
"""More than float32 errs in a cosine."""


def match_identities(
    boxes: Sequence[Box],
    embeddings: Embeddings,
    known: KnownIdentities,
    named_boxes: Sequence[tuple[Box, str]] = (),
    rule: MatchingRule = MatchingRule(),
    near: NDArray[np.float32] | None = None,
) -> list[Match | None]:
    """boxes, embeddings [f, 512]: the faces found. named_boxes: what the source says, names "" left out. near: of these
    faces, `Nearness.cosines`, where they have been computed.

    One entry a face, None where nobody fits. Equal scores: the earlier face first, then the name that sorts first.
    """
    near = nearness(embeddings, known, rule.centre_weight).cosines if near is None else near
    names, scores, cosines = pair_scores(boxes, embeddings, known, named_boxes, rule, near)
    found: list[Match | None] = [None] * len(boxes)
    for face, column in greedy_pairs(scores, rule.threshold):
        found[face] = Match(names[column], float(scores[face, column]), float(cosines[face, column]))
    return found


def greedy_pairs(scores: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """[f, n] -> (row, column) pairs, best first, each row and column at most once, none below the threshold.

    Equal scores: the lower row first, then the lower column.
    """
    rows, columns = np.nonzero(scores >= threshold)
    order = np.lexsort((columns, rows, -scores[rows, columns]))
    used_rows, used_columns, pairs = set[int](), set[int](), []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    return pairs


def pair_scores(
    boxes: Sequence[Box],
    embeddings: Embeddings,
    known: KnownIdentities,
    named_boxes: Sequence[tuple[Box, str]],
    rule: MatchingRule,
    near: NDArray[np.float32],
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """(names, scores [f, n], cosines [f, n]); names: sorted, those of the bank that come near the threshold, and those
    that the source names.

    Without named boxes the score is the cosine. With them it is the weighted sum; a name without any reference is
    scored by overlap alone, and its cosine is nan.
    """
    overlaps = _overlaps(boxes, named_boxes)
    weight = 1 - rule.overlap_weight if overlaps else 1.0
    reached: list[int] = np.flatnonzero((weight * near >= rule.threshold - _ERROR).any(0)).tolist()
    names = tuple(sorted({*(known.names[place] for place in reached), *overlaps}))
    cosines = np.full((len(boxes), len(names)), np.nan)
    for column, name in enumerate(names):
        if name in known.places:
            cosines[:, column] = _cosines(embeddings, known, known.places[name], rule.centre_weight)
    if not overlaps:
        return names, cosines, cosines
    told = np.stack([overlaps.get(name, np.zeros(len(boxes))) for name in names], 1)
    blended = rule.overlap_weight * told + weight * cosines
    return names, np.where(np.isnan(cosines), told, blended), cosines


def _overlaps(boxes: Sequence[Box], named_boxes: Sequence[tuple[Box, str]]) -> dict[str, NDArray[np.float64]]:
    """Name -> [f] the best overlap with a box of that name."""
    found: dict[str, NDArray[np.float64]] = {}
    for box, name in named_boxes:
        if name:
            overlaps = np.array([iou(face, box) for face in boxes])
            found[name] = np.maximum(found.get(name, 0.0), overlaps)
    return found


def nearness(embeddings: Embeddings, known: KnownIdentities, centre_weight: float) -> Nearness:
    """embeddings: [f, 512]. Memory: f times the bank's references."""
    if not known.names:
        return Nearness(np.zeros((len(embeddings), 0), np.float32), np.zeros(len(embeddings), np.float32))
    to_centres = embeddings @ known.centres.T
    best = np.full_like(to_centres, -1.0)
    peopled = np.flatnonzero(np.diff(known.starts))
    if len(peopled):
        best[:, peopled] = np.maximum.reduceat(embeddings @ known.members.T, known.starts[peopled], axis=1)
    cosines = np.float32(centre_weight) * to_centres + np.float32(1 - centre_weight) * best
    return Nearness(cosines.astype(np.float32), to_centres.max(1, initial=-1.0).astype(np.float32))


def _cosines(embeddings: Embeddings, known: KnownIdentities, place: int, centre_weight: float) -> NDArray[np.float64]:
    """[f] to one identity of the bank: the share of its centre, and that of its best reference."""
    members = known.members[known.starts[place] : known.starts[place + 1]]
    rows = np.concatenate([known.centres[place][None], members]).astype(np.float64)
    each = (embeddings.astype(np.float64)[:, None] * rows).sum(2)
    cosines: NDArray[np.float64] = centre_weight * each[:, 0] + (1 - centre_weight) * each[:, 1:].max(1, initial=-1.0)
    return cosines


def iou(one: Box, other: Box) -> float:
    """Intersection over union, 0-1."""
    both = intersection(one, other).area
    return both / max(one.area + other.area - both, 1e-9)


def known_identities(references: Mapping[str, Embeddings], centres: Mapping[str, Embeddings]) -> KnownIdentities:
    """references: identity -> [k, 512]; centres: given ones, else the mean direction of the references."""
    names = tuple(sorted({*references, *centres}))
    members = [references.get(name, np.zeros((0, 512), np.float32)) for name in names]
    middle = [
        centres[name] if name in centres else mean_direction(rows) for name, rows in zip(names, members, strict=True)
    ]
    owner = np.repeat(np.arange(len(names)), [len(rows) for rows in members])
    every = np.concatenate(members).astype(np.float32) if names else np.zeros((0, 512), np.float32)
    return KnownIdentities(names, np.stack(middle).astype(np.float32) if names else every, every, owner)
