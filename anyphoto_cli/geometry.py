"""Similarity transforms, the ArcFace template, and rectangles: plain numpy on [.., 2] points in px."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.types import Box, Points

TOKEN_PX = 16
"""Side of the square one FLUX token covers: 8 (VAE) x 2 (packing)."""

ARCFACE_SIZE = 112
_ARCFACE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def arcface_template(size: int = ARCFACE_SIZE) -> Points:
    """[5, 2] where ArcFace puts the five landmarks in a norm-crop of `size` px (a multiple of 112)."""
    return np.asarray(_ARCFACE, np.float64) * (size / ARCFACE_SIZE)


@dataclass(frozen=True)
class Similarity:
    """x' = a x - b y + tx; y' = b x + a y + ty. Source: Eq. 26."""

    a: float
    b: float
    tx: float
    ty: float

    @property
    def scale(self) -> float:
        """√(a² + b²), target px per source px. Source: Eq. 27."""
        return float(np.hypot(self.a, self.b))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """[2, 3], as cv2.warpAffine takes it."""
        return np.array([[self.a, -self.b, self.tx], [self.b, self.a, self.ty]])

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """[.., 2] -> [.., 2]."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]


def fit_similarity(source: Points, target: Points) -> Similarity:
    """The similarity that takes source points nearest to target points, in closed form (least squares).

    source, target: [n, 2] px. Raises ValueError when the source points coincide. Source: Eq. 26.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    s, t = source - source.mean(0), target - target.mean(0)
    spread = float((s * s).sum())
    if not spread > 1e-9:
        raise ValueError("the points coincide")
    a = float((s * t).sum()) / spread
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / spread
    cx, cy = source.mean(0)
    dx, dy = target.mean(0)
    return Similarity(a, b, float(dx - a * cx + b * cy), float(dy - b * cx - a * cy))


def is_mirrored(points: Points) -> bool:
    """Whether left and right are exchanged (or the face is drawn inside out): mouth and eyes turn the wrong way.

    A face turned upside down is not mirrored: rotation keeps the sign of the cross product.
    """
    eyes = points[1] - points[0]
    down = points[3:5].mean(0) - points[:2].mean(0)
    return bool(eyes[0] * down[1] - eyes[1] * down[0] <= 0)


def upright_landmarks(box: Box) -> Points:
    """[5, 2] the ArcFace template upright in the middle of a box, as large as fits in it."""
    side = min(box.width, box.height)
    corner = np.array([box.x0 + (box.width - side) / 2, box.y0 + (box.height - side) / 2])
    points: Points = arcface_template() * (side / ARCFACE_SIZE) + corner
    return points


def intersection(a: Box, b: Box) -> Box:
    """The common part of two boxes; its area is 0 where they are apart."""
    return Box(max(a.x0, b.x0), max(a.y0, b.y0), min(a.x1, b.x1), min(a.y1, b.y1))


def overlap(a: Box, b: Box) -> float:
    """0-1: the share of the smaller box that the other one covers."""
    smaller = min(a.area, b.area)
    return intersection(a, b).area / smaller if smaller > 0 else 0.0


def face_height(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 5, 2] landmarks -> [...]: three times from the eyes' middle to the mouth's, about from chin to hair."""
    eyes, mouth = points[..., :2, :].mean(-2), points[..., 3:, :].mean(-2)
    height: NDArray[np.float64] = np.maximum(3.0 * np.linalg.norm(eyes - mouth, axis=-1), 1e-6)
    return height


def fitting_size(width: float, height: float, side: float) -> tuple[int, int]:
    """(width, height) of about side², in these proportions, multiples of 16; no side beyond twice the other."""
    ratio = float(np.clip(width / height, 0.5, 2.0)) ** 0.5

    def whole(value: float) -> int:
        return max(round(value / TOKEN_PX), 4) * TOKEN_PX

    across, down = whole(side * ratio), whole(side / ratio)
    return min(across, 2 * down), min(down, 2 * across)
