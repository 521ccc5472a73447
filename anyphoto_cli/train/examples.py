"""A shard's sample becomes a training example: crop, references, degradations, canvases. Paper 3.5, 4.1, A.2, A.3.

Order for each identity: landmarks, then the patch of the picture's own face or of another photo (with p of the step),
then degradations, then the canvas. The embedding is that of the chosen reference before it was degraded.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.config.train import DataConfig
from anyphoto_cli.data.bank import BankIdentity, read_identity, read_index, read_patch
from anyphoto_cli.data.samples import PersonRecord, PictureRecord
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.norm_crop import face_patch
from anyphoto_cli.geometry import arcface_template
from anyphoto_cli.layout.location_canvas import location_canvas, token_mask
from anyphoto_cli.train.crops import SquareCrop, square_crop
from anyphoto_cli.train.degradations import degrade, happening
from anyphoto_cli.train.replacement import choose_reference, other_photos
from anyphoto_cli.types import Embeddings, Patch, Picture, Points

MOSTLY = 0.9
"""Share of a face's box that must lie in the crop: of who is cut off, no loss could tell anything."""


@dataclass(frozen=True, eq=False)
class Example:
    """One training sample of S x S px with N >= 1 identities; on the CPU.

    picture: [S, S, 3]. caption: "" where it was dropped. canvases: [N, S, S, 3]. masks: [N, S/16, S/16] bool, each
    with at least one token. embeddings: [N, 512] of the references. landmarks: [N, 5, 2] px, where the faces are.
    own: [N, 512] of the faces in the picture. replaced: [N] bool, whether another photo was pasted. dropped: whether
    this sample is one of those that see places without identity. worn: of each reference, what it went
    through, by name.
    """

    key: str
    picture: Picture
    caption: str
    canvases: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    embeddings: Embeddings
    landmarks: NDArray[np.float64]
    own: Embeddings
    replaced: NDArray[np.bool_]
    dropped: bool
    worn: tuple[tuple[str, ...], ...] = ()


class Bank:
    """The reference bank that `preprocess` wrote; identities are read when they are asked for, the last ones kept: but
    for their patches, of which one is pasted and all would fill the memory.

    Raises InputError when there is none, or when its patches have another size than the method wants.
    """

    def __init__(self, folder: Path, patch_size: int, kept: int = 256) -> None:
        self._files, facts = read_index(folder)
        self.faces_sha256 = str(facts.get("faces_sha256", ""))
        if facts.get("patch_size") != patch_size:
            remedy = f"Run preprocess with --patch-size {patch_size}, or set method.patch_size"
            what = f"holds patches of {facts.get('patch_size')} px, the method wants {patch_size}"
            raise InputError(what, file=folder, field="method.patch_size", remedy=remedy)
        self._read = lru_cache(maxsize=kept)(partial(read_identity, with_patches=False))

    def check_files(self) -> None:
        """Raises InputError where the file of somebody is not there."""
        folders = {file.parent for file in self._files.values()}
        there = {file for folder in folders for file in folder.iterdir()}
        missing = sorted(file for file in self._files.values() if file not in there)
        if missing:
            more = f", and {len(missing) - 1} more of the bank" if missing[1:] else ""
            raise InputError(f"is missing{more}", file=missing[0], remedy="Copy it again, or run preprocess again")

    @property
    def names(self) -> list[str]:
        """Of everybody in it, sorted."""
        return sorted(self._files)

    def __contains__(self, name: str) -> bool:
        """Whether somebody is in it; nothing is read."""
        return name in self._files

    def identity(self, name: str) -> BankIdentity:
        """Somebody who is in it, without patches. Raises InputError for a broken file."""
        return self._read(self._files[name])

    def patch(self, name: str, place: int) -> Patch:
        """One of somebody's patches, in the order of `identity`'s embeddings. Raises InputError for a broken file."""
        return read_patch(self._files[name], place)


@dataclass(frozen=True, eq=False)
class _Reference:
    """What is pasted: patch, where its landmarks are, whose embedding goes with it, and what it went through."""

    patch: Patch
    points: Points
    embedding: NDArray[np.float32]
    replaced: bool
    worn: tuple[str, ...]


def make_example(
    record: PictureRecord, jpeg: bytes, embeddings: Embeddings, bank: Bank, data: DataConfig, method: MethodConfig,
    *, p: float, seed: Sequence[int],
) -> Example | None:  # fmt: skip
    """None when nobody of the bank lies in the crop. A pure function of its arguments.

    embeddings: [people, 512] as the shard has them. p: replacement probability of this step. seed: numbers that name
    the sample and the step.
    """
    rng = np.random.default_rng([*seed])
    picture = _decoded(jpeg)
    crop = square_crop(record.width, record.height, record.keep, data.resolution, rng)
    dropped, silent = bool(rng.random() < data.identity_drop), bool(rng.random() < data.text_drop)
    chosen = _chosen(record.people, crop, bank, data.max_faces, rng)
    made = []
    for place in chosen:
        person = record.people[place]
        face_seed = int(rng.integers(2**63))
        reference = _reference(picture, person, embeddings[place], bank, record.source, data, method, p, face_seed)
        where = crop.of_points(person.landmarks)
        canvas = location_canvas(reference.patch, where, data.resolution, data.resolution, method, reference.points)
        mask = token_mask(canvas.mask, method.mask_rule)
        if mask.any():
            made.append((canvas.pixels, mask, reference, where, embeddings[place]))
    if not made:
        return None
    return Example(
        key=record.key, picture=crop.of_picture(picture), caption="" if silent else record.caption,
        canvases=np.stack([one[0] for one in made]), masks=np.stack([one[1] for one in made]),
        embeddings=_unit(np.stack([one[2].embedding for one in made])), landmarks=np.stack([one[3] for one in made]),
        own=_unit(np.stack([one[4] for one in made])), replaced=np.array([one[2].replaced for one in made]),
        dropped=dropped, worn=tuple(one[2].worn for one in made),
    )  # fmt: skip


def _decoded(jpeg: bytes) -> Picture:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg), formats=("JPEG",)).convert("RGB"))


def _chosen(
    people: Sequence[PersonRecord], crop: SquareCrop, bank: Bank, most: int, rng: np.random.Generator
) -> list[int]:
    """Places of the people of the bank whose face lies in the crop; of too many, some by chance, in their order."""
    order = rng.permutation(len(people))
    usable = [int(place) for place in order if _is_usable(people[place], crop, bank)]
    return sorted(usable[:most])


def _is_usable(person: PersonRecord, crop: SquareCrop, bank: Bank) -> bool:
    return person.identity in bank and crop.covers(person.face_box) >= MOSTLY


def _reference(
    picture: Picture, person: PersonRecord, own: NDArray[np.float32], bank: Bank, source: str,
    data: DataConfig, method: MethodConfig, p: float, seed: int,
) -> _Reference:  # fmt: skip
    rng, known = np.random.default_rng(seed), bank.identity(person.identity)
    pick = choose_reference(other_photos(source, own, known), p, rng)
    if pick >= 0:
        patch, embedding = bank.patch(person.identity, pick), known.embeddings[pick]
    else:
        patch, embedding = face_patch(picture, person.landmarks, method.patch_size), own
    worn, points = degrade(patch, arcface_template(method.patch_size), data.degradations, seed)
    return _Reference(worn, points, embedding, pick >= 0, happening(data.degradations, seed))


def _unit(rows: Any) -> Embeddings:
    """float16 on disk: of unit length again."""
    unit: Embeddings = (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)).astype(np.float32)
    return unit
