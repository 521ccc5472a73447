"""Where a picture is taken: eight places, each with its own light. Coordinates: shares of width and height."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anyphoto_cli.mini.pen import OVERSAMPLING, Chance, Colour, Sheet, arc, blend, fixed_point, scaled


class Backdrop:
    """A brush in shares of the picture: (0, 0) is its top left, (1, 1) its bottom right corner."""

    def __init__(self, sheet: Sheet, chance: Chance) -> None:
        self.sheet, self.chance = sheet, chance
        self._size = np.array([sheet.width, sheet.height], dtype=np.float64)
        self._unit = np.array([sheet.height / sheet.width, 1.0])

    def fill(self, shape: Any, colour: Sequence[float]) -> None:
        """A polygon."""
        import cv2

        points = fixed_point(np.asarray(shape, dtype=np.float64) * self._size - 0.5, OVERSAMPLING)
        cv2.fillPoly(self.sheet.ink, [points], colour, cv2.LINE_AA, 4)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Sequence[float]) -> None:
        """An upright rectangle."""
        self.fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def disc(self, x: float, y: float, radius: float, colour: Sequence[float], tall: float = 1.0, n: int = 20) -> None:
        """Round whatever the picture's shape; radius in shares of its height."""
        self.fill(arc(n) * (radius, radius * tall) * self._unit + (x, y), colour)

    def sky(self, top: Sequence[float], bottom: Sequence[float]) -> None:
        """A vertical gradient over everything, each end a little varied."""
        rows = np.linspace(0, 1, self.sheet.ink.shape[0])[:, None]
        first, last = np.array(self.vary(top)), np.array(self.vary(bottom))
        self.sheet.ink[:] = (first + (last - first) * rows + 0.5).astype(np.uint8)[:, None, :]

    def vary(self, colour: Sequence[float], spread: float = 0.07) -> Colour:
        """Another tone of the colour."""
        u = self.chance.uniform
        r, g, b = (min(max(v * u(1 - spread, 1 + spread), 0.0), 255.0) for v in colour)
        return (r, g, b)


def paint_scene(scene: str, sheet: Sheet, chance: Chance) -> None:
    """Fill the whole sheet, then put it a little out of focus, as behind people."""
    import cv2

    _PAINTERS[scene](Backdrop(sheet, chance))
    cv2.GaussianBlur(sheet.ink, (5, 5), 0, dst=sheet.ink)


def _park(b: Backdrop) -> None:
    u = b.chance.uniform
    b.sky((138, 200, 246), (226, 242, 252))
    for _ in range(2):
        x, y = u(0, 1), u(0.06, 0.24)
        for i in range(3):
            b.disc(x + i * 0.05, y + 0.012 * (i % 2), 0.045, (252, 252, 254))
    horizon = u(0.50, 0.62)
    b.fill(arc(40) * (0.8, 0.5) + (u(0.1, 0.9), horizon + 0.40), b.vary((126, 190, 112)))
    b.box(0, horizon + 0.06, 1, 1, b.vary((104, 176, 84)))
    for i in range(3):
        x, size = (i + u(0.1, 0.9)) / 3, u(0.11, 0.17)
        b.box(x - 0.018, horizon - 0.14, x + 0.018, horizon + 0.12, (112, 78, 52))
        leaf = b.vary((62, 138, 66), 0.14)
        b.disc(x, horizon - 0.22, size, scaled(leaf, 0.82))
        b.disc(x - 0.02, horizon - 0.25, size * 0.8, leaf)
    b.fill([(0.44, horizon + 0.06), (0.52, horizon + 0.06), (0.86, 1), (0.3, 1)], b.vary((222, 202, 160)))


