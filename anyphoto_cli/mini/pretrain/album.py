"""Drawn pictures with what they show, on disk: drawing costs more than a training step of a small model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.mini.types import HELD_OUT, MAX_PEOPLE, SCENES, STYLES, DrawnPicture

SIZES = ((128, 128), (128, 128), (160, 128), (192, 128), (128, 160))
"""Width, height of the pictures, px, in turn."""
SIDE = 192
"""No picture is wider or higher, px."""
_CHUNK = 250
_FIRST_FRESH_SEED = 900_000_000


@dataclass(frozen=True, eq=False)
class Album:
    """pixels: uint8 [n, SIDE, SIDE, 3], a picture at the top left. facts: int16 [n, 4] width, height, scene, style.
    people: float32 [n, MAX_PEOPLE, 9] person box, face box (x0, y0, x1, y1 from the picture's edge, px), visible; NaN
    beyond the last one.
    """

    pixels: NDArray[np.uint8]
    facts: NDArray[np.int16]
    people: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.facts)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]."""
        width, height = self.facts[index, :2]
        return self.pixels[index, :height, :width]

    def people_of(self, index: int) -> NDArray[np.float32]:
        """[people, 9], see above."""
        rows: NDArray[np.float32] = self.people[index]
        return rows[np.isfinite(rows[:, 0])]


def open_album(folder: Path, count: int, tell: Callable[[str], None] = print) -> Album:
    """`count` pictures of training identities, seeds 0 and up. What lacks is drawn; all where the renderer changed."""
    folder.mkdir(parents=True, exist_ok=True)
    album = Album(
        _mapped(folder / "pixels.npy", np.uint8, (count, SIDE, SIDE, 3)),
        _mapped(folder / "facts.npy", np.int16, (count, 4)),
        _mapped(folder / "people.npy", np.float32, (count, MAX_PEOPLE, 9)),
    )
    drawn = folder / "drawn.txt"
    first = int(drawn.read_text()) if drawn.is_file() and _is_current(album) else 0
    began, start = time.monotonic(), first
    while first < count:
        for index in range(first, min(first + _CHUNK, count)):
            _enter(album, index, _draw(index))
        first = min(first + _CHUNK, count)
        drawn.write_text(str(first))
        if first % (8 * _CHUNK) == 0:
            tell(f"{first} of {count} pictures, {(first - start) / (time.monotonic() - began):.0f}/s")
    return album


def through_codec(
    album: Album, folder: Path, count: int, codec: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> Album:  # fmt: skip
    """The first `count` pictures, as `codec` (uint8 [H, W, 3] both ways) gives them back, in `folder`. All are made
    anew where the codec or the pictures changed.
    """
    pixels = _mapped(folder / "decoded.npy", np.uint8, (count, SIDE, SIDE, 3))
    done = folder / "decoded.txt"
    kept = Album(pixels, album.facts[:count], album.people[:count])
    current = done.is_file() and np.array_equal(kept.picture(0), codec(album.picture(0)))
    for index in range(int(done.read_text()) if current else 0, count):
        kept.picture(index)[:] = codec(album.picture(index))
        if (index + 1) % _CHUNK == 0 or index + 1 == count:
            done.write_text(str(index + 1))
    return kept


def _is_current(album: Album) -> bool:
    """Whether today's renderer draws and tells what the album's first page holds."""
    count = min(2 * len(STYLES), len(album))
    page = Album(
        np.zeros_like(album.pixels[:count]), np.zeros_like(album.facts[:count]), np.zeros_like(album.people[:count])
    )
    for index in range(count):
        _enter(page, index, _draw(index))
    pairs = ((page.pixels, album.pixels), (page.facts, album.facts), (page.people, album.people))
    return all(np.array_equal(new, old[:count], equal_nan=new.dtype.kind == "f") for new, old in pairs)


def fresh_pictures(count: int, people: int | None = None, style: str | None = None) -> list[DrawnPicture]:
    """Pictures of held-out identities that no training has seen: all styles and scenes, 1-4 people, in turn."""
    from anyphoto_cli.mini.picture import draw_picture

    pictures = []
    for index in range(count):
        number = people or 1 + index % MAX_PEOPLE
        pictures.append(
            draw_picture(
                _FIRST_FRESH_SEED + index,
                identities=[HELD_OUT + (index * 37 + 101 * k) % 5000 for k in range(number)],
                style=style or STYLES[index // MAX_PEOPLE % len(STYLES)],
                scene=SCENES[(index + index // MAX_PEOPLE) % len(SCENES)],
                size=SIZES[index % len(SIZES)],
            )
        )
    return pictures


def _draw(index: int) -> DrawnPicture:
    """Styles in turn: the renderer's own mixture is mostly photos."""
    from anyphoto_cli.mini.picture import draw_picture

    return draw_picture(index, style=STYLES[index % len(STYLES)], size=SIZES[index % len(SIZES)])


def _enter(album: Album, index: int, drawn: DrawnPicture) -> None:
    height, width = drawn.pixels.shape[:2]
    album.pixels[index, :height, :width] = drawn.pixels
    album.facts[index] = width, height, SCENES.index(drawn.scene), STYLES.index(drawn.style)
    album.people[index] = np.nan
    for row, one in zip(album.people[index], drawn.people, strict=False):
        # The renderer counts from the centre of the first pixel.
        row[:] = *(value + 0.5 for value in (*one.person_box, *one.face_box)), one.visible


def _mapped(file: Path, dtype: type, shape: tuple[int, ...]) -> NDArray:
    """Memory-mapped; made, full of zeros, where it is missing or has another shape."""
    if file.is_file():
        there = np.lib.format.open_memmap(file, mode="r+")
        if there.shape == shape and there.dtype == dtype:
            return there
    return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
