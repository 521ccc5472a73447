"""Where other models plug in. To add one: one file that fits a protocol here, one line in `registry.py`.

- a face model: `FaceAnalyzer`
- a base model on FLUX: `Base`, a record that says where its weights are and on which terms
- another backbone: a diffusers pipeline class with `load_anyphoto` and a `faces` argument, see `model/pipeline.py`
- another VAE: any diffusers autoencoder of 16 channels and /8 goes through `model/vae.py`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from anyphoto_cli.types import Embeddings, Face, Picture


@runtime_checkable
class FaceAnalyzer(Protocol):
    """Finds faces and says who they are."""

    @property
    def name(self) -> str:
        """What the pack is called."""
        ...

    @property
    def sha256(self) -> str:
        """Of the recogniser's weights; stored with pictures and scores: two face models' numbers never mix."""
        ...

    @property
    def detects(self) -> bool:
        """False for a pack without a detector: landmarks must be given by hand."""
        ...

    def detect(self, pictures: Sequence[Picture], size: int = 640) -> list[list[Face]]:
        """[H, W, 3] RGB each -> its faces, best score first. size: the detector's input side, px."""
        ...

    def embed(self, crops: Picture) -> Embeddings:
        """[n, 112, 112, 3] RGB norm-crops -> [n, 512], unit length."""
        ...


@dataclass(frozen=True)
class Base:
    """A base model that `--model` knows by name.

    source: hub id. build: makes the folder instead, for models that need no download. face_pack: the pack used
    when none is named. steps: denoising steps used when the layout does not say. licence: in plain words, shown
    to users. note: what the picture is worth, printed with each render, or "". download_gb: 0 when none.
    """

    name: str
    source: str
    licence: str
    steps: int = 28
    face_pack: str = "antelopev2"
    build: Callable[[Path], None] | None = None
    note: str = ""
    download_gb: float = 0.0
    gated: bool = False
