"""What the person detector is trained on: drawn pictures as it may meet them, mosaics, and places without people."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.mini.pretrain.album import Album

INPUT = 256
"""Side of the net's square input, px."""
_GREY = 114


def person_sample(album: Album, number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Input picture and people of a sample, a pure function of its number."""
    chance = np.random.default_rng((7, number))
    kind = chance.random()
    make = _mosaic if kind < 0.15 else _empty if kind < 0.2 else _placed
    pixels, people = make(album, chance)
    return _recoloured(pixels, chance), people


def _mosaic(album: Album, chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Four pictures in one: smaller people, more of them, and straight edges that are no person."""
    half = INPUT // 2
    pixels, people = np.full((INPUT, INPUT, 3), _GREY, np.uint8), []
    for x, y in ((0, 0), (half, 0), (0, half), (half, half)):
        tile, rows = _mirrored(album, chance)
        scale = half / max(tile.shape[:2])
        tile = _resized(tile, scale)
        pixels[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        people.append(_moved(rows, scale, x, y))
    return pixels, np.concatenate(people)


def _empty(album: Album, chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What a picture shows above all heads: places without people are no people."""
    picture, people = _mirrored(album, chance)
    pixels = np.full((INPUT, INPUT, 3), _GREY, np.uint8)
    above = int(people[:, [1, 5]].min())
    if above > 8:
        strip = _resized(picture[:above], INPUT / max(above, picture.shape[1]))
        top = int(chance.integers(INPUT - strip.shape[0] + 1))
        pixels[top : top + strip.shape[0], : strip.shape[1]] = strip
    return pixels, people[:0]


def _placed(album: Album, chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """As at inference half of the time, else smaller or larger and anywhere."""
    picture, people = _mirrored(album, chance)
    fit_scale = INPUT / max(picture.shape[:2])
    if chance.random() < 0.5:
        scale = fit_scale
        left, top = ((INPUT - round(side * scale)) / 2 for side in picture.shape[1::-1])
    else:
        scale = fit_scale * float(np.exp(chance.uniform(np.log(0.4), np.log(1.25))))
        left, top = (chance.uniform(*sorted((0.0, INPUT - side * scale))) for side in picture.shape[1::-1])
    x, y = round(left - 0.1), round(top - 0.1)
    picture = _resized(picture, scale)
    pixels = np.full((INPUT, INPUT, 3), _GREY, np.uint8)
    cut = picture[max(-y, 0) : INPUT - y, max(-x, 0) : INPUT - x]
    pixels[max(y, 0) : max(y, 0) + cut.shape[0], max(x, 0) : max(x, 0) + cut.shape[1]] = cut
    return pixels, _moved(people, scale, x, y)


def _mirrored(album: Album, chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    index = int(chance.integers(len(album)))
    picture, people = album.picture(index), album.people_of(index).copy()
    if chance.random() < 0.5:
        picture = np.asarray(cv2.flip(picture, 1), np.uint8)
        people[:, [0, 2, 4, 6]] = picture.shape[1] - people[:, [2, 0, 6, 4]]
    return picture, people


def _moved(people: NDArray[np.float32], scale: float, x: float, y: float) -> NDArray[np.float32]:
    """People after scaling and shifting; boxes end at the input's edge, and a face cut in half counts as hidden."""
    moved = people.copy()
    moved[:, :8] = moved[:, :8] * scale + np.tile([x, y], 4)
    whole = moved[:, 4:8].copy()
    moved[:, :8] = moved[:, :8].clip(0, INPUT)
    left = _area(moved[:, 4:8]) / np.maximum(_area(whole), 1e-6)
    moved[:, 8] = np.where(left < 0.6, 0.0, moved[:, 8])
    moved[left < 0.6, 4:8] = whole[left < 0.6]
    return moved


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
    return area


def _resized(picture: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _recoloured(pixels: NDArray[np.uint8], chance: np.random.Generator) -> NDArray[np.uint8]:
    """Light, colour cast, grey, blur, noise: pictures of other sources are not as clean as the renderer's."""
    gain = chance.uniform(0.8, 1.2) * chance.uniform(0.93, 1.07, 3)
    table = (np.arange(256)[:, None] * gain + chance.uniform(-12, 12)).clip(0, 255).astype(np.uint8)
    pixels = np.asarray(cv2.LUT(pixels, table.reshape(1, 256, 3)))
    if chance.random() < 0.08:
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    if chance.random() < 0.15:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), chance.uniform(0.5, 1.8)))
    if chance.random() < 0.15:
        noise = chance.normal(0, chance.uniform(2, 10), (INPUT, INPUT, 1)).astype(np.float32)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    return pixels
