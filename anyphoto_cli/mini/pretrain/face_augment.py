"""What may happen to a face on its way to a detector or recogniser: light, colour, blur, few pixels, JPEG."""

from __future__ import annotations

import numpy as np

from anyphoto_cli.types import Picture


def relight(picture: Picture, rng: np.random.Generator) -> Picture:
    """Brightness, contrast and colour cast, a third of the time strong; sometimes grey."""
    import cv2

    strength = 0.16 if rng.random() < 0.33 else 0.06
    gain = (1 + rng.normal(0, strength)) * (1 + rng.normal(0, strength / 2, 3))
    offset = rng.normal(0, 120 * strength) * np.ones(3)
    levels = np.arange(256)[:, None]
    table = np.clip((levels - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)
    lit: Picture = cv2.LUT(picture, table[None])
    if rng.random() < 0.12:
        lit = np.repeat(cv2.cvtColor(lit, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return lit


def degrade(picture: Picture, rng: np.random.Generator, smallest: float, share: float) -> Picture:
    """Fewer pixels (down to a side of `smallest` px), blur, noise and JPEG, each with some probability.

    share: how often the picture loses pixels.
    """
    import cv2

    height, width = picture.shape[:2]
    if rng.random() < share:
        scale = np.exp(rng.uniform(np.log(smallest / min(height, width)), 0))
        shape = (max(4, round(width * scale)), max(4, round(height * scale)))
        small = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA)
        way = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[int(rng.choice(3, p=[0.5, 0.35, 0.15]))]
        picture = cv2.resize(small, (width, height), interpolation=way)
    if rng.random() < 0.15:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, width / 60))
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(2, 14), picture.shape)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))])[1]
        picture = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return picture
