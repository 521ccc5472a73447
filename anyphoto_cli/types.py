"""The few plain types that every stage speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
"""[5, 2] x, y in px: left eye, right eye, nose, left and right mouth corner, as seen in the picture (ArcFace order).
The centre of the top left pixel is (0, 0)."""

Picture: TypeAlias = NDArray[np.uint8]
"""[H, W, 3] RGB, 0-255."""

Patch: TypeAlias = NDArray[np.uint8]
"""[P, P, 4] RGB and alpha, 0-255: a norm-cropped face; alpha is 0 where the reference photo ends."""

Embeddings: TypeAlias = NDArray[np.float32]
"""[n, 512], unit length."""


class Box(NamedTuple):
    """A rectangle in px; x1, y1 lie outside it."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """px."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """px."""
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        """px²; 0 for an empty box."""
        return max(self.width, 0.0) * max(self.height, 0.0)


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face. score: 0-1, the detector's confidence."""

    box: Box
    landmarks: Points
    score: float


@dataclass(frozen=True, eq=False)
class Person:
    """One detected person. score: 0-1. mask: [H, W] bool of the whole picture, or None."""

    box: Box
    score: float
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class PreparedFace:
    """One identity, ready for the model: paper 3.2, 3.3 and A.3.

    canvas: [H, W, 3] RGB, 0-255, white but for the pasted face (C_i). tokens: [H/16, W/16] bool, the location
    tokens to keep (M_i at token resolution). embedding: [512] unit length (e_i). strength: how much the picture looks
    at it, 1 as in training. pack: sha256 of the recogniser that the embedding is of, "" where that is not known.
    """

    name: str
    canvas: Picture
    tokens: NDArray[np.bool_]
    embedding: NDArray[np.float32]
    strength: float = 1.0
    pack: str = ""
