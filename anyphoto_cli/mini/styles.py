"""How a picture is made: filters over the finished photo, in whole numbers so that every machine agrees."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from anyphoto_cli.types import Picture


def apply_style(style: str, picture: Picture) -> Picture:
    """[H, W, 3] RGB in photo style -> the same scene in another one."""
    return _FILTERS[style](picture)


def _pencil(picture: Picture) -> Picture:
    """Graphite on cream paper: outlines, and hatching where it is dark."""
    import cv2

    grey = cv2.GaussianBlur(_grey(picture), (3, 3), 0)
    smooth, edges = grey.astype(np.int32), np.minimum(_edges(grey) * 3 >> 1, 150)
    tone = 150 + (smooth * 105 >> 8) - ((255 - smooth) * _hatching(*grey.shape) >> 10)
    ink = np.clip(tone + 8 - edges, 40, 255)
    paper = np.array([250, 244, 230], np.int32)
    return _to_picture(ink[..., None] * paper >> 8)


def _watercolour(picture: Picture) -> Picture:
    """Flat washes with darker rims on grainy paper."""
    import cv2

    wash = cv2.medianBlur(picture, 5).astype(np.int32)
    grey = cv2.GaussianBlur(_grey(picture), (3, 3), 0)
    rims = np.minimum(_edges(grey), 130)[..., None]
    mean = wash.sum(2, keepdims=True) // 3
    vivid = mean + ((wash - mean) * 5 >> 2)
    light = 88 + (vivid * 168 >> 8) - (rims >> 1)
    return _to_picture(light + _grain(*picture.shape[:2])[..., None])


def _pixel(picture: Picture) -> Picture:
    """Blocks of two pixels in six steps a colour; of an odd side the last ones are cut."""
    import cv2

    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    shape = ((width + 1) // 2, (height + 1) // 2)
    small = cv2.resize(even, shape, interpolation=cv2.INTER_AREA).astype(np.int32)
    stepped = (small * 5 + 127) // 255 * 51
    return np.repeat(np.repeat(_to_picture(stepped), 2, 0), 2, 1)[:height, :width]


def _comic(picture: Picture) -> Picture:
    """Strong flat colours inside black outlines."""
    import cv2

    flat = cv2.medianBlur(picture, 3).astype(np.int32)
    mean = flat.sum(2, keepdims=True) // 3
    vivid = mean + ((flat - mean) * 3 >> 1) + 12
    stepped = (np.clip(vivid, 0, 255) * 6 + 127) // 255 * 255 // 6
    outline = np.clip(_edges(cv2.GaussianBlur(_grey(picture), (3, 3), 0)) * 4 - 110, 0, 220)
    return _to_picture(cv2.GaussianBlur(_to_picture(stepped), (3, 3), 0) * (255 - outline[..., None]) >> 8)


def _sepia(picture: Picture) -> Picture:
    """A faded brown print with dark corners."""
    grey = _grey(picture).astype(np.int32)[..., None]
    tint = 34 + (grey * np.array([212, 184, 140], np.int32) >> 8)
    return _to_picture(tint * _vignette(*grey.shape[:2])[..., None] >> 8)


def _grey(picture: Picture) -> Any:
    """[H, W] uint8 luma in whole numbers."""
    wide = picture.astype(np.int32)
    return ((wide[..., 0] * 77 + wide[..., 1] * 150 + wide[..., 2] * 29) >> 8).astype(np.uint8)


def _edges(grey: Any) -> Any:
    """[H, W] int32 >= 0: the size of the gradient."""
    import cv2

    across, down = cv2.Sobel(grey, cv2.CV_16S, 1, 0), cv2.Sobel(grey, cv2.CV_16S, 0, 1)
    return (np.abs(across.astype(np.int32)) + np.abs(down.astype(np.int32))) >> 2


@lru_cache(maxsize=16)
def _hatching(height: int, width: int) -> Any:
    """[H, W] int32 0-180: slanted pencil strokes, six pixels from one to the next."""
    y, x = np.mgrid[0:height, 0:width]
    across = (x + 2 * y) % 12
    return (np.minimum(across, 12 - across) * 30).astype(np.int32)


@lru_cache(maxsize=16)
def _grain(height: int, width: int) -> Any:
    """[H, W] int32 around 0: paper."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    mixed = (x * 374761393 + y * 668265263) & 0x7FFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0x7FFFFFFF
    noise = (mixed >> 16) % 15 - 7
    return ((noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 0)) // 3).astype(np.int32)


@lru_cache(maxsize=16)
def _vignette(height: int, width: int) -> Any:
    """[H, W] int32: 256 in the middle, about 150 in the corners."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    across = ((2 * x + 1 - width) * 256 // width) ** 2 + ((2 * y + 1 - height) * 256 // height) ** 2
    return (256 - across * 100 // (2 * 256 * 256)).astype(np.int32)


def _to_picture(values: Any) -> Picture:
    picture: Picture = np.clip(values, 0, 255).astype(np.uint8)
    return picture


_FILTERS: dict[str, Callable[[Picture], Picture]] = {
    "photo": lambda picture: picture, "pencil": _pencil, "watercolour": _watercolour, "pixel": _pixel,
    "comic": _comic, "sepia": _sepia,
}  # fmt: skip
