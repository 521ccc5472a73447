"""Where other models plug in. To add one: one file that fits a protocol here, one line in `registry.py`.

- a face model: `FaceAnalyzer`; a person model: `PersonDetector`; a captioner: `Captioner`
- a base model on FLUX: `Base`, a record that says where its weights are and on which terms
- another backbone: a diffusers pipeline class with `load_anyphoto` and a `faces` argument, see `model/pipeline.py`
- another VAE: any diffusers autoencoder of 16 channels and /8 goes through `model/vae.py`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from anyphoto_cli.types import Embeddings, Face, Person, Picture


@runtime_checkable
class FaceAnalyzer(Protocol):
    """Finds faces and says who they are."""

    @property
    def name(self) -> str:
        """What the pack is called."""
        ...

    @property
    def sha256(self) -> str:
        """Of the recogniser's weights; stored with pictures and scores: two face models' numbers never mix.

        A model that finds faces by weights of its own has a `detector_sha256`, too; only `bench` knows of it.
        """
        ...

    @property
    def detects(self) -> bool:
        """False for a pack without a detector: landmarks must be given by hand."""
        ...

    def detect(self, pictures: Sequence[Picture], size: int = 640) -> list[list[Face]]:
        """[H, W, 3] RGB each -> its faces, best score first. size: the detector's input side, px."""
        ...

    def embed(self, crops: Picture) -> Embeddings:
        """[n, 112, 112, 3] RGB norm-crops -> [n, 512], unit length.

        A model that wants other crops has a method `crop(picture, landmarks)`; only `bench` knows of it.
        """
        ...


@runtime_checkable
class PersonDetector(Protocol):
    """Finds people: boxes, and masks where the model has them."""

    @property
    def name(self) -> str:
        """The file's name."""
        ...

    @property
    def sha256(self) -> str:
        """Of the weights."""
        ...

    def persons(self, pictures: Sequence[Picture], least_score: float = 0.25) -> list[list[Person]]:
        """[H, W, 3] RGB each -> its persons, best first."""
        ...


@runtime_checkable
class Captioner(Protocol):
    """Writes one caption a picture: people, actions, clothes, places, style; never names."""

    @property
    def name(self) -> str:
        """Stored with every caption: the captioner and, where there is one, its model."""
        ...

    @property
    def looks(self) -> bool:
        """False when it does not need the picture: requests then come without."""
        ...

    def captions(self, pictures: Iterable[CaptionRequest]) -> Iterator[CaptionAnswer]:
        """One answer a request, in any order; answers come as they are ready. Requests are drawn one by one.

        Raises EnvironmentFault when no further answer can be had: the server is gone, the key is wrong.
        """
        ...


@dataclass(frozen=True, eq=False)
class CaptionRequest:
    """id: unique within a call. jpeg: the picture, at most a megapixel. people: number of faces found.
    given: what the source says, or "". source: the photo's id in the input.
    """

    id: str
    jpeg: bytes
    people: int
    given: str = ""
    source: str = ""


@dataclass(frozen=True)
class CaptionAnswer:
    """text: the caption, or "" where there is none. problem: why, in a few words, or ""."""

    id: str
    text: str
    problem: str = ""


@dataclass(frozen=True)
class Base:
    """A base model that `--model` knows by name.

    source: hub id. build: makes the folder instead, for models that need no download.
    shipped: gives the folder of weights that came with a package instead. face_pack: the pack used
    when none is named. steps: denoising steps used when the layout does not say. licence: in plain words, shown
    to users. note: what the picture is worth, printed with each render, or "". download_gb: 0 when none.
    sides: px, the shortest and the longest side it was trained on; tallest: px, where its pictures are never higher.
    guidance: least and most it can be told, where others make no picture. adapter: gives the folder of AnyPhoto weights
    that are used when none are named, or None.
    """

    name: str
    source: str
    licence: str
    steps: int = 28
    face_pack: str = "antelopev2"
    build: Callable[[Path], None] | None = None
    shipped: Callable[[], Path] | None = None
    note: str = ""
    download_gb: float = 0.0
    gated: bool = False
    sides: tuple[int, int] = (256, 2048)
    tallest: int | None = None
    guidance: tuple[float, float] | None = None
    adapter: Callable[[], Path | None] | None = None
