"""Reference replacement: instead of the face in the picture, another photo of the person is pasted. Paper 3.5, 4.1.

Pasting the very face that is to be drawn teaches copying; the curriculum begins with it, because it is easy, and ends
with another photo half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.data.bank import BankIdentity

MILESTONES = ((0.0, 0.0), (0.05, 0.1), (0.10, 0.2), (0.20, 0.3), (0.30, 0.4), (0.40, 0.5))
"""(share of all steps, p from there on). The paper gives 0 -> 0.5 at milestones, not which; these are ours."""

SAME_PHOTO = 0.95
"""Cosine from which on two faces are one photo, saved twice: references are often copies from the photo folder, under
other names. Measured on 12 portraits (mbf512): the same at JPEG quality 75 .981-.998, at half size .975-.998, both
.968-.994, cut by 5 % .951-.999; other photos of the person .47-.73. Of 8,355 drawn faces .1 % have a reference so near.
"""


def replacement_probability(step: int, total: int, rule: str, highest: float) -> float:
    """p of a step: a pure function of it, so that a resumed run has what an uninterrupted one has.

    rule: "curriculum" (from 0 up to `highest` at the milestones) or "fixed" (`highest` throughout; Table B).
    """
    if rule == "fixed":
        return highest
    share = step / max(total, 1)
    reached = [p for begins, p in MILESTONES if share >= begins]
    return reached[-1] / MILESTONES[-1][1] * highest


def other_photos(source: str, own: NDArray[np.floating], known: BankIdentity) -> list[int]:
    """Which of the bank's photos of the person are not the picture itself, by name and by likeness.

    own: [512] of the face in the picture, which came from `source`.
    """
    rows, face = known.embeddings.astype(np.float64), own.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(face)
    cosines = rows @ face / np.maximum(lengths, 1e-9)
    return [k for k, name in enumerate(known.sources) if name != source and cosines[k] < SAME_PHOTO]


def choose_reference(others: Sequence[int], p: float, rng: np.random.Generator) -> int:
    """-1 for the face in the picture itself, else one of the other photos.

    Always two draws, so that what follows in the stream does not depend on p.
    """
    replace, pick = rng.random(), rng.random()
    if not others or replace >= p:
        return -1
    return others[int(pick * len(others))]