def _beach(b: Backdrop) -> None:
    u = b.chance.uniform
    sunset = b.chance.happens(0.3)
    b.sky((250, 150, 96) if sunset else (96, 184, 240), (255, 220, 150) if sunset else (214, 238, 250))
    b.disc(u(0.1, 0.9), u(0.10, 0.26), 0.085, (255, 246, 206))
    horizon = u(0.42, 0.52)
    sea = b.vary((60, 130, 170) if sunset else (44, 148, 190))
    b.box(0, horizon, 1, 0.8, sea)
    for _ in range(5):
        x, y = u(0, 0.9), u(horizon + 0.02, 0.68)
        b.box(x, y, x + u(0.08, 0.25), y + 0.008, scaled(sea, 1.12, 24))
    if b.chance.happens(0.5):
        x = u(0.1, 0.9)
        b.fill(
            [(x - 0.05, horizon), (x + 0.05, horizon), (x + 0.035, horizon + 0.03), (x - 0.035, horizon + 0.03)],
            (150, 84, 60),
        )
        b.fill([(x, horizon - 0.01), (x, horizon - 0.14), (x + 0.05, horizon - 0.01)], (250, 248, 240))
    b.fill([(0, 0.72), (0.4, 0.69), (1, 0.66), (1, 1), (0, 1)], b.vary((240, 216, 160)))
    b.fill([(0, 0.72), (0.4, 0.69), (1, 0.66), (1, 0.68), (0.4, 0.71), (0, 0.74)], (252, 250, 244))


def _city(b: Backdrop) -> None:
    u = b.chance.uniform
    b.sky((176, 200, 222), (240, 230, 216))
    x = -0.06
    while x < 1:
        wide, top = u(0.13, 0.24), u(0.08, 0.46)
        wall = b.vary(
            b.chance.pick(((122, 130, 146), (172, 120, 104), (156, 152, 148), (98, 114, 138), (196, 168, 132)))
        )
        b.box(x, top, x + wide * 0.95, 1, wall)
        b.box(x + wide * 0.78, top, x + wide * 0.95, 1, scaled(wall, 0.84))
        lit = scaled(wall, 1.3, 30) if b.chance.happens(0.7) else (250, 226, 150)
        y = top + 0.05
        while y < 0.85:
            for left in (0.14, 0.46):
                b.box(x + wide * left, y, x + wide * (left + 0.20), y + 0.05, lit)
            y += 0.11
        x += wide
    b.box(0, 0.86, 1, 1, b.vary((112, 112, 118)))
    b.box(0, 0.85, 1, 0.87, (206, 204, 198))


def _room(b: Backdrop) -> None:
    u = b.chance.uniform
    wall = b.vary(b.chance.pick(((230, 208, 180), (188, 210, 206), (226, 190, 188), (204, 206, 224), (222, 214, 170))))
    b.sky(wall, scaled(wall, 0.92))
    b.box(0, 0.80, 1, 1, b.vary((146, 104, 72)))
    b.box(0, 0.785, 1, 0.81, (246, 242, 236))
    x = u(0.04, 0.62)
    b.box(x, 0.10, x + 0.32, 0.52, (250, 250, 246))
    b.box(x + 0.02, 0.12, x + 0.30, 0.50, b.vary((156, 206, 238)))
    b.box(x + 0.15, 0.10, x + 0.17, 0.52, (250, 250, 246))
    b.box(x, 0.30, x + 0.32, 0.32, (250, 250, 246))
    curtain = b.vary(b.chance.pick(((190, 70, 70), (80, 120, 160), (220, 180, 90))))
    b.fill([(x - 0.07, 0.07), (x + 0.03, 0.07), (x, 0.58), (x - 0.08, 0.58)], curtain)
    b.fill([(x + 0.29, 0.07), (x + 0.39, 0.07), (x + 0.40, 0.58), (x + 0.32, 0.58)], curtain)
    y = x - 0.34 if x > 0.4 else x + 0.52
    b.box(y - 0.012, 0.34, y + 0.012, 0.82, (92, 76, 66))
    b.fill([(y - 0.05, 0.20), (y + 0.05, 0.20), (y + 0.10, 0.36), (y - 0.10, 0.36)], (252, 226, 150))
    b.box(0.0, 0.66, 0.42, 0.86, b.vary((150, 88, 92), 0.2))


