"""A pack without a detector: faces are embedded, never found; landmarks come from the user."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.types import Embeddings, Face, Picture


class RecogniserOnly:
    """One ArcFace-like ONNX file, run as a PyTorch module."""

    detects = False

    def __init__(self, folder: Path, device: str = "cpu", threads: int = 0, least: float = 0.5) -> None:
        from anyphoto_cli.faces.recogniser_torch import load_recogniser

        files = sorted(folder.glob("*.onnx"))
        if len(files) != 1:
            raise InputError("needs one recogniser", file=folder, field="--face-pack", remedy="Or add a detector")
        self.folder, self.name, self.recogniser_file = folder, folder.name, files[0]
        self._device = device
        self._module = load_recogniser(files[0]).to(device)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the recogniser's file."""
        return sha256_of(self.recogniser_file)

    def detect(self, pictures: Sequence[Picture], size: int = 640) -> list[list[Face]]:
        """Raises InputError: there is no detector."""
        raise InputError(
            f"the face pack {self.name!r} has no detector",
            remedy="Give reference_landmarks in the layout, or a pack that detects with --face-pack DIR",
        )

    def embed(self, crops: Picture) -> Embeddings:
        """[n, 112, 112, 3] RGB norm-crops -> [n, 512], unit length."""
        import torch

        from anyphoto_cli.faces.recogniser_torch import to_input

        if not len(crops):
            return np.zeros((0, 512), np.float32)
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(crops)).to(self._device)
            embeddings: Embeddings = self._module(to_input(pixels)).cpu().numpy()
        return embeddings
