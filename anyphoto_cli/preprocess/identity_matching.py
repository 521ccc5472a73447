"""Who is who: faces of a picture against known identities. Paper A.2, "greedy matching".

Each pair of a face and an identity has a score: the cosine to the identity's reference embeddings and, where the
source has boxes with names, the overlap of the face's box with the box of that name. Pairs are taken from the best
score down; each face and each identity is used once, and nothing below the threshold is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.data.bank import mean_direction
from anyphoto_cli.geometry import intersection
from anyphoto_cli.types import Box, Embeddings


@dataclass(frozen=True, eq=False)
class KnownIdentities:
    """A bank as the matching sees it. names: sorted, unique. centres: [n, 512]. members: [m, 512] all references, and
    of_member: [m] which identity each belongs to. All of unit length.
    """

    names: tuple[str, ...]
    centres: Embeddings
    members: Embeddings
    of_member: NDArray[np.int64]


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


def match_identities(
    boxes: Sequence[Box],
    embeddings: Embeddings,
    known: KnownIdentities,
    named_boxes: Sequence[tuple[Box, str]] = (),
    rule: MatchingRule = MatchingRule(),
) -> list[Match | None]:
    """boxes, embeddings [f, 512]: the faces found. named_boxes: what the source says, names "" left out.

    One entry a face, None where nobody fits. Equal scores: the earlier face first, then the name that sorts first.
    """
    names, scores, cosines = pair_scores(boxes, embeddings, known, named_boxes, rule)
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
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """(names, scores [f, n], cosines [f, n]); names: the bank's and those that only the source knows, sorted.

    Without named boxes the score is the cosine. With them it is the weighted sum; a name without any reference is
    scored by overlap alone, and its cosine is nan.
    """
    told = [(box, name) for box, name in named_boxes if name]
    names = tuple(sorted({*known.names, *(name for _, name in told)}))
    column = {name: k for k, name in enumerate(names)}
    cosines = np.full((len(boxes), len(names)), np.nan)
    if known.names:
        cosines[:, [column[name] for name in known.names]] = _cosines(embeddings, known, rule.centre_weight)
    if not told:
        return names, np.where(np.isnan(cosines), -1.0, cosines), cosines
    overlaps = np.zeros_like(cosines)
    for box, name in told:
        for face, found in enumerate(boxes):
            overlaps[face, column[name]] = max(overlaps[face, column[name]], iou(found, box))
    blended = rule.overlap_weight * overlaps + (1 - rule.overlap_weight) * cosines
    return names, np.where(np.isnan(cosines), overlaps, blended), cosines


def _cosines(embeddings: Embeddings, known: KnownIdentities, centre_weight: float) -> NDArray[np.float64]:
    """[f, identities of the bank]."""
    to_centres = embeddings.astype(np.float64) @ known.centres.T.astype(np.float64)
    best = np.full_like(to_centres, -1.0)
    to_members = embeddings.astype(np.float64) @ known.members.T.astype(np.float64)
    for row, values in zip(best, to_members, strict=True):
        np.maximum.at(row, known.of_member, values)
    return centre_weight * to_centres + (1 - centre_weight) * best


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
    every = np.concatenate(members) if names else np.zeros((0, 512), np.float32)
    return KnownIdentities(names, np.stack(middle) if names else every, every, owner)
