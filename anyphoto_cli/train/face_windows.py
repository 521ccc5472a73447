"""Which parts of a picture the identity loss decodes: a window around each face, in as few calls as a device likes.

All in latent pixels, `DOWN` px each, of a picture of width x height of them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anyphoto_cli.geometry import ARCFACE_SIZE, arcface_template, fit_similarity
from anyphoto_cli.model.vae import DOWN
from anyphoto_cli.types import Points

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1."""


@dataclass(frozen=True)
class DecodeCalls:
    """How face windows become calls of the decoder: those of one size are one. A window that grows sees more around the
    face, as the literal form does: nothing is lost but the time to decode it.

    step: latent pixels; sides grow to its multiples. spare: px; windows grow to the size of others where all of them
    have so many more to decode at most. at_once: px a call, one window at least: what lies between its layers wants
    memory.
    """

    step: int = 1
    spare: int = 0
    at_once: int = 0


CALLS = {"cuda": DecodeCalls(step=8, spare=2**16, at_once=2**18)}
"""By kind of device. A GPU waits for its host, some 330 launches a call, both ways; 2**16 px are 1.3 TFLOP to it.
A CPU would only have more to decode: each window is a call, as large as it must be.
"""


def latent_window(landmarks: Points, width: int, height: int, margin: int) -> Window:
    """x0, y0, x1, y1 in latent pixels: all that the norm-crop sees, and `margin` around it, inside width x height.

    A convolution near the edge of a window sees zeros where the whole picture had latents: the margin keeps that out of
    the face.
    """
    back = fit_similarity(arcface_template(), landmarks)
    edge = ARCFACE_SIZE - 0.5
    corners = back(np.array([(-0.5, -0.5), (edge, -0.5), (edge, edge), (-0.5, edge)]))
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    return (
        min(max(int(np.floor(x0 / DOWN)) - margin, 0), width - 1),
        min(max(int(np.floor(y0 / DOWN)) - margin, 0), height - 1),
        max(min(int(np.ceil(x1 / DOWN)) + margin, width), 1),
        max(min(int(np.ceil(y1 / DOWN)) + margin, height), 1),
    )


def face_windows(
    landmarks: Sequence[Points], width: int, height: int, margin: int | None, step: int
) -> list[Window]:  # fmt: skip
    """Of each face of a sample; the whole picture where windows together are larger, and save nothing."""
    windows = [_stepped(latent_window(face, width, height, margin or 0), width, height, step) for face in landmarks]
    cut = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in windows)
    return [(0, 0, width, height)] * len(landmarks) if margin is None or cut >= width * height else windows


def _stepped(window: Window, width: int, height: int, step: int) -> Window:
    """The same, larger by as little as makes its sides multiples of `step`, or the picture's own."""
    x0, y0, x1, y1 = window
    return _grown(window, -(-(x1 - x0) // step) * step, -(-(y1 - y0) // step) * step, width, height)


def _grown(window: Window, wide: int, high: int, width: int, height: int) -> Window:
    """The same, of another size, not smaller, to both sides alike: inside the picture, at most as large."""
    x0, y0, x1, y1 = window
    wide, high = min(wide, width), min(high, height)
    x0, y0 = x0 - (wide - (x1 - x0)) // 2, y0 - (high - (y1 - y0)) // 2
    x0, y0 = min(max(x0, 0), width - wide), min(max(y0, 0), height - high)
    return x0, y0, x0 + wide, y0 + high


def evened(windows: Sequence[Window], width: int, height: int, spare: int) -> list[Window]:
    """The same, of fewer sizes: two sizes become one that holds both, those first that add least, while what all add
    together is at most `spare` px.
    """
    becomes = {size: size for size in map(_size, windows)}
    count = Counter(map(_size, windows))
    while len(count) > 1:
        added, one, other, both = min(_together(one, other, count) for one, other in itertools.combinations(count, 2))
        if added > spare:
            break
        spare -= added
        together = count.pop(one) + count.pop(other)
        count[both] += together
        becomes = {size: both if now in (one, other) else now for size, now in becomes.items()}
    return [_grown(window, *becomes[_size(window)], width, height) for window in windows]


def _size(window: Window) -> tuple[int, int]:
    x0, y0, x1, y1 = window
    return x1 - x0, y1 - y0


def _together(
    one: tuple[int, int], other: tuple[int, int], count: Mapping[tuple[int, int], int]
) -> tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]]:  # fmt: skip
    """(px that all windows of two sizes have more at the size that holds both, the two, that size)."""
    both = max(one[0], other[0]), max(one[1], other[1])
    added = sum(count[size] * (both[0] * both[1] - size[0] * size[1]) for size in (one, other))
    return added * DOWN**2, one, other, both


def of_one_size(parts: Sequence[tuple[int, Window]], pixels: int) -> Iterator[list[tuple[int, Window]]]:
    """As many at once as have so many pixels together, but one."""
    by_size: dict[tuple[int, int], list[tuple[int, Window]]] = {}
    for sample, window in parts:
        by_size.setdefault(_size(window), []).append((sample, window))
    for (wide, high), alike in by_size.items():
        room = max(pixels // (wide * high * DOWN**2), 1)
        for first in range(0, len(alike), room):
            yield alike[first : first + room]
