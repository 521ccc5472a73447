"""What everything is drawn with: the same chance on every machine, shapes, and a pen in a person's own units."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

Colour = tuple[float, float, float]
"""RGB, 0-255."""
Shape = np.ndarray
"""[n, 2] float, x right and y down."""

OVERSAMPLING = 2
_FRACTION_BITS = 4
NEUTRAL_LIGHT = 128
Choice = TypeVar("Choice")


class Chance:
    """Random numbers by seed. Only `random.Random.random` is used: its sequence is promised for all Python versions."""

    def __init__(self, *seed: int | str) -> None:
        self._random = random.Random("/".join(map(str, seed)))

    def uniform(self, low: float, high: float) -> float:
        """low <= x < high."""
        return low + (high - low) * self._random.random()

    def bell(self, spread: float) -> float:
        """Around 0 with this standard deviation, never beyond three of them: the sum of three uniform numbers."""
        roll = self._random.random
        return (roll() + roll() + roll() - 1.5) * 2 * spread

    def below(self, count: int) -> int:
        """0 <= n < count."""
        return int(self._random.random() * count)

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of them."""
        return choices[self.below(len(choices))]

    def weighted(self, choices: dict[Choice, float]) -> Choice:
        """One of them, by weight."""
        left = self._random.random() * sum(choices.values())
        for choice, weight in choices.items():
            left -= weight
            if left < 0:
                return choice
        return next(reversed(choices))

    def happens(self, probability: float) -> bool:
        """True that often."""
        return self._random.random() < probability


@lru_cache(maxsize=256)
def arc(n: int, start: float = 0.0, end: float = 2 * math.pi) -> Shape:
    """n points of the unit circle, from angle start to end (clockwise as seen, 0 is right)."""
    angles = [start + (end - start) * i / (n - (end - start < 6.28)) for i in range(n)]
    return np.array([(math.cos(a), math.sin(a)) for a in angles])


def ellipse(x: float, y: float, rx: float, ry: float, n: int = 18) -> Shape:
    """A whole ellipse."""
    return arc(n) * (rx, ry) + (x, y)


def dome(x: float, y: float, rx: float, ry: float, n: int = 20) -> Shape:
    """The upper half of an ellipse, from left to right."""
    return arc(n, math.pi, 2 * math.pi) * (rx, ry) + (x, y)


@lru_cache(maxsize=64)
def _superellipse(power: float, n: int) -> Shape:
    unit = arc(n)
    bent: Shape = np.sign(unit) * np.abs(unit) ** (2 / power)
    return bent


def rounded(x: float, y: float, rx: float, ry: float, power: float = 4.0, n: int = 28) -> Shape:
    """A rectangle with round corners: |x|^p + |y|^p = 1."""
    return _superellipse(power, n) * (rx, ry) + (x, y)


def blend(first: Sequence[float], second: Sequence[float], share: float) -> Colour:
    """`share` of the second colour in the first."""
    r, g, b = (p + (q - p) * share for p, q in zip(first, second, strict=True))
    return (r, g, b)


def scaled(colour: Sequence[float], factor: float, lift: float = 0.0) -> Colour:
    """Darker (factor < 1) or lighter, clipped to 0-255."""
    r, g, b = (min(max(v * factor + lift, 0.0), 255.0) for v in colour)
    return (r, g, b)


HIDDEN = 200


