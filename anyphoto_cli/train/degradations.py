"""What may have happened to a reference: thirteen degradations of the pasted patch. Paper appendix A.2.

A model that is given clean patches pastes them; one that is given worn ones must look at the identity. Each degradation
has a name, a probability and a stream of chance of its own, so that switching one off leaves the others as they were.
They work on RGBA patches, in the order of `DEGRADATIONS`; only the flip moves anything, and landmarks follow it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from anyphoto_cli.types import Patch, Picture, Points

Rng = np.random.Generator
_SWAPPED = [1, 0, 2, 4, 3]
"""The left eye of a mirrored face is the right one of the other; so are the corners of the mouth."""


def degrade(patch: Patch, points: Points, rates: Mapping[str, float], seed: int) -> tuple[Patch, Points]:
    """The patch after each degradation that its probability in `rates` lets happen, and its landmarks.

    patch: [P, P, 4] RGBA. points: [5, 2] px in it. seed: of the sample; names that `rates` lacks never happen.
    """
    for name, rng in _happening(rates, seed):
        if name == "horizontal_flip":
            patch, points = flipped(patch, points)
        else:
            worn = DEGRADATIONS[name](np.ascontiguousarray(patch[..., :3]), rng)
            patch = np.dstack([worn, patch[..., 3]])
    return patch, points


def happening(rates: Mapping[str, float], seed: int) -> tuple[str, ...]:
    """Names of those that `degrade` lets happen with this seed, in their order."""
    return tuple(name for name, _ in _happening(rates, seed))


def _happening(rates: Mapping[str, float], seed: int) -> Iterator[tuple[str, Rng]]:
    """(name, its chance from there on) of each that happens."""
    for name in DEGRADATIONS:
        rng = stream(seed, name)
        if rng.random() < rates.get(name, 0.0):
            yield name, rng


def middling(patch: Patch, points: Points, name: str, seed: int, draws: int = 9) -> Patch:
    """The patch after one degradation as it mostly is: of so many draws the one in the middle by its change.

    Not the middle of its numbers: a jitter is as often up as down, and half way between it does nothing.
    """
    worn = [degrade(patch, points, {name: 1.0}, seed + k)[0] for k in range(draws)]
    worn.sort(key=lambda one: float(np.abs(one.astype(np.float32) - patch).mean()))
    return worn[draws // 2]


def stream(seed: int, name: str) -> Rng:
    """The chance of one degradation in one sample."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def flipped(patch: Patch, points: Points) -> tuple[Patch, Points]:
    """Mirrored left to right; landmark names stay true."""
    mirrored = points[_SWAPPED].copy()
    mirrored[:, 0] = patch.shape[1] - 1 - mirrored[:, 0]
    return np.ascontiguousarray(patch[:, ::-1]), mirrored


def color_jitter(picture: Picture, rng: Rng) -> Picture:
    """Brightness, contrast and saturation by up to 30 %, hue by up to 5 % of the circle."""
    import cv2

    brightness, contrast, saturation = rng.uniform(0.7, 1.3, 3)
    lit = picture.astype(np.float32) * brightness
    lit = (lit - lit.mean()) * contrast + lit.mean()
    grey = lit @ np.array([0.299, 0.587, 0.114], np.float32)
    lit = _clipped(grey[..., None] + (lit - grey[..., None]) * saturation)
    hsv = cv2.cvtColor(lit, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + round(float(rng.uniform(-9, 9)))) % 180
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def grayscale(picture: Picture, rng: Rng) -> Picture:
    """No colour."""
    import cv2

    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def blur(picture: Picture, rng: Rng) -> Picture:
    """Out of focus: Gaussian, sigma 0.3-1.5 % of the side."""
    import cv2

    return np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.003, 0.015)) * len(picture)))


def sharpness(picture: Picture, rng: Rng) -> Picture:
    """Between half as sharp and three times as sharp."""
    from PIL import Image, ImageEnhance

    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(picture)).enhance(float(rng.uniform(0.5, 3.0))))


