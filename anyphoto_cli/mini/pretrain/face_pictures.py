"""Drawn pictures with their truth, kept on disk: both face models are trained on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.mini.types import MAX_PEOPLE, SCENES, STYLES, DrawnPicture
from anyphoto_cli.types import Picture

IDENTITIES = 8000
"""Numbers 0 .. 7999 are the people whom the recogniser learns to tell apart."""

PICTURES = 40_000
_CHUNK = 500
_HEIGHT, _WIDEST = 128, 192
_EMPTY_SHARE, _PORTRAIT_SHARE, _PHOTO_SHARE = 0.05, 0.3, 0.4

_TRUTH = np.dtype(
    [
        ("width", "i4"),
        ("people", "i4"),
        ("style", "i4"),
        ("identity", "i4", (MAX_PEOPLE,)),
        ("box", "f4", (MAX_PEOPLE, 4)),
        ("landmarks", "f4", (MAX_PEOPLE, 5, 2)),
        ("visible", "f4", (MAX_PEOPLE,)),
    ]
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One picture and its faces. box: [n, 4] x0 y0 x1 y1, px; landmarks: [n, 5, 2] px; visible: [n], 0-1."""

    pixels: Picture
    identity: NDArray[np.int32]
    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    visible: NDArray[np.float32]


class DrawnPictures(Sequence[Drawn]):
    """Pictures 0 .. n-1 of a folder, mapped from disk. chunks: [500, 128, 192, 3] each."""

    def __init__(self, pixels: list[NDArray[np.uint8]], truth: NDArray) -> None:
        self.chunks, self.truth = pixels, truth

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, index: int) -> Drawn:  # type: ignore[override]
        row = self.truth[index]
        n = int(row["people"])
        pixels = self.chunks[index // _CHUNK][index % _CHUNK, :, : int(row["width"])]
        return Drawn(pixels, row["identity"][:n], row["box"][:n], row["landmarks"][:n], row["visible"][:n])


def drawn_pictures(folder: Path, count: int = PICTURES) -> DrawnPictures:
    """The first `count` training pictures, drawn where they are not there yet: about 5 ms and 74 kB each.

    The folder carries a digest of what the renderer draws today, so that a changed renderer starts a new one.
    """
    home = folder / f"pictures-{_digest()}"
    home.mkdir(parents=True, exist_ok=True)
    chunks = [_chunk(home, k) for k in range(-(-count // _CHUNK))]
    return DrawnPictures([pixels for pixels, _ in chunks], np.concatenate([truth for _, truth in chunks])[:count])


def draw_training_picture(number: int) -> DrawnPicture:
    """Picture `number`: a portrait, an empty scene, or one to four people, of the training identities only."""
    from anyphoto_cli.mini.picture import draw_picture, draw_portrait

    rng = np.random.default_rng([number, 20261124])
    style = "photo" if rng.random() < _PHOTO_SHARE else STYLES[int(rng.integers(1, len(STYLES)))]
    size = (int(rng.choice([128, 160, _WIDEST], p=[0.6, 0.2, 0.2])), _HEIGHT)
    kind = rng.random()
    if kind < _PORTRAIT_SHARE:
        return draw_portrait(int(rng.integers(IDENTITIES)), number, style=style)
    if kind > 1 - _EMPTY_SHARE:
        return draw_empty(number, style, size)
    people = int(rng.integers(1, MAX_PEOPLE + 1))
    identities = [int(i) for i in rng.choice(IDENTITIES, people, replace=False)]
    return draw_picture(number, identities=identities, style=style, size=size)


def draw_empty(seed: int, style: str, size: tuple[int, int]) -> DrawnPicture:
    """A scene without people. size: (width, height), px."""
    import cv2

    from anyphoto_cli.mini.pen import Chance, Sheet
    from anyphoto_cli.mini.scene import paint_scene
    from anyphoto_cli.mini.styles import apply_style

    chance, sheet = Chance("empty", seed), Sheet(*size)
    paint_scene(scene := chance.pick(SCENES), sheet, chance)
    ink = cv2.resize(sheet.ink, size, interpolation=cv2.INTER_AREA)
    return DrawnPicture(apply_style(style, ink), (), "", scene=scene, style=style, paraphrases=())


def _digest() -> str:
    drawn = hashlib.sha256()
    for number in range(12):
        drawn.update(draw_training_picture(number).pixels.tobytes())
    return drawn.hexdigest()[:10]


def _chunk(home: Path, k: int) -> tuple[NDArray[np.uint8], NDArray]:
    pixel_file, truth_file = home / f"pixels-{k:03}.npy", home / f"truth-{k:03}.npy"
    if not truth_file.is_file():  # written last: a killed run draws its unfinished chunk again
        pixels, truth = draw_chunk(range(k * _CHUNK, (k + 1) * _CHUNK))
        np.save(pixel_file, pixels)
        np.save(truth_file, truth)
    return np.load(pixel_file, mmap_mode="r"), np.load(truth_file)


def draw_chunk(numbers: range) -> tuple[NDArray[np.uint8], NDArray]:
    """Pixels [n, 128, 192, 3], black right of narrower pictures, and truth [n]."""
    pixels = np.zeros((len(numbers), _HEIGHT, _WIDEST, 3), np.uint8)
    truth = np.zeros(len(numbers), _TRUTH)
    for i, number in enumerate(numbers):
        picture = draw_training_picture(number)
        pixels[i, :, : picture.pixels.shape[1]] = picture.pixels
        truth[i] = _row(picture)
    return pixels, truth


def _row(picture: DrawnPicture) -> NDArray:
    row = np.zeros((), _TRUTH)
    row["width"], row["people"] = picture.pixels.shape[1], len(picture.people)
    row["style"] = STYLES.index(picture.style)
    for i, person in enumerate(picture.people):
        row["identity"][i], row["visible"][i] = person.identity, person.visible
        row["box"][i], row["landmarks"][i] = person.face_box, person.landmarks
    return row
