"""Norm-crops: a face turned and scaled so that its landmarks meet the ArcFace template."""

from __future__ import annotations

import numpy as np

from anyphoto_cli.geometry import ARCFACE_SIZE, arcface_template, fit_similarity
from anyphoto_cli.types import Patch, Picture, Points


def norm_crop(picture: Picture, landmarks: Points, size: int = ARCFACE_SIZE) -> Picture:
    """[H, W, 3] -> [size, size, 3]; size is a multiple of 112, px. Black beyond the picture.

    The recogniser was trained on exactly this warp (bilinear, pixel centres at whole numbers, as cv2.warpAffine and
    insightface do it), so it is not antialiased. Raises ValueError when the landmarks coincide.
    """
    return _warp(picture, fit_similarity(landmarks, arcface_template(size)).matrix, size)


def face_patch(picture: Picture, landmarks: Points, size: int) -> Patch:
    """[H, W, 3] -> [size, size, 4]: the norm-crop for the location canvas, transparent beyond the picture.

    Antialiased when the face is larger than the patch. size: px, a multiple of 112. Source: A.3, "canonical size".
    """
    picture, landmarks = _shrink(picture, landmarks, fit_similarity(landmarks, arcface_template(size)).scale)
    import cv2

    matrix = fit_similarity(landmarks, arcface_template(size)).matrix
    # Colours go on beyond the photo's end and alpha alone stops there: no dark rim where the two meet.
    colours = _warp(picture, matrix, size, cv2.BORDER_REPLICATE)
    alpha = _warp(np.full(picture.shape[:2], 255, np.uint8), matrix, size)
    return np.dstack([colours, alpha])


def _shrink(picture: Picture, landmarks: Points, scale: float) -> tuple[Picture, Points]:
    """Average down to twice the final size first: bilinear sampling alone skips pixels below scale 1/2."""
    if scale >= 0.5:
        return picture, landmarks
    import cv2

    height, width = picture.shape[:2]
    small = cv2.resize(
        picture,
        (max(1, round(width * 2 * scale)), max(1, round(height * 2 * scale))),
        interpolation=cv2.INTER_AREA,
    )
    ratio = np.array([small.shape[1] / width, small.shape[0] / height])
    return small, (landmarks + 0.5) * ratio - 0.5


def _warp(picture: np.ndarray, matrix: np.ndarray, size: int, border: int = 0) -> np.ndarray:
    """border: cv2.BORDER_CONSTANT (0), which is black, or another of cv2's kinds."""
    import cv2

    warped: np.ndarray = cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    return warped
