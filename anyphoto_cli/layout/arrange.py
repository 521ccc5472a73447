"""Sensible places for N faces, so that nobody has to type ten numbers each: rows, a pyramid, a circle, a portrait.

Places are drawn by chance around a preset's own: the same seed gives the same places. All are inside the picture and
apart from each other, as far as there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.errors import InputError
from anyphoto_cli.geometry import arcface_template, face_height
from anyphoto_cli.layout.schema import MAX_FACES
from anyphoto_cli.types import Points

Middles = NDArray[np.float64]
"""[n, 3]: x and y of the faces' middles and their heights, in shares: of width, of height, of the shorter side."""
_APART = 1.35
"""Faces' middles are at least so many heights apart: heads are wider than faces."""
_EDGE = 0.65
"""And so many heights from the picture's edges."""
_LEAST_PX = 24.0
"""Height of a face below which nobody could be known."""
_TILT = 6.0
"""Standard deviation of the roll, degrees."""


def arrange(count: int, width: int, height: int, preset: str = "row", seed: int = 0) -> list[Points]:
    """[5, 2] landmarks of `count` upright faces, px, from left to right. width, height: of the picture, px.

    Raises InputError for an unknown preset, a seed below 0, or more faces than fit.
    """
    if not 1 <= count <= MAX_FACES:
        raise InputError(f"{count} people: give 1 to {MAX_FACES}", field="--people")
    if preset not in PRESETS:
        raise InputError(f"{preset!r} is no preset", field="--preset", remedy=f"Presets: {', '.join(PRESETS)}")
    if seed < 0:
        raise InputError(f"{seed} is below 0", field="--seed")
    rng = np.random.default_rng([seed, count])
    middles = _in_px(PRESETS[preset](count, width / height), width, height)
    middles = _with_room(middles, width, height)
    middles[:, :2] += rng.normal(0, 0.08, (count, 2)) * middles[:, 2:]
    middles[:, 2] *= np.exp(rng.normal(0, 0.04, count))
    middles = _with_room(middles, width, height)
    tilts = np.radians(rng.normal(0, _TILT, count).clip(-2 * _TILT, 2 * _TILT))
    return [
        _face(middle, tilt)
        for middle, tilt in zip(middles[np.argsort(middles[:, 0], kind="stable")], tilts, strict=True)
    ]


