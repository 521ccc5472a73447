"""One case's scores from embeddings alone: no model, no file. Paper A.4, Eq. 31-34; WithAnyone (arXiv 2510.14975), 4.2.

A case is one picture: `gen` are the faces found in it, `gt` those of the real photo, `refs` one face per reference.
Embeddings may have any scale and number format; everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

Rows = NDArray[np.float64]
TINY_ANGLE = 1e-6
"""Radians. Reference and original nearer than this are the same face: nothing tells copying from knowing."""


@dataclass(frozen=True)
class FaceScores:
    """One generated face; None where no original or reference fell to it, or the protocol defines none.

    original, reference: which of them it was matched with.
    """

    sim_gt: float | None
    sim_ref: float | None
    copy_paste: float | None
    original: int | None
    reference: int | None


@dataclass(frozen=True)
class CaseScore:
    """One picture. Means over matched faces; None where the protocol defines none. faces: in generated order.

    blending: mean similarity of faces to originals that are not theirs, for two people and more; lower is better.
    """

    sim_gt: float | None
    sim_ref: float | None
    copy_paste: float | None
    blending: float | None
    faces: tuple[FaceScores, ...]


def copy_paste(gen: ArrayLike, gt: ArrayLike, ref: ArrayLike) -> float:
    """-1: the face of the real photo; 1: the face of the reference; 0: as far from both. Source: Eq. 34.

    (θ(gen, gt) - θ(gen, ref)) / θ(gt, ref), angles on the unit sphere. gen, gt, ref: [d], any scale. 0 where gt and ref
    are the same. Raises ValueError for other shapes and numbers that are not finite.
    """
    g, t, r = (_row(vector) for vector in (gen, gt, ref))
    between = _angle(t, r)
    return 0.0 if between < TINY_ANGLE else (_angle(g, t) - _angle(g, r)) / between


def score_faces(gen: ArrayLike, gt: ArrayLike, refs: Sequence[ArrayLike | None] | None) -> CaseScore:
    """Source: Eq. 31-34, Hungarian matching; METRICS: as WithAnyone's evaluator does it for one face model.

    gen: [G, d], gt: [T, d]; G or T may be 0. refs: [d] each, None for a reference without a face; None altogether where
    there are none. A case that lacks a reference's face has no Sim(Ref); copy-paste needs as many faces as originals
    and references. Swapping people is not seen here: each face takes the original it resembles. Raises ValueError.
    """
    generated, originals = _rows(gen), _rows(gt)
    whole = refs is not None and len(refs) > 0 and all(ref is not None for ref in refs)
    references = _rows([ref for ref in refs or () if ref is not None]) if whole else np.zeros((0, 0))
    similar, to_original = _matched(generated, originals)
    alike, to_reference = _matched(generated, references)
    pasted = len(generated) == len(originals) == len(references) > 0
    faces = []
    for k, face in enumerate(generated):
        t, r = to_original.get(k), to_reference.get(k)
        faces.append(
            FaceScores(
                sim_gt=None if t is None else float(similar[k, t]),
                sim_ref=None if r is None else float(alike[k, r]),
                copy_paste=copy_paste(face, originals[t], references[r]) if pasted and None not in (t, r) else None,
                original=t, reference=r,
            )
        )  # fmt: skip
    return CaseScore(
        _mean([face.sim_gt for face in faces]), _mean([face.sim_ref for face in faces]),
        _mean([face.copy_paste for face in faces]), _blending(similar, to_original), tuple(faces),
    )  # fmt: skip


def cosines(one: ArrayLike, other: ArrayLike) -> Rows:
    """[n, d], [m, d] -> [n, m], -1 to 1; 0 for a vector of zeros."""
    similar: Rows = np.clip(_unit(_rows(one)) @ _unit(_rows(other)).T, -1.0, 1.0)
    return similar


def assignment(similar: Rows) -> dict[int, int]:
    """Row -> column, one to one, the sum of similarities the highest. Source: Eq. 31."""
    rows, columns = linear_sum_assignment(-similar)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True)}


def _matched(one: Rows, other: Rows) -> tuple[Rows, dict[int, int]]:
    if not len(one) or not len(other):
        return np.zeros((len(one), len(other))), {}
    similar = cosines(one, other)
    return similar, assignment(similar)


def _blending(similar: Rows, matched: dict[int, int]) -> float | None:
    """Undefined where there is one original, or nothing beside the matched cells."""
    if similar.shape[1] < 2 or not similar.size:
        return None
    rest = np.ones(similar.shape, bool)
    for row, column in matched.items():
        rest[row, column] = False
    return float(similar[rest].mean()) if rest.any() else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _angle(one: Rows, other: Rows) -> float:
    """Radians; exact also for nearly equal vectors, where an arc cosine loses half of all digits. π/2 with zeros."""
    a, b = _unit(one[None])[0], _unit(other[None])[0]
    if not a.any() or not b.any():
        return float(np.pi / 2)
    return float(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b)))


def _unit(rows: Rows) -> Rows:
    """Rows of length 1; zeros stay zeros. Scaled by the largest entry first: squares must not overflow."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: Rows = np.divide(scaled, length, out=scaled, where=length > 0)
    return unit


def _row(vector: ArrayLike) -> Rows:
    row = np.asarray(vector, np.float64)
    if row.ndim != 1 or not np.isfinite(row).all():
        raise ValueError(f"an embedding is one row of finite numbers, not {row.shape}")
    return row


def _rows(vectors: Any) -> Rows:
    rows = np.asarray(vectors, np.float64)
    if rows.size == 0:
        return np.zeros((0, rows.shape[-1] if rows.ndim == 2 else 0))
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"embeddings are rows of finite numbers, not {rows.shape}")
    return rows
