"""What one shard entry holds: the picture, everything known about its people, and their embeddings.

`<key>.jpg` RGB without metadata. `<key>.json` as below; the same keys in every sample, numbers always floats, "" for
what is unknown: readers take a column's type from the first few samples. `<key>.npz`: `embeddings` [people, 512]
float16, in the order of `people`; no pickle.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyphoto_cli.data.shards import Sample
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.texts import storable
from anyphoto_cli.types import Box, Embeddings, Points


@dataclass(frozen=True, eq=False)
class PersonRecord:
    """One person of a picture, px of the stored picture.

    person_box: (0, 0, 0, 0) where only the face was found; person_score then 0. mask: COCO RLE counts of the person,
    "" when not asked for. identity: name in the bank, or "". match_score, cosine: 0 without a match. tokens: location
    tokens of the face at the training size. flags: words, by spaces, that speak against the face.
    """

    person_box: Box
    person_score: float
    mask: str
    face_box: Box
    landmarks: Points
    face_score: float
    identity: str
    match_score: float
    cosine: float
    tokens: float
    flags: str

    def to_json(self) -> dict[str, Any]:
        """Floats and texts only."""
        return {
            "person_box": [float(value) for value in self.person_box],
            "person_score": float(self.person_score),
            "mask": self.mask,
            "face_box": [float(value) for value in self.face_box],
            "landmarks": [[float(x), float(y)] for x, y in self.landmarks],
            "face_score": float(self.face_score),
            "identity": storable(self.identity),
            "match_score": float(self.match_score),
            "cosine": float(self.cosine),
            "tokens": float(self.tokens),
            "flags": self.flags,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PersonRecord:
        """The opposite of `to_json`."""
        kept = {key: value[key] for key in ("person_score", "mask", "face_score", "identity", "match_score", "cosine")}
        return cls(
            **kept, person_box=Box(*value["person_box"]), face_box=Box(*value["face_box"]), tokens=value["tokens"],
            landmarks=np.asarray(value["landmarks"], np.float64).reshape(5, 2), flags=value["flags"],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class PictureRecord:
    """One picture. source: its id in the input. keep: the box that a crop must hold, px: every identified face with its
    surroundings. people: those with an identity first, each group from left to right.
    """

    key: str
    source: str
    url: str
    width: int
    height: int
    caption: str
    captioner: str
    keep: Box
    people: tuple[PersonRecord, ...]

    def to_json(self) -> dict[str, Any]:
        """Floats, texts and lists only."""
        return {
            "key": self.key,
            "source": storable(self.source),
            "url": storable(self.url),
            "width": float(self.width),
            "height": float(self.height),
            "caption": storable(self.caption),
            "captioner": storable(self.captioner),
            "keep": [float(value) for value in self.keep],
            "people": [person.to_json() for person in self.people],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PictureRecord:
        """The opposite of `to_json`."""
        kept = {key: value[key] for key in ("key", "source", "url", "caption", "captioner")}
        people = tuple(PersonRecord.from_json(person) for person in value["people"])
        return cls(
            **kept, width=int(value["width"]), height=int(value["height"]), keep=Box(*value["keep"]), people=people
        )


def encode_sample(record: PictureRecord, jpeg: bytes, embeddings: Embeddings) -> Sample:
    """The members of one entry; the same bytes for the same values."""
    if len(embeddings) != len(record.people):
        raise ValueError(f"{len(embeddings)} embeddings for {len(record.people)} people")
    text = json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=np.asarray(embeddings, np.float16))
    return Sample(record.key, {"jpg": jpeg, "json": text.encode(), "npz": buffer.getvalue()})


def decode_sample(sample: Sample, where: str = "") -> tuple[PictureRecord, bytes, Embeddings]:
    """(record, jpeg bytes, embeddings [people, 512] float32). Raises InputError for an entry of another form."""
    name = f"{where}/{sample.key}" if where else sample.key
    try:
        record = PictureRecord.from_json(json.loads(sample.members["json"]))
        with np.load(io.BytesIO(sample.members["npz"]), allow_pickle=False) as arrays:
            embeddings = arrays["embeddings"].astype(np.float32)
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"is not an entry of anyphoto's shards ({type(error).__name__})", file=name) from error
    if embeddings.shape != (len(record.people), 512) or not np.isfinite(embeddings).all():
        raise InputError(f"has embeddings of shape {embeddings.shape} for {len(record.people)} people", file=name)
    return record, sample.members["jpg"], embeddings


def features() -> dict[str, Any]:
    """The types of the json for `datasets`, as they stand in the shards' README card (`dataset_info: features`)."""
    number, text = {"dtype": "float64"}, {"dtype": "string"}
    box = {"sequence": "float64"}
    person = {
        "person_box": box, "person_score": number, "mask": text, "face_box": box,
        "landmarks": {"sequence": {"sequence": "float64"}}, "face_score": number, "identity": text,
        "match_score": number, "cosine": number, "tokens": number, "flags": text,
    }  # fmt: skip
    return {
        "key": text, "source": text, "url": text, "width": number, "height": number, "caption": text,
        "captioner": text, "keep": box, "people": [person],
    }  # fmt: skip


def order_people(people: Sequence[PersonRecord]) -> list[int]:
    """Indices: identified people first, each group from left to right."""
    return sorted(
        range(len(people)), key=lambda i: (not people[i].identity, people[i].face_box.x0, people[i].face_box.y0)
    )
