"""insightface's FaceAnalysis over any pack folder: boxes, five landmarks, scores, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.files.quiet import without_prints
from anyphoto_cli.types import Box, Embeddings, Face, Picture

BATCH = {"cuda": 64, "cpu": 1}
"""Faces the recogniser sees at once. A GPU wants many; a CPU takes a quarter longer for each in a batch of 64, and one
by one an embedding does not depend on its neighbours in the last bit.
"""


class InsightFacePack:
    """A detector (SCRFD or RetinaFace with landmarks) and an ArcFace recogniser, run by onnxruntime."""

    detects = True

    def __init__(self, folder: Path, device: str = "cpu", threads: int = 0, least: float = 0.5) -> None:
        self.folder, self.name = folder, folder.name
        self._batch = BATCH.get(device.split(":")[0], 1)
        self.providers = onnx_providers(device)
        from insightface.app import FaceAnalysis

        try:
            # insightface prints what it loads; stdout belongs to our results.
            with without_prints():
                analysis = FaceAnalysis(
                    name=str(folder), allowed_modules=["detection", "recognition"], providers=self.providers,
                    sess_options=session_options(threads),
                )  # fmt: skip
                # Given explicitly: from 1.0 on insightface's default runs two sizes and merges them.
                analysis.prepare(ctx_id=_cuda_index(device), det_thresh=least, det_size=(640, 640))
        except Exception as error:  # onnxruntime and insightface raise bare AssertionErrors and kinds of their own
            raise InputError(
                f"cannot be used as a face pack ({type(error).__name__}: {str(error)[:120]})", file=folder,
                field="--face-pack", remedy="It needs a detector with 5 landmarks and a recogniser",
            ) from error  # fmt: skip
        if "recognition" not in analysis.models:
            raise InputError("holds no recogniser", file=folder, field="--face-pack")
        self._detector, self._recogniser = analysis.models["detection"], analysis.models["recognition"]

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the recogniser's file."""
        return sha256_of(self.recogniser_file)

    @cached_property
    def detector_sha256(self) -> str:
        """Hex digest of the detector's file: packs share recognisers, and find other faces."""
        return sha256_of(Path(self._detector.model_file))

    @property
    def recogniser_file(self) -> Path:
        """The recogniser's ONNX file, for `recogniser_torch`."""
        return Path(self._recogniser.model_file)

    @property
    def fixed_size(self) -> int | None:
        """The one input side the detector was exported for, px, or None when any will do."""
        size = getattr(self._detector, "static_input_size", None)
        return int(size[0]) if size else None

    def detect(self, pictures: Sequence[Picture], size: int = 640) -> list[list[Face]]:
        """[H, W, 3] RGB each -> its faces, best first. A detector of fixed size ignores `size`."""
        side = self.fixed_size or size
        return [self._detect_one(picture, side) for picture in pictures]

    def _detect_one(self, picture: Picture, side: int) -> list[Face]:
        import cv2

        if side * min(picture.shape[:2]) < max(picture.shape[:2]):  # at `side` its shorter side would be no pixel
            return []
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)  # five times as fast as turning the axis round
        boxes, points = self._detector.detect(bgr, input_size=(side, side))
        if points is None:
            return []
        faces = [
            Face(Box(*map(float, box[:4])), landmarks.astype(np.float64), float(box[4]))
            for box, landmarks in zip(boxes, points, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.score)

    def embed(self, crops: Picture) -> Embeddings:
        """[n, 112, 112, 3] RGB norm-crops -> [n, 512], unit length. insightface runs one a call; see BATCH."""
        batches = [crops[i : i + self._batch] for i in range(0, len(crops), self._batch)]
        found = [self._recogniser.forward(batch.transpose(0, 3, 1, 2).astype(np.float32)) for batch in batches]
        return unit_length(np.concatenate(found)) if found else np.zeros((0, 512), np.float32)


def unit_length(vectors: np.ndarray) -> Embeddings:
    """[n, d] -> the same directions, each of length 1."""
    unit: Embeddings = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def session_options(threads: int) -> Any:
    """threads: of one model; 0: one a core. Where several processes share a machine, 1 is twice as fast."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # faces are at stake: nothing about them leaves the machine
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def onnx_providers(device: str) -> list[str | tuple[str, dict[str, int]]]:
    """What onnxruntime is to use: CUDA on that card first, where it is both asked for and installed."""
    import onnxruntime

    if device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": _cuda_index(device)}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _cuda_index(device: str) -> int:
    """cuda:1 -> 1, cuda -> 0, cpu -> -1, as insightface counts."""
    return int(device.partition(":")[2] or 0) if device.startswith("cuda") else -1
