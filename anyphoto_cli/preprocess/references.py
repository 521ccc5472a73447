"""The reference bank: photos of known people become norm-crops and embeddings. Photos that will not do are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.bank import BankIdentity, ReferenceFolder, mean_direction, read_centre
from anyphoto_cli.data.multiid2m import MAX_BYTES, is_annotation, read_annotation
from anyphoto_cli.errors import AnyPhotoError
from anyphoto_cli.faces.norm_crop import face_patch, norm_crop
from anyphoto_cli.faces.reference_face import find_reference_face
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.files.texts import odd_bytes_shown
from anyphoto_cli.geometry import ARCFACE_SIZE
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Box, Embeddings, Patch, Picture


@dataclass(frozen=True, eq=False)
class _Reference:
    source: str
    patch: Patch
    crop: Picture
    faces: int


def read_references(
    reference: ReferenceFolder,
    analyzer: FaceAnalyzer,
    config: PreprocessConfig,
    starting: Callable[[int], None] = lambda place: None,
    skip: frozenset[int] = frozenset(),
) -> BankIdentity:
    """One identity of the bank; without patches when none of its photos will do.

    Photos beyond `max_references` are not opened; of more, those at equal steps through the sorted names are taken.
    starting: hears the place of each of these before it is touched. skip: places of those that ended their process.
    """
    found: list[_Reference] = []
    left_out = [(_source(file, reference.name), "has no photo's name") for file in reference.others]
    for place, photo in enumerate(evenly(reference.photos, config.max_references)):
        if place in skip:
            left_out.append((_source(photo, reference.name), "ended every process that touched it"))
            continue
        starting(place)
        opened = _open(photo, reference.name, analyzer, config)
        if isinstance(opened, str):
            left_out.append((_source(photo, reference.name), opened))
        else:
            found.append(opened)
    embeddings = analyzer.embed(np.stack([one.crop for one in found])) if found else np.zeros((0, 512), np.float32)
    kept = consistent(embeddings, config.reference_outlier)
    left_out += [(one.source, "does not look like the others") for one, k in zip(found, kept, strict=True) if not k]
    rows = embeddings[kept]
    if not len(rows):
        left_out.append((reference.name, "has no photo that will do"))
    centre, problem = _centre(reference, rows, config.reference_outlier)
    if problem:
        left_out.append((f"{reference.name}.npy", problem))
    return BankIdentity(
        name=reference.name, patches=tuple(one.patch for one, k in zip(found, kept, strict=True) if k),
        embeddings=rows, centre=centre,
        sources=tuple(one.source for one, k in zip(found, kept, strict=True) if k), left_out=tuple(sorted(left_out)),
        remarks=tuple((one.source, f"shows {one.faces} faces: the largest one is taken")
                      for one, k in zip(found, kept, strict=True) if k and one.faces > 1),
    )  # fmt: skip


def _centre(reference: ReferenceFolder, rows: Embeddings, least: float) -> tuple[Embeddings, str]:
    """The given centre, or the middle of the references; and why a given one would not do, or ""."""
    middle = mean_direction(rows) if len(rows) else np.zeros(512, np.float32)
    if reference.centre is None:
        return middle, ""
    try:
        centre = read_centre(reference.centre)
    except AnyPhotoError as error:
        return middle, error.what
    # MultiID-2M's are antelopev2's: to another model's embeddings they are noise, which would halve every score.
    if len(rows) and float(centre @ middle) < least:
        return middle, "is a centre of another face model, or of another person"
    return centre, ""


def _open(photo: Path, name: str, analyzer: FaceAnalyzer, config: PreprocessConfig) -> _Reference | str:
    try:
        picture = read_picture(photo)
        found = find_reference_face(analyzer, picture, _named_box(photo, name))
        face = found.face
        if (side := min(face.box.width, face.box.height)) < config.reference_min:
            return f"has a face of {side:.0f} px"
        patch = face_patch(picture, face.landmarks, config.patch_size)
        return _Reference(_source(photo, name), patch, norm_crop(picture, face.landmarks, ARCFACE_SIZE), found.faces)
    except AnyPhotoError as error:
        return error.what
    except MemoryError:  # no fault of the photo
        raise
    except Exception as error:  # onnxruntime and OpenCV raise kinds of their own
        return f"the models failed on it ({type(error).__name__})"


def _named_box(photo: Path, name: str) -> Box | None:
    """Where the json beside a photo has this person: the box of that name, or its only one; None where it has not."""
    beside = photo.with_suffix(".json")
    if not beside.is_file() or beside.stat().st_size > MAX_BYTES or not is_annotation(data := beside.read_bytes()):
        return None
    faces = read_annotation(data, beside.name).faces
    named = [face.box for face in faces if face.identity == name]
    return named[0] if named else faces[0].box if len(faces) == 1 and not faces[0].identity else None


def _source(photo: Path, name: str) -> str:
    return odd_bytes_shown(f"{name}/{photo.name}")


def evenly(items: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of them, at equal steps, the first always among them."""
    if len(items) <= most:
        return list(items)
    return [items[k * len(items) // most] for k in range(most)]


def consistent(embeddings: Embeddings, least: float) -> list[bool]:
    """For each reference whether its mean cosine to the others reaches `least`; with one or two nothing can be told."""
    if len(embeddings) < 3:
        return [True] * len(embeddings)
    cosines = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    to_others = (cosines.sum(1) - 1) / (len(embeddings) - 1)
    return [bool(value >= least) for value in to_others]
