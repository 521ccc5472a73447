"""A photo of the list as pixels, and what its source says about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyphoto_cli.data.multiid2m import KnownFace, KnownPicture, read_annotation
from anyphoto_cli.data.sources import PhotoInput, read_span
from anyphoto_cli.errors import AnyPhotoError
from anyphoto_cli.files.images import MAX_BYTES, decode, read_bytes
from anyphoto_cli.types import Box, Picture

_NOTHING = KnownPicture(url="", caption="", faces=(), aesthetics=float("nan"))


@dataclass(frozen=True, eq=False)
class LoadedPhoto:
    """sha256: of the source's bytes. pixels: upright, no side longer than asked for. known: in px of `pixels`."""

    sha256: str
    pixels: Picture
    known: KnownPicture


@dataclass(frozen=True)
class Unreadable:
    """Why there are no pixels, in a few words."""

    problem: str


def load_photo(photo: PhotoInput, max_side: int) -> LoadedPhoto | Unreadable:
    """Decode one photo; whatever is wrong with it is told, never raised."""
    if photo.problem:
        return Unreadable(photo.problem)
    try:
        data = read_photo(photo)
        image = decode(data, Path(photo.file))
    except AnyPhotoError as error:
        return Unreadable(error.what)
    try:
        known = read_known(photo)
    except AnyPhotoError as error:
        return Unreadable(f"its json {error.what}")
    scale = min(1.0, max_side / max(image.size))
    if scale < 1:
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        known = _scaled(known, size[0] / image.width, size[1] / image.height)
        image = image.resize(size, resample=_antialiased())
    return LoadedPhoto(hashlib.sha256(data).hexdigest(), np.asarray(image), known)


def _antialiased() -> int:
    from PIL import Image

    return int(Image.Resampling.LANCZOS)


def read_photo(photo: PhotoInput) -> bytes:
    """The bytes of the picture. Raises InputError when it cannot be read or is larger than 128 MiB."""
    if photo.picture is None:
        return read_bytes(Path(photo.file))
    if photo.picture.size > MAX_BYTES:
        from anyphoto_cli.errors import InputError

        raise InputError(f"has {photo.picture.size / 2**20:.0f} MiB", file=photo.file)
    return read_span(photo.file, photo.picture)


def read_known(photo: PhotoInput) -> KnownPicture:
    """What the list and the json beside the picture say. Raises InputError for a json of another form."""
    if photo.annotation is None or photo.annotation.size > MAX_BYTES:
        known = _NOTHING
    else:
        known = read_annotation(read_span(photo.file, photo.annotation), photo.id)
    return replace(
        known, url=photo.url or known.url, caption=photo.caption or known.caption,
        aesthetics=known.aesthetics if photo.aesthetics is None else photo.aesthetics,
        nsfw=known.nsfw if photo.nsfw is None else photo.nsfw,
    )  # fmt: skip


def _scaled(known: KnownPicture, across: float, down: float) -> KnownPicture:
    faces = [
        KnownFace(Box(x0 * across, y0 * down, x1 * across, y1 * down), face.identity)
        for face in known.faces
        for x0, y0, x1, y1 in [face.box]
    ]
    return replace(known, faces=tuple(faces))