def autocontrast(picture: Picture, rng: Rng) -> Picture:
    """Levels spread to the full range, the outermost 0-2 % cut off."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.autocontrast(Image.fromarray(picture), cutoff=float(rng.uniform(0, 2))))


def salt_and_pepper(picture: Picture, rng: Rng) -> Picture:
    """0.2-3 % of the pixels black or white."""
    noisy = picture.copy()
    hit = rng.random(picture.shape[:2]) < rng.uniform(0.002, 0.03)
    noisy[hit] = np.where(rng.random(int(hit.sum())) < 0.5, 0, 255)[:, None]
    return noisy


def gaussian_noise(picture: Picture, rng: Rng) -> Picture:
    """Sensor noise, sigma 3-20 grey levels."""
    return _clipped(picture + rng.normal(0, rng.uniform(3, 20), picture.shape))


def occlusion(picture: Picture, rng: Rng) -> Picture:
    """One ellipse, or two in two of five, of one colour each: hands, hair, microphones. Each is 5-15 % of the patch, of
    which the edge may cut some off; together they cover 6-23 % in nine of ten, 31 % at most.
    """
    import cv2

    covered, side = picture.copy(), len(picture)
    for _ in range(1 + int(rng.random() < 0.4)):
        middle = tuple(int(v) for v in rng.uniform(0.1, 0.9, 2) * side)
        area = rng.uniform(0.05, 0.15) * side * side
        stretch = float(np.exp(rng.uniform(-1, 1)))
        axes = (max(int(np.sqrt(area / np.pi) * stretch), 1), max(int(np.sqrt(area / np.pi) / stretch), 1))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.ellipse(covered, middle, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return covered


def illumination(picture: Picture, rng: Rng) -> Picture:
    """Light from one side: a gain around 0.85 to 1.05 that falls by 0.4 to 1 from edge to edge, by 1.4 at most from
    corner to corner; slightly coloured.
    """
    side = len(picture)
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:side, :side] / max(side - 1, 1) - 0.5
    ramp = columns * np.cos(angle) + rows * np.sin(angle)
    gain = 1 + ramp * rng.uniform(0.4, 1.0) + rng.uniform(-0.15, 0.05)
    return _clipped(picture * gain[..., None] * rng.uniform(0.93, 1.07, 3))


def jpeg(picture: Picture, rng: Rng) -> Picture:
    """Saved at quality 10-70."""
    import cv2

    code = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(10, 71))])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])


def resolution_loss(picture: Picture, rng: Rng) -> Picture:
    """Shrunk to 1/28-1/4 of its side (evenly in the logarithm; 16-112 px of 448) and enlarged again.

    A share: it must be less than what the canvas shows of the face, and models of small pictures have small patches.
    """
    import cv2

    small = max(round(len(picture) * float(np.exp(rng.uniform(np.log(1 / 28), np.log(1 / 4))))), 2)
    side, few = len(picture), cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
    ways = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)
    return np.asarray(cv2.resize(few, (side, side), interpolation=ways[int(rng.choice(3, p=[0.5, 0.35, 0.15]))]))


def face_ageing(picture: Picture, rng: Rng) -> Picture:
    """A stand-in for an ageing model (the paper's is not named): folds and texture deeper, colours paler and yellower,
    hair greyer towards the top. It changes what time changes in a photo, not the bones.
    """
    import cv2

    strength, side = float(rng.uniform(0.4, 1.0)), len(picture)
    lit: Any = picture.astype(np.float32)
    for sigma, share in ((0.004, 0.9), (0.015, 0.6)):
        lit += strength * share * (lit - cv2.GaussianBlur(lit, (0, 0), sigma * side))
    grey = lit @ np.array([0.299, 0.587, 0.114], np.float32)
    down = np.arange(side, dtype=np.float32) / side
    paler = np.clip(0.30 + 0.5 * (0.35 - down), 0.15, 0.5)[:, None, None] * np.float32(strength)
    lit = lit + (grey[..., None] + np.array([4, 1, -8], np.float32) - lit) * paler
    dark_hair = np.clip((90 - grey) / 90, 0, 1) * np.clip(1 - 3 * down, 0, 1)[:, None]
    return _clipped(lit + 70 * strength * dark_hair[..., None])


def _clipped(values: Any) -> Picture:
    rounded: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def _never(picture: Picture, rng: Rng) -> Picture:
    raise AssertionError("a flip moves landmarks, too: see `degrade`")


DEGRADATIONS: dict[str, Callable[[Picture, Rng], Picture]] = {
    "horizontal_flip": _never,
    "face_ageing": face_ageing,
    "occlusion": occlusion,
    "illumination": illumination,
    "color_jitter": color_jitter,
    "autocontrast": autocontrast,
    "grayscale": grayscale,
    "sharpness": sharpness,
    "blur": blur,
    "resolution_loss": resolution_loss,
    "gaussian_noise": gaussian_noise,
    "salt_and_pepper": salt_and_pepper,
    "jpeg": jpeg,
}
"""In the order in which they may happen: the person, the light, the camera, the file."""
