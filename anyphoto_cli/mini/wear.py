"""Portraits as bad photos: enlarged from few pixels, some grey, off in colour, noisy.

What a location canvas shows of such a face is little; a recogniser still knows the person.
"""

from __future__ import annotations

import numpy as np

from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.types import Picture

GREY = 0.4
NOISE = 10


def worn(pixels: Picture, chance: Chance) -> Picture:
    """[H, W, 3] 0-255 -> the same size. A head of 65 px becomes one of 13 to 21 px, enlarged again."""
    import cv2

    height, width = pixels.shape[:2]
    share = chance.uniform(0.2, 0.32)
    few = cv2.resize(pixels, (round(width * share), round(height * share)), interpolation=cv2.INTER_AREA)
    values = cv2.resize(few, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.int32)
    if chance.happens(GREY):
        values = np.repeat((values @ np.array([77, 150, 29]) >> 8)[..., None], 3, -1)
    gain = np.rint([chance.uniform(0.75, 1.25) * 256 for _ in range(3)]).astype(np.int32)
    # RandomState's stream is frozen, a Generator's is not: the same bytes with every numpy.
    noise = np.random.RandomState(chance.below(2**31)).randint(-NOISE, NOISE + 1, values.shape)
    spoilt: Picture = np.clip((values * gain >> 8) + noise, 0, 255).astype(np.uint8)
    return spoilt