class Sheet:
    """A picture in the making.

    ink: [2 H, 2 W, 3]; light: [H, W], 128 is neutral; owner: [H, W], whose face is seen, see `Pen.own`.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.ink = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING, 3), np.uint8)
        self.light = np.full((height, width), NEUTRAL_LIGHT, np.uint8)
        self.owner = np.zeros((height, width), np.uint8)


class Pen:
    """Draws in units of half a head's height around (x, y), px of the finished picture; scale: px per unit.

    roll: radians, clockwise. number: of the person it draws, 0 for none. Keeps the bounds of what it fills, for the
    person's box, and hides the faces behind it.
    """

    def __init__(self, sheet: Sheet, x: float, y: float, scale: float, roll: float = 0.0, number: int = 0) -> None:
        self.sheet, self.scale, self.number = sheet, scale, number
        cos, sin = math.cos(roll) * scale, math.sin(roll) * scale
        self._turn, self._origin = np.array([[cos, sin], [-sin, cos]]), np.array([x, y])
        self.low, self.high = np.full(2, np.inf), np.full(2, -np.inf)

    def place(self, shape: Any) -> Shape:
        """Own units -> px of the finished picture."""
        placed: Shape = np.asarray(shape) @ self._turn + self._origin
        return placed

    def fill(self, shape: Any, colour: Sequence[float], bounds: bool = False) -> None:
        """A filled polygon. bounds: counts towards the person's box and hides what is behind the person."""
        import cv2

        points = self.place(shape)
        if bounds and len(seen := inside(points, self.sheet.width, self.sheet.height)):
            self.low, self.high = np.minimum(self.low, seen.min(0)), np.maximum(self.high, seen.max(0))
            self._hide(points)
        cv2.fillPoly(self.sheet.ink, [fixed_point(points, OVERSAMPLING)], colour, cv2.LINE_AA, _FRACTION_BITS)

    def line(self, shape: Any, colour: Sequence[float], width: float) -> None:
        """An open line; width in own units, at least one fine pixel."""
        import cv2

        thickness = max(1, int(width * self.scale * OVERSAMPLING + 0.5))
        points = fixed_point(self.place(shape), OVERSAMPLING)
        cv2.polylines(self.sheet.ink, [points], False, colour, thickness, cv2.LINE_AA, _FRACTION_BITS)

    def shade(self, shape: Any, light: float) -> None:
        """Light (> 128) or shadow (< 128) on what is there; it is blurred later."""
        import cv2

        cv2.fillPoly(self.sheet.light, [fixed_point(self.place(shape), 1)], light, cv2.LINE_8, _FRACTION_BITS)

    def _hide(self, points: Shape) -> None:
        """Hair, neck and clothes hide other faces, and not the person's own."""
        import cv2

        mine = self.sheet.owner == self.number
        cv2.fillPoly(self.sheet.owner, [fixed_point(points, 1)], HIDDEN, cv2.LINE_8, _FRACTION_BITS)
        if self.number:
            self.sheet.owner[mine] = self.number

    def own(self, shape: Any, number: int) -> None:
        """Marks whose face (number > 0) is in front here; 0 where nobody is, HIDDEN where something else is."""
        import cv2

        cv2.fillPoly(self.sheet.owner, [fixed_point(self.place(shape), 1)], number, cv2.LINE_8, _FRACTION_BITS)


def inside(points: Shape, width: int, height: int) -> Shape:
    """The part of a polygon that lies in the picture, cut along each edge in turn; px, the first centre is 0."""
    edges = ((0, 1, -0.5), (0, -1, 0.5 - width), (1, 1, -0.5), (1, -1, 0.5 - height))
    for axis, sign, limit in edges:
        depth = points[:, axis] * sign - limit
        if (depth >= 0).all():
            continue
        following, depth_after = np.roll(points, -1, 0), np.roll(depth, -1)
        kept: list[Shape] = []
        for i in range(len(points)):
            if depth[i] >= 0:
                kept.append(points[i])
            if (depth[i] >= 0) != (depth_after[i] >= 0):
                share = depth[i] / (depth[i] - depth_after[i])
                kept.append(points[i] + share * (following[i] - points[i]))
        points = np.array(kept).reshape(-1, 2)
    return points


def fixed_point(points: Shape, factor: int) -> Any:
    """px of the finished picture (centre of the first pixel is 0) -> fixed-point px of a sheet `factor` times finer."""
    fine = points * factor + (factor - 1) / 2
    return (np.clip(fine, -4000, 4000) * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
