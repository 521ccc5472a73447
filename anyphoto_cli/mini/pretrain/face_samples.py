"""Detector inputs of drawn pictures: whole, zoomed, composed into larger photos, pasted onto canvases, or empty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.mini.pretrain.face_augment import degrade, relight
from anyphoto_cli.mini.pretrain.face_pictures import Drawn, DrawnPictures
from anyphoto_cli.types import Picture

SIDE = 256
"""Side of the detector's input, px: 128 px pictures, whose heads are 25-70 px high, are enlarged twice."""

_SMALLEST = 12.0
"""A face smaller than this in the input, px, is neither asked for nor forbidden."""

_MIRRORED = [1, 0, 2, 4, 3]


@dataclass(frozen=True, eq=False)
class Sample:
    """pixels: [h, w, 3], of a sample [256, 256, 3]. box: [n, 4], landmarks: [n, 5, 2] px. wanted: [n], whether a face
    is to be found; others may be.
    """

    pixels: Picture
    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    wanted: NDArray[np.bool_]


class DetectorSamples:
    """Sample k is a pure function of k and the pictures."""

    def __init__(self, pictures: DrawnPictures) -> None:
        self.pictures = pictures

    def __getitem__(self, number: int) -> Sample:
        """[256, 256, 3] and its faces."""
        rng = np.random.default_rng([number, 5])
        kinds = (self._whole, self._zoomed, self._composed, self._pasted, _blank)
        sample = kinds[int(rng.choice(5, p=[0.58, 0.12, 0.18, 0.08, 0.04]))](rng)
        if rng.random() < 0.5:
            sample = _mirror(sample)
        pixels = relight(sample.pixels, rng) if rng.random() < 0.6 else sample.pixels
        if rng.random() < 0.35:
            pixels = degrade(pixels, rng, smallest=0.5 * min(pixels.shape[:2]), share=0.4)
        return letterbox(Sample(pixels, sample.box, sample.landmarks, sample.wanted))

    def _drawn(self, rng: np.random.Generator) -> Sample:
        return _as_sample(self.pictures[int(rng.integers(len(self.pictures)))])

    def _whole(self, rng: np.random.Generator) -> Sample:
        return self._drawn(rng)

    def _zoomed(self, rng: np.random.Generator) -> Sample:
        """A window of a picture: large faces, and faces cut by the edge."""
        whole = self._drawn(rng)
        height, width = whole.pixels.shape[:2]
        side = int(rng.uniform(0.45, 0.95) * height)
        x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        return _window(whole, x, y, side)

    def _composed(self, rng: np.random.Generator) -> Sample:
        """Up to nine pictures in one, or one with a wide border: what photos larger than ours look like."""
        rows, columns = (int(n) for n in rng.choice([1, 2, 3], 2, p=[0.4, 0.4, 0.2]))
        cell = int(rng.integers(90, 200))
        canvas = _blank(rng, rows * cell, columns * cell)
        for k in range(rows * columns):
            part = _scaled(self._drawn(rng), cell * rng.uniform(0.5, 1.0))
            x = k % columns * cell + int(rng.integers(max(1, cell - part.pixels.shape[1])))
            y = k // columns * cell + int(rng.integers(max(1, cell - part.pixels.shape[0])))
            canvas = _paste(canvas, part, x, y)
        return canvas

    def _pasted(self, rng: np.random.Generator) -> Sample:
        """Norm-crops on a white or plain canvas, as the location canvases of the method hold them."""
        from anyphoto_cli.faces.norm_crop import norm_crop
        from anyphoto_cli.geometry import arcface_template, fit_similarity

        canvas = _blank(rng, 128, int(rng.choice([128, 192])), plain=True)
        for k in range(int(rng.integers(0, 3))):
            whole = self._drawn(rng)
            if not len(whole.box) or not whole.wanted[0]:
                continue
            crop = norm_crop(whole.pixels, whole.landmarks[0].astype(np.float64))
            place = fit_similarity(whole.landmarks[0].astype(np.float64), arcface_template())
            corners = place(whole.box[0, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2).astype(np.float64))
            box = np.concatenate([corners.min(0), corners.max(0)])[None].clip(0, 112).astype(np.float32)
            points = place(whole.landmarks[:1].astype(np.float64)).astype(np.float32)
            part = _scaled(Sample(crop, box, points, whole.wanted[:1]), rng.uniform(26, 62))
            x = int(64 * k + rng.integers(max(1, 64 - part.pixels.shape[1])))
            canvas = _paste(canvas, part, x, int(rng.integers(128 - part.pixels.shape[0])))
        return canvas