def _snow(b: Backdrop) -> None:
    u = b.chance.uniform
    b.sky((170, 196, 228), (234, 242, 250))
    for _ in range(3):
        x, wide, top = u(0, 1), u(0.28, 0.42), u(0.10, 0.28)
        rock = b.vary((126, 140, 168))
        b.fill([(x - wide, 0.64), (x, top), (x + wide, 0.64)], rock)
        b.fill([(x, top), (x + wide, 0.64), (x + wide * 0.3, 0.64)], scaled(rock, 0.84))
        cap = top + 0.13
        b.fill(
            [
                (x, top),
                (x + wide * 0.26, cap),
                (x + wide * 0.1, cap - 0.02),
                (x, cap + 0.02),
                (x - wide * 0.12, cap - 0.02),
                (x - wide * 0.26, cap),
            ],
            (250, 252, 255),
        )
    b.fill([(0, 0.62), (0.3, 0.57), (0.65, 0.63), (1, 0.58), (1, 1), (0, 1)], b.vary((240, 246, 253), 0.02))
    for _ in range(4):
        x, y = u(0, 1), u(0.58, 0.68)
        for i in range(3):
            wide = 0.055 - 0.012 * i
            b.fill([(x - wide, y - 0.06 * i), (x + wide, y - 0.06 * i), (x, y - 0.06 * i - 0.11)], (44, 92, 78))
    for _ in range(14):
        b.disc(u(0, 1), u(0, 1), 0.007, (255, 255, 255), n=6)


def _night(b: Backdrop) -> None:
    u = b.chance.uniform
    b.sky((14, 18, 50), (66, 54, 104))
    x, y = u(0.1, 0.9), u(0.10, 0.24)
    b.disc(x, y, 0.12, (54, 54, 92))
    b.disc(x, y, 0.085, (248, 242, 214))
    for _ in range(16):
        b.disc(u(0, 1), u(0, 0.66), u(0.005, 0.011), (244, 244, 255), n=6)
    left = -0.04
    while left < 1:
        wide, top = u(0.08, 0.16), u(0.56, 0.74)
        b.box(left, top, left + wide, 1, (30, 30, 58))
        for _ in range(4):
            px, py = left + wide * u(0.1, 0.8), u(top + 0.03, 0.95)
            b.box(px, py, px + 0.018, py + 0.022, (252, 214, 110))
        left += wide
    b.box(0, 0.88, 1, 1, (22, 22, 44))


def _library(b: Backdrop) -> None:
    u = b.chance.uniform
    wood = b.vary((120, 78, 48))
    b.sky(scaled(wood, 0.62), scaled(wood, 0.5))
    for shelf in range(4):
        bottom = 0.22 + shelf * 0.24
        x = u(-0.05, 0.0)
        while x < 1:
            wide, tall = u(0.025, 0.055), u(0.13, 0.19)
            spine = b.vary(
                b.chance.pick(
                    ((172, 62, 54), (52, 92, 128), (76, 122, 84), (206, 168, 88), (126, 84, 132), (222, 210, 184))
                )
            )
            b.box(x, bottom - tall, x + wide * 0.92, bottom, spine)
            b.box(x, bottom - tall * 0.75, x + wide * 0.92, bottom - tall * 0.68, scaled(spine, 1.2, 30))
            x += wide
        b.box(0, bottom, 1, bottom + 0.035, wood)
    for x in (0.0, 0.5 + u(-0.1, 0.1), 1.0):
        b.box(x - 0.02, 0, x + 0.02, 1, scaled(wood, 0.9))


def _studio(b: Backdrop) -> None:
    u = b.chance.uniform
    tone = b.chance.pick(
        (
            (204, 92, 92),
            (92, 132, 204),
            (232, 192, 84),
            (112, 172, 132),
            (162, 122, 194),
            (182, 182, 188),
            (238, 160, 110),
        )
    )
    b.sky(scaled(tone, 0.94), scaled(tone, 0.72))
    x, y = u(0.3, 0.7), u(0.3, 0.5)
    for i in range(14):
        b.disc(x, y, 0.80 - 0.055 * i, blend(scaled(tone, 0.84), scaled(tone, 1.06, 22), i / 13), n=28)


_PAINTERS: dict[str, Callable[[Backdrop], None]] = {
    "park": _park, "beach": _beach, "city": _city, "room": _room, "snow": _snow, "night": _night,
    "library": _library, "studio": _studio,
}  # fmt: skip
