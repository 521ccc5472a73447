"""Stage 4: kept photos become samples, samples shards. Photos are decoded once more, by the same decoder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.samples import PersonRecord, PictureRecord, encode_sample, order_people
from anyphoto_cli.data.shards import Sample, ShardRecord, shard_name, write_shard
from anyphoto_cli.data.sources import PhotoInput
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.layout.location_canvas import covered_tokens
from anyphoto_cli.preprocess.loading import Unreadable, load_photo
from anyphoto_cli.types import Box, Embeddings, Picture, Points

Row = dict[str, Any]
_KEEP = 0.35
"""A crop must hold each identified face and so much of its width and height on every side: hair and chin."""


@dataclass(frozen=True, eq=False)
class KeptPhoto:
    """Everything known of one photo that goes into a shard. number: its place in the list, and so its key."""

    number: int
    photo: PhotoInput
    detected: Row
    matched: Row
    caption: str
    captioner: str
    embeddings: Embeddings


def key_of(number: int) -> str:
    """000000012: nine digits, the place in the list of photos."""
    return f"{number:09d}"


def pack_shard(folder: Path, number: int, photos: Iterator[KeptPhoto], config: PreprocessConfig) -> ShardRecord:
    """Write one shard. Raises EnvironmentFault when a photo is no longer what the first stage saw."""
    samples = (make_sample(photo, config) for photo in photos)
    return write_shard(folder / shard_name(config.split, number), samples)


def make_sample(kept: KeptPhoto, config: PreprocessConfig) -> Sample:
    """JPEG, record and embeddings of one photo."""
    loaded = load_photo(kept.photo, config.max_side)
    if isinstance(loaded, Unreadable) or loaded.sha256 != kept.detected["sha256"]:
        remedy = "Give a new folder with -o, or put the photo back"
        raise EnvironmentFault("has changed since this run first read it", file=kept.photo.id, remedy=remedy)
    people = people_of(kept, config)
    order = order_people(people)
    record = PictureRecord(
        key=key_of(kept.number), source=kept.photo.id, url=kept.detected["url"], width=kept.detected["width"],
        height=kept.detected["height"], caption=kept.caption, captioner=kept.captioner,
        keep=keep_box(people, kept.detected), people=tuple(people[place] for place in order),
    )  # fmt: skip
    return encode_sample(record, as_jpeg(loaded.pixels, config.jpeg_quality), kept.embeddings[order])


def as_jpeg(picture: Picture, quality: int) -> bytes:
    """Full colour resolution, no metadata: the same bytes for the same pixels and Pillow."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def people_of(kept: KeptPhoto, config: PreprocessConfig) -> list[PersonRecord]:
    """One record a face, in the order of the faces. A face with a bad flag gets no identity."""
    matches = kept.matched["matches"]
    named = set(kept.matched["usable"])
    return [
        _person(kept.detected, face, matches[place] if place in named else None, config)
        for place, face in enumerate(kept.detected["faces"])
    ]


def _person(row: Row, face: Row, match: Sequence[Any] | None, config: PreprocessConfig) -> PersonRecord:
    person: Mapping[str, Any] = {"box": (0.0, 0.0, 0.0, 0.0), "score": 0.0, "mask": ""}
    if face["person"] >= 0:
        person = row["persons"][face["person"]]
    identity, score, cosine = match or ("", 0.0, 0.0)
    landmarks = np.array(face["landmarks"], np.float64)
    return PersonRecord(
        person_box=Box(*person["box"]), person_score=person["score"], mask=person["mask"], face_box=Box(*face["box"]),
        landmarks=landmarks, face_score=face["score"], identity=identity, match_score=score, cosine=cosine or 0.0,
        tokens=float(location_tokens(landmarks, row["width"], row["height"], config)), flags=" ".join(face["flags"]),
    )  # fmt: skip


def location_tokens(landmarks: Points, width: int, height: int, config: PreprocessConfig) -> int:
    """How many tokens the face's patch covers at the training size."""
    return covered_tokens(landmarks, width, height, config.train_size, MethodConfig(patch_size=config.patch_size))


def keep_box(people: Sequence[PersonRecord], row: Row) -> Box:
    """Every identified face (every face where none is) with its surroundings, inside the picture."""
    faces = [person.face_box for person in people if person.identity] or [person.face_box for person in people]
    if not faces:
        return Box(0, 0, 0, 0)
    grown = [
        (
            box.x0 - _KEEP * box.width,
            box.y0 - _KEEP * box.height,
            box.x1 + _KEEP * box.width,
            box.y1 + _KEEP * box.height,
        )
        for box in faces
    ]
    columns = list(zip(*grown, strict=True))
    return Box(
        max(min(columns[0]), 0.0), max(min(columns[1]), 0.0),
        min(max(columns[2]), float(row["width"])), min(max(columns[3]), float(row["height"])),
    )  # fmt: skip