def letterbox(sample: Sample, side: int = SIDE) -> Sample:
    """Fitted into the upper left of [side, side, 3], black elsewhere, exactly as insightface does it.

    Landmarks are scaled without its half-pixel shift, because insightface scales the answers back without it.
    """
    import cv2

    height, width = sample.pixels.shape[:2]
    ratio = height / width
    shape = (int(side / ratio), side) if ratio > 1 else (side, int(side * ratio))
    scale = shape[1] / height
    out = np.zeros((side, side, 3), np.uint8)
    out[: shape[1], : shape[0]] = cv2.resize(sample.pixels, shape)
    box = sample.box * np.float32(scale)
    small = np.sqrt((box[:, 2:] - box[:, :2]).prod(1)) < _SMALLEST
    return Sample(out, box, sample.landmarks * np.float32(scale), sample.wanted & ~small)


def _as_sample(drawn: Drawn) -> Sample:
    return Sample(drawn.pixels, drawn.box, drawn.landmarks, drawn.visible >= 0.5)


def _blank(rng: np.random.Generator, height: int = 128, width: int = 128, plain: bool = False) -> Sample:
    """No face: white, one colour, a gradient, or noise."""
    kind = rng.random()
    colours = np.full((1, width, 3), 255.0)
    if kind >= 0.4:
        colours[:] = rng.uniform(0, 255, 3)
    if kind >= 0.7 and not plain:
        ramp = np.linspace(0, 1, width)[None, :, None]
        colours = colours * (1 - ramp) + rng.uniform(0, 255, 3) * ramp
    pixels = np.repeat(colours.astype(np.uint8), height, 0)
    if kind >= 0.9 and not plain:
        noise = rng.integers(-80, 80, (height // 2 + 1, width // 2 + 1, 3)).repeat(2, 0).repeat(2, 1)
        pixels = np.clip(pixels + noise[:height, :width], 0, 255).astype(np.uint8)
    no_box, no_points = np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32)
    return Sample(pixels, no_box, no_points, np.zeros(0, np.bool_))


def _mirror(sample: Sample) -> Sample:
    width = sample.pixels.shape[1]
    box, points = sample.box.copy(), sample.landmarks[:, _MIRRORED].copy()
    box[:, [0, 2]] = width - sample.box[:, [2, 0]]
    points[..., 0] = width - 1 - points[..., 0]
    return Sample(np.ascontiguousarray(sample.pixels[:, ::-1]), box, points, sample.wanted)


def _scaled(sample: Sample, height: float) -> Sample:
    import cv2

    scale = height / sample.pixels.shape[0]
    shape = (max(8, round(sample.pixels.shape[1] * scale)), max(8, round(height)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    factor = np.array([shape[0] / sample.pixels.shape[1], shape[1] / sample.pixels.shape[0]], np.float32)
    pixels = cv2.resize(sample.pixels, shape, interpolation=way)
    return Sample(pixels, sample.box * np.tile(factor, 2), (sample.landmarks + 0.5) * factor - 0.5, sample.wanted)


def _window(sample: Sample, x: int, y: int, side: int) -> Sample:
    """The square from x, y on."""
    box = sample.box - np.array([x, y, x, y], np.float32)
    points = sample.landmarks - np.array([x, y], np.float32)
    window = np.ascontiguousarray(sample.pixels[y : y + side, x : x + side])
    return _cut(Sample(window, box, points, sample.wanted), side, side)


def _paste(canvas: Sample, part: Sample, x: int, y: int) -> Sample:
    """`part` into the canvas' own pixels, its upper left one at x, y; what sticks out is cut off."""
    height, width = part.pixels.shape[:2]
    room = canvas.pixels[y : y + height, x : x + width]
    room[:] = part.pixels[: room.shape[0], : room.shape[1]]
    part = _cut(part, room.shape[1], room.shape[0])
    return Sample(
        canvas.pixels,
        np.concatenate([canvas.box, part.box + np.array([x, y, x, y], np.float32)]),
        np.concatenate([canvas.landmarks, part.landmarks + np.array([x, y], np.float32)]),
        np.concatenate([canvas.wanted, part.wanted]),
    )


def _cut(sample: Sample, width: int, height: int) -> Sample:
    """Boxes end at the picture's edge. A face that lost two fifths is no longer asked for, one without rest is gone."""
    inside = sample.box.clip(0, [width, height, width, height]).astype(np.float32)
    share = (inside[:, 2:] - inside[:, :2]).prod(1) / np.maximum((sample.box[:, 2:] - sample.box[:, :2]).prod(1), 1e-6)
    kept = share > 0.02
    return Sample(sample.pixels, inside[kept], sample.landmarks[kept], (sample.wanted & (share > 0.6))[kept])
