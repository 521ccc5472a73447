"""A photo of the list as pixels, and what its source says about it."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyphoto_cli.data.multiid2m import KnownFace, KnownPicture, is_annotation, read_annotation
from anyphoto_cli.data.sources import PhotoInput, Span, read_span
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.files.images import MAX_BYTES, decode, read_bytes
from anyphoto_cli.files.texts import storable
from anyphoto_cli.types import Box, Picture

MAX_CAPTION_BYTES = 64 * 2**10
MAX_ANNOTATION_BYTES = 4 * 2**20
"""As JSON it takes twenty-seven times that."""
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
        return Unreadable(error.what)
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
        raise InputError(f"has {photo.picture.size / 2**20:.0f} MiB", file=photo.file)
    return read_span(photo.file, photo.picture)


def read_known(photo: PhotoInput) -> KnownPicture:
    """What the list, the text and the json beside the picture say; of several captions the first of these.

    Raises InputError when one of them cannot be read.
    """
    known, caption = _annotation(photo), photo.caption or _caption(photo)
    return replace(
        known, url=storable(photo.url or known.url), caption=storable(caption or known.caption),
        aesthetics=known.aesthetics if photo.aesthetics is None else photo.aesthetics,
        nsfw=known.nsfw if photo.nsfw is None else photo.nsfw,
    )  # fmt: skip


def _annotation(photo: PhotoInput) -> KnownPicture:
    """In a tar the json is the sample's own; in a folder it is taken where it says what we look for."""
    try:
        if (size := _size_beside(photo, photo.annotation)) > MAX_ANNOTATION_BYTES:
            raise InputError(f"has {size / 2**20:.0f} MiB, more than the {MAX_ANNOTATION_BYTES >> 20} that are read")
        data = _read_beside(photo, photo.annotation)
        if data is None or (isinstance(photo.annotation, str) and not is_annotation(data)):
            return _NOTHING
        return read_annotation(data, photo.id)
    except AnyPhotoError as error:
        raise InputError(f"its json {error.what}", file=photo.id) from error


def _caption(photo: PhotoInput) -> str:
    """Lines become one: sentences as they follow, tags with commas between them."""
    try:
        large = _size_beside(photo, photo.caption_text) > MAX_CAPTION_BYTES  # not what it seems
        data = b"" if large else _read_beside(photo, photo.caption_text) or b""
    except AnyPhotoError as error:
        raise InputError(f"its caption {error.what}", file=photo.id) from error
    lines = [line.strip() for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    if any(line.endswith((".", "!", "?")) for line in lines):
        return " ".join(lines)
    return ", ".join(line.rstrip(", ") for line in lines)


def _size_beside(photo: PhotoInput, place: Span | str | None) -> int:
    """Bytes; 0 where there is nothing, or nothing that can be looked at."""
    if isinstance(place, Span):
        return place.size
    with suppress(OSError):
        return Path(photo.file).with_name(place).stat().st_size if place else 0
    return 0


def _read_beside(photo: PhotoInput, place: Span | str | None) -> bytes | None:
    """None where there is nothing."""
    if place is None:
        return None
    return read_span(photo.file, place) if isinstance(place, Span) else read_bytes(Path(photo.file).with_name(place))


def _scaled(known: KnownPicture, across: float, down: float) -> KnownPicture:
    faces = [
        KnownFace(Box(x0 * across, y0 * down, x1 * across, y1 * down), face.identity)
        for face in known.faces
        for x0, y0, x1, y1 in [face.box]
    ]
    return replace(known, faces=tuple(faces))
