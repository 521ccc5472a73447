"""MultiID-2M as published: json and pickled npy beside each picture. Source: the dataset's card and loader.

Its npy files are pickles, and a pickle from a download is a program: only the few names that numpy arrays need are let
through here.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.texts import storable
from anyphoto_cli.types import Box, Embeddings

UNKNOWN = "none"
_HARMLESS = {
    (f"{root}.{module}", name)
    for root in ("numpy.core", "numpy._core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}
MAX_BYTES = 16 * 2**20
_OURS = frozenset({"caption_en", "caption", "url", "bboxes", "aesthetics_score", "nsfw_score"})


@dataclass(frozen=True, eq=False)
class KnownFace:
    """What a dataset says about one face. box: px of the stored picture. identity: "" where it is unknown."""

    box: Box
    identity: str


@dataclass(frozen=True, eq=False)
class KnownPicture:
    """What a dataset says about one picture. aesthetics, nsfw: its own scores, or nan."""

    url: str
    caption: str
    faces: tuple[KnownFace, ...]
    aesthetics: float
    nsfw: float = float("nan")


def read_annotation(data: bytes, where: str) -> KnownPicture:
    """One sample's json, or img2dataset's. Boxes are shifted by `crop` (they count from before it); the list of names
    may be shorter than that of boxes, and is `name`, `names` or words of `keyword`. What is null is not there. Raises
    InputError, `where` naming the sample.
    """
    value = _object(data, where)
    boxes, names = value.get("bboxes") or [], _names(value)
    with _numbers_of("crop", where):
        left, top = map(float, (value.get("crop") or (0, 0))[:2])
    with _numbers_of("bboxes", where):
        faces = [
            KnownFace(_box(x0 - left, y0 - top, x1 - left, y1 - top), name)
            for (x0, y0, x1, y1), name in zip(boxes, names + [""] * (len(boxes) - len(names)), strict=False)
        ]
    aesthetics, nsfw = (_score(value, key, where) for key in ("aesthetics_score", "nsfw_score"))
    caption = _text(value, "caption_en") or _text(value, "caption")
    return KnownPicture(str(value.get("url") or ""), caption, tuple(faces), aesthetics, nsfw)


@contextmanager
def _numbers_of(key: str, where: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise InputError(f"has no numbers in {key}", file=where) from error


def _score(value: Mapping[str, Any], key: str, where: str) -> float:
    """nan where it is left open."""
    told = value.get(key)
    with _numbers_of(key, where):
        return math.nan if told is None else float(told)


def _box(*corners: float) -> Box:
    """Raises ValueError for what is nowhere."""
    if not all(map(math.isfinite, corners)):
        raise ValueError(corners)
    return Box(*corners)


def is_annotation(data: bytes) -> bool:
    """Whether a json that merely lies beside a picture is of this kind: other programs leave theirs there, too."""
    try:
        return not _OURS.isdisjoint(_object(data, ""))
    except InputError:
        return False


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _object(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("is not JSON", file=where) from error
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", file=where)
    return value


def _names(value: Mapping[str, Any]) -> list[str]:
    """ "none" becomes ""."""
    given = value.get("name", value.get("names", value.get("keyword")))
    listed = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    return ["" if str(name) == UNKNOWN else storable(str(name)) for name in listed]


def read_embeddings(data: bytes, where: str) -> Embeddings:
    """[faces, 512] from a sample's npy, each of unit length; a plain array or a pickled dict of them.

    Raises InputError for a pickle that names anything but numpy arrays, and for numbers that are no embeddings.
    """
    value = _load(data, where)
    if isinstance(value, dict):
        value = value.get("embeddings", value.get("embedding"))
    try:
        found = np.atleast_2d(np.asarray(value, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise InputError("holds no embeddings", file=where) from error
    if found.ndim != 2 or found.shape[1] != 512 or not np.isfinite(found).all():
        raise InputError(f"holds no embeddings of 512 numbers (its shape is {found.shape})", file=where)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise InputError("holds an embedding of zeros", file=where)
    unit: Embeddings = found / lengths
    return unit


def _load(data: bytes, where: str) -> Any:
    """An npy file: numbers through numpy itself, a pickled object through the short list above."""
    if len(data) > MAX_BYTES:
        raise InputError(f"has {len(data) / 2**20:.0f} MiB", file=where, remedy="Limit: 16 MiB")
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = header(stream)
        if not dtype.hasobject:
            return np.load(io.BytesIO(data), allow_pickle=False)
        loaded = _ArraysOnly(stream).load()
        return loaded.item() if isinstance(loaded, np.ndarray) and loaded.shape == () else loaded
    except InputError as error:
        raise InputError(error.what, file=where, remedy=error.remedy) from error
    except Exception as error:  # pickles and npy headers fail in any way at all
        raise InputError(f"is a broken npy file ({type(error).__name__})", file=where) from error


class _ArraysOnly(pickle.Unpickler):
    """Arrays, dicts, lists, texts and numbers; any other name in a pickle is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        """One of numpy's few names, or the text codec that protocol 2 writes bytes with."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) not in _HARMLESS:
            raise InputError(
                f"is a pickle that wants to load {module}.{name}", remedy="Nothing was run; do not trust its source"
            )
        return super().find_class(module, name)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise InputError(f"is a pickle with the text codec {encoding[:40]!r}")
    return text.encode("latin1")
