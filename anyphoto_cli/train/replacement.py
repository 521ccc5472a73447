"""Reference replacement: instead of the face in the picture, another photo of the person is pasted. Paper 3.5, 4.1.

Pasting the very face that is to be drawn teaches copying; the curriculum begins with it, because it is easy, and ends
with another photo half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MILESTONES = ((0.0, 0.0), (0.05, 0.1), (0.10, 0.2), (0.20, 0.3), (0.30, 0.4), (0.40, 0.5))
"""(share of all steps, p from there on). The paper gives 0 -> 0.5 at milestones, not which; these are ours."""


def replacement_probability(step: int, total: int, rule: str, highest: float) -> float:
    """p of a step: a pure function of it, so that a resumed run has what an uninterrupted one has.

    rule: "curriculum" (from 0 up to `highest` at the milestones) or "fixed" (`highest` throughout; Table B).
    """
    if rule == "fixed":
        return highest
    share = step / max(total, 1)
    reached = [p for begins, p in MILESTONES if share >= begins]
    return reached[-1] / MILESTONES[-1][1] * highest


def choose_reference(own: str, photos: Sequence[str], p: float, rng: np.random.Generator) -> int:
    """-1 for the face in the picture itself, else which of the bank's photos of the person.

    own: the picture's source; a photo of that source is no other photo. Always two draws, so that what follows in the
    stream does not depend on p.
    """
    replace, pick = rng.random(), rng.random()
    others = [k for k, photo in enumerate(photos) if photo != own]
    if not others or replace >= p:
        return -1
    return others[int(pick * len(others))]