def _row(count: int, proportion: float) -> Middles:
    """Side by side, in two rows from four people on in a square picture; those behind stand in the gaps."""
    most = max(round(3 * proportion), 2)
    rows = -(-count // most)
    return _stacked([count // rows + (row >= rows - count % rows) for row in range(rows)], proportion)


def _pyramid(count: int, proportion: float) -> Middles:
    """One at the top, more in each row below; two stand side by side."""
    rows = max(row for row in range(1, count + 1) if row * (row + 1) // 2 <= count)
    sizes = list(range(1, rows + 1))
    for k in range(count - sum(sizes)):
        sizes[rows - 1 - k % rows] += 1
    return _stacked(sizes if count != 2 else [2], proportion)


def _circle(count: int, proportion: float) -> Middles:
    """Around the middle of the picture."""
    if count == 1:
        return _portrait(1, proportion)
    angles = 2 * np.pi * (np.arange(count) + 0.5 * (count % 2 == 0)) / count - np.pi / 2
    size = min(0.28, 1.5 / count)
    return np.stack([0.5 + 0.34 * np.cos(angles), 0.49 + 0.32 * np.sin(angles), np.full(count, size)], 1)


def _portrait(count: int, proportion: float) -> Middles:
    """Large and close, in the upper half."""
    return np.array([[0.5, 0.42, 0.46]]) if count == 1 else _row(count, proportion) * [1, 0.95, 1.2]


PRESETS: dict[str, Callable[[int, float], Middles]] = {
    "row": _row, "pyramid": _pyramid, "circle": _circle, "portrait": _portrait,
}  # fmt: skip
"""Name -> (people, width / height of the picture) -> middles."""


def _stacked(sizes: Sequence[int], proportion: float) -> Middles:
    """Rows from behind to the front, each in the middle, neighbours a head and a half apart."""
    widest, rows = max(sizes), len(sizes)
    size = min(0.36, 0.75 * max(proportion, 1) / widest, 0.6 / rows)
    step = min(1.6 * size / max(proportion, 1), 1 / widest)
    found = []
    for row, people in enumerate(sizes):
        y = 0.42 if rows == 1 else 0.28 + 0.38 * row / (rows - 1)
        gap = 0.25 * step * (-1) ** row if rows > 1 and len(set(sizes)) == 1 else 0.0  # nobody right behind another
        found += [[0.5 + (k - (people - 1) / 2) * step + gap, y, size] for k in range(people)]
    return np.array(found, np.float64)


def _in_px(middles: Middles, width: int, height: int) -> Middles:
    return middles * [width, height, min(width, height)]


def _with_room(middles: Middles, width: int, height: int) -> Middles:
    """Pushed apart and inside, a little at a time; faces that still touch become smaller."""
    placed = middles.copy()
    while placed[:, 2].min() >= _LEAST_PX:
        for _ in range(60):
            placed = _pushed(placed)
            edge = np.minimum(_EDGE * placed[:, 2:], min(width, height) / 2)
            placed[:, :2] = np.clip(placed[:, :2], edge, np.array([width, height]) - edge)
        if _closest(placed) >= 0.98 * _APART:
            return placed
        placed[:, 2] *= 0.94
    told = f"{len(placed)} faces do not fit into {width}x{height}"
    raise InputError(told, field="--size", remedy="Make the picture larger")


def _gaps(placed: Middles) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(vectors between middles [n, n, 2], distances over the room both need [n, n], inf to oneself)."""
    between = placed[:, None, :2] - placed[None, :, :2]
    need = (placed[:, None, 2] + placed[None, :, 2]) / 2
    distances = np.linalg.norm(between, axis=2) / need
    np.fill_diagonal(distances, np.inf)
    return between, distances


def _closest(placed: Middles) -> float:
    return float(_gaps(placed)[1].min())


def _pushed(placed: Middles) -> Middles:
    between, distances = _gaps(placed)
    lacking = np.clip(_APART - distances, 0, None)[..., None] * placed[:, None, 2:]
    lengths = np.linalg.norm(between, axis=2, keepdims=True)
    # Two on one spot go apart sideways.
    direction = np.where(lengths > 1e-6, between / np.maximum(lengths, 1e-6), _sideways(len(placed)))
    moved = placed.copy()
    moved[:, :2] += 0.5 * (direction * np.where(np.isfinite(lacking), lacking, 0)).sum(1)
    return moved


def _sideways(count: int) -> NDArray[np.float64]:
    order = np.sign(np.arange(count)[:, None] - np.arange(count)[None]).astype(np.float64)
    return np.stack([order, np.zeros_like(order)], 2)


def _face(middle: NDArray[np.float64], tilt: float) -> Points:
    """ArcFace's five points around a middle, of a height, turned by `tilt` radians."""
    template = arcface_template()
    centred = (template - template.mean(0)) * (middle[2] / float(face_height(template)))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    points: Points = centred @ turn + middle[:2]
    return points


def layout_document(
    people: Sequence[tuple[str, str]], places: Sequence[Points], prompt: str, width: int, height: int, seed: int = 0
) -> dict[str, Any]:
    """A layout file's content. people: (name, path of the reference inside the layout's folder)."""
    faces = [
        {"name": name, "reference": reference, "landmarks": [[round(float(v), 1) for v in point] for point in place]}
        for (name, reference), place in zip(people, places, strict=True)
    ]
    return {"version": 1, "prompt": prompt, "width": width, "height": height, "seed": seed, "faces": faces}
