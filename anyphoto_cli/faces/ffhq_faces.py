"""FaceNet and AdaFace as the WithAnyone evaluator runs them: RetinaFace finds, FFHQ's template aligns, at 112 px.

Only to compare with its published numbers. They take crops of another template than ArcFace's: `crop` makes them.
Source: WithAnyone (arXiv 2510.14975) F.2 and its evaluator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.commit import sha256_of_state
from anyphoto_cli.types import Box, Embeddings, Face, Picture, Points

FOLDER = "ANYPHOTO_RETINAFACE"
CONFIDENCE = 0.97
SIZE = 112
_FFHQ_512 = (
    (192.98138, 239.94708), (318.90277, 240.1936), (256.63416, 314.01935), (201.26117, 371.41043),
    (313.08905, 371.15118),
)  # fmt: skip
"""Where the five points lie in an aligned FFHQ picture, px of 512."""
_GREY = (135, 133, 132)


class FFHQFaces:
    """Any recogniser behind RetinaFace. network: [n, 112, 112, 3] RGB uint8 -> [n, d] numpy, any length."""

    detects = True

    def __init__(self, name: str, sha256: str, network: Callable[[Picture], Any], detector: Any) -> None:
        self.name, self.sha256 = name, sha256
        self._network, self._detector = network, detector

    @cached_property
    def detector_sha256(self) -> str:
        """Hex digest of RetinaFace's numbers."""
        return sha256_of_state(self._detector)

    def detect(self, pictures: Sequence[Picture], size: int = 640) -> list[list[Face]]:
        """As `FaceAnalyzer`; pictures go in as large as they are, `size` is not looked at."""
        found = [self._detector.detect_faces(picture[..., ::-1].copy(), CONFIDENCE) for picture in pictures]
        return [[_face(row) for row in rows] for rows in found]

    def crop(self, picture: Picture, landmarks: Points) -> Picture:
        """[H, W, 3] -> [112, 112, 3], by FFHQ's template. Least median of squares, as facexlib aligns.

        The grey beyond the picture is what facexlib writes into its BGR pictures.
        """
        import cv2

        template = np.array(_FFHQ_512) * (SIZE / 512)
        matrix, _ = cv2.estimateAffinePartial2D(landmarks.astype(np.float64), template, method=cv2.LMEDS)
        warped: Picture = cv2.warpAffine(
            np.ascontiguousarray(picture), matrix, (SIZE, SIZE), borderMode=cv2.BORDER_CONSTANT, borderValue=_GREY[::-1]
        )
        return warped

    def embed(self, crops: Picture) -> Embeddings:
        """[n, 112, 112, 3] RGB of `crop` -> [n, d], unit length."""
        if not len(crops):
            return np.zeros((0, 512), np.float32)
        rows = np.asarray(self._network(crops), np.float32)
        unit: Embeddings = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return unit


def _face(row: Any) -> Face:
    """[15]: box, score, five points."""
    return Face(Box(*map(float, row[:4])), np.asarray(row[5:], np.float64).reshape(5, 2), float(row[4]))


def open_retinaface(device: str) -> Any:
    """facexlib's RetinaFace of ResNet-50. Raises EnvironmentFault without facexlib or weights.

    They are downloaded once, or lie in the folder that ANYPHOTO_RETINAFACE names: detection_Resnet50_Final.pth.
    """
    try:
        from facexlib.detection import init_detection_model
    except Exception as error:  # it needs torchvision, which raises kinds of its own beside another torch
        raise EnvironmentFault(
            f"facexlib cannot be imported ({type(error).__name__}: {str(error)[:80]})",
            remedy="Run: pip install facexlib, with the torchvision that belongs to your torch",
        ) from error
    try:
        folder = os.environ.get(FOLDER)
        return init_detection_model("retinaface_resnet50", half=False, device=device, model_rootpath=folder)
    except Exception as error:  # urllib, torch and the file system raise their own
        what = f"RetinaFace's weights cannot be had ({type(error).__name__})"
        raise EnvironmentFault(
            what, remedy=f"facexlib downloads them from GitHub; {FOLDER} names a folder with a copy"
        ) from error
