"""The part of a picture that is trained on: the largest square that keeps every face of interest, where chance puts it.

Source: paper appendix A.2. Landmarks follow the crop; px, the centre of the first pixel is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyphoto_cli.types import Box, Picture, Points


@dataclass(frozen=True)
class SquareCrop:
    """x, y: corner in the picture, side: of the square, px. size: what it is scaled to, px."""

    x: int
    y: int
    side: int
    size: int

    def of_picture(self, picture: Picture) -> Picture:
        """[H, W, 3] -> [size, size, 3]; averaged where it shrinks."""
        import cv2

        cut = picture[self.y : self.y + self.side, self.x : self.x + self.side]
        if self.side == self.size:
            return np.ascontiguousarray(cut)
        way = cv2.INTER_AREA if self.side > self.size else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(cut, (self.size, self.size), interpolation=way))

    def of_points(self, points: Points) -> Points:
        """[n, 2] of the picture -> of the crop."""
        scale = self.size / self.side
        moved: Points = (points - (self.x, self.y) + 0.5) * scale - 0.5
        return moved

    def covers(self, box: Box) -> float:
        """0-1: the share of a box of the picture that lies inside."""
        wide = min(box.x1, self.x + self.side) - max(box.x0, self.x)
        high = min(box.y1, self.y + self.side) - max(box.y0, self.y)
        return max(wide, 0.0) * max(high, 0.0) / max(box.area, 1e-9)


def square_crop(width: int, height: int, keep: Box, size: int, rng: np.random.Generator) -> SquareCrop:
    """A square of the shorter side, anywhere along the longer one that holds `keep`; one draw.

    keep: of the sample's record. Where it is longer than the square, the square lies wholly within it, so that as many
    faces as possible stay; whoever is cut off is the caller's to leave out.
    """
    side, draw = min(width, height), float(rng.random())
    if width >= height:
        return SquareCrop(_place(keep.x0, keep.x1, side, width, draw), 0, side, size)
    return SquareCrop(0, _place(keep.y0, keep.y1, side, height, draw), side, size)


def most_together(width: int, height: int, boxes: Sequence[Box], share: float) -> tuple[int, int]:
    """(the most boxes that one square holds, how many some square holds), each with at least `share` of its area.

    The square is of the shorter side, as `square_crop` cuts it.
    """
    side, wide = min(width, height), width >= height
    spans = [(box.x0, box.x1) if wide else (box.y0, box.y1) for box in boxes]
    # A best square can be moved along until somebody is about to leave it: each box's first and last place are enough.
    ends = [
        end
        for a, b in spans
        for end in (np.floor(a + (1 - share) * (b - a)), np.ceil(b - (1 - share) * (b - a)) - side)
    ]
    starts = {int(np.clip(end, 0, max(width, height) - side)) for end in ends}
    crops = [SquareCrop(start, 0, side, side) if wide else SquareCrop(0, start, side, side) for start in starts]
    held = [{k for k, box in enumerate(boxes) if crop.covers(box) >= share} for crop in crops]
    return max(map(len, held), default=0), len(set().union(*held))


def _place(first: float, last: float, side: int, length: int, draw: float) -> int:
    """Where the square begins: at most at `first`, at the earliest so that it reaches `last`."""
    low, high = int(np.ceil(last)) - side, int(np.floor(first))
    if low > high:  # what is to be kept is longer than the square
        low, high = high, low
    low, high = max(low, 0), min(high, length - side)
    return min(max(low, 0) + int(draw * (max(high, low) - low + 1)), length - side)
