"""Photos without a bank: faces that look alike, photo after photo, become identities person_001, person_002, ...

Average linkage on the embeddings; two faces of one photo are never the same person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.bank import BankIdentity, mean_direction
from anyphoto_cli.data.sources import PhotoInput
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.calibration import find_calibration
from anyphoto_cli.faces.norm_crop import face_patch
from anyphoto_cli.preprocess.average_linkage import average_linkage
from anyphoto_cli.preprocess.exclusions import NOTHING, Exclusions
from anyphoto_cli.preprocess.loading import Unreadable, load_photo
from anyphoto_cli.preprocess.near_duplicates import first_of_each
from anyphoto_cli.preprocess.work import PhotoList, Row, Work
from anyphoto_cli.types import Embeddings

MOST_FACES = 100_000
"""All are compared with all: twice as many take four times as long."""


@dataclass(frozen=True, eq=False)
class SeenFaces:
    """Faces of all photos. photo: [n] its number. place: [n] which face of it. embeddings: [n, 512]."""

    photo: NDArray[np.int64]
    place: NDArray[np.int64]
    embeddings: Embeddings


def good_faces(photos: PhotoList, work: Work, config: PreprocessConfig, exclusions: Exclusions = NOTHING) -> SeenFaces:
    """Those without a flag that speaks against them, in photos that may be in the data, each picture once: a copy is
    no other photo of a person. Raises InputError when there are too many to compare.
    """
    photo, place, rows = [], [], [np.zeros((0, 512), np.float32)]
    hashes: dict[int, int] = {}
    for chunk in range(len(photos)):
        detected, arrays = work.read("detect", chunk)
        at = 0
        for number, one, row in zip(photos.numbers(chunk), photos.photos(chunk), detected, strict=True):
            faces = row.get("faces", ())
            for k in _good(one, row, config, exclusions):
                photo.append(number)
                place.append(k)
                rows.append(arrays["embeddings"][at + k][None])
                hashes[number] = int(row["phash"], 16)
            at += len(faces)
        if len(photo) > MOST_FACES:
            remedy = "Make a bank of the people you want and give it with --refs"
            raise InputError(f"more than {MOST_FACES} faces", field="--discover", remedy=remedy)
    seen = SeenFaces(np.array(photo, np.int64), np.array(place, np.int64), np.concatenate(rows))
    return _each_picture_once(seen, hashes, config.near_duplicates)


def _good(photo: PhotoInput, row: Row, config: PreprocessConfig, exclusions: Exclusions) -> list[int]:
    """Places of the good faces of a photo; none in one that must not be in the data."""
    if row["problem"] or exclusions.of_photo(photo.id, row["url"], [entry[4] for entry in row["known"]]):
        return []
    return [k for k, face in enumerate(row["faces"]) if not set(face["flags"]) & set(config.drop_flags)]


def _each_picture_once(faces: SeenFaces, hashes: Mapping[int, int], distance: int) -> SeenFaces:
    """hashes: of the photos, in their order."""
    repeats = first_of_each(np.array(list(hashes.values()), np.uint64), distance) >= 0
    stay = ~np.isin(faces.photo, np.array(list(hashes), np.int64)[repeats])
    return SeenFaces(faces.photo[stay], faces.place[stay], faces.embeddings[stay])


def same_person(config: PreprocessConfig) -> float:
    """The mean cosine from which on two groups of faces are one person's: `match_threshold`, or the face pack's own
    calibrated threshold where that is higher. Lower than what later names a face it never is: a calibration lets one of
    a hundred pairs of strangers pass, and here everybody is compared with everybody.
    """
    from anyphoto_cli.faces.packs import open_faces

    found = find_calibration(open_faces(config.face_pack))
    return max(config.match_threshold, found.threshold if found and found.believed else -1.0)


def cluster(faces: SeenFaces, least: int, threshold: float) -> list[NDArray[np.int64]]:
    """Groups of faces, each seen in at least `least` photos, the largest first; equal sizes: the earliest first.

    threshold: least mean cosine between what is one group. Of two faces of one photo that fall into one group, only
    the one nearer to the group's middle stays.
    """
    labels = average_linkage(faces.embeddings, threshold)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    groups = [_once_a_photo(group, faces) for group in np.split(order, starts[1:]) if len(group) >= least]
    wanted = [group for group in groups if len(group) >= least]
    return sorted(wanted, key=lambda group: (-len(group), int(group[0])))


def _once_a_photo(group: NDArray[np.int64], faces: SeenFaces) -> NDArray[np.int64]:
    middle = mean_direction(faces.embeddings[group])
    nearness = faces.embeddings[group] @ middle
    best: dict[int, int] = {}
    for index in np.argsort(-nearness, kind="stable"):
        best.setdefault(int(faces.photo[group[index]]), int(group[index]))
    return np.array(sorted(best.values()), np.int64)


def discovered_identity(
    name: str, group: NDArray[np.int64], faces: SeenFaces, photos: PhotoList, work: Work, config: PreprocessConfig
) -> BankIdentity:
    """The bank's entry of a group: patches from the photos themselves, from those nearest to the group's middle."""
    middle = mean_direction(faces.embeddings[group])
    order = group[np.argsort(-(faces.embeddings[group] @ middle), kind="stable")][: config.max_references]
    patches: list[Any] = []
    rows, sources = [], []
    for index in sorted(order.tolist()):
        number = int(faces.photo[index])
        chunk = number // photos.chunk
        place = number - photos.numbers(chunk).start
        photo = photos.photos(chunk)[place]
        loaded = load_photo(photo, config.max_side)
        if isinstance(loaded, Unreadable):
            continue
        face = work.read("detect", chunk)[0][place]["faces"][int(faces.place[index])]
        patches.append(face_patch(loaded.pixels, np.array(face["landmarks"]), config.patch_size))
        rows.append(faces.embeddings[index])
        sources.append(photo.id)
    kept = np.stack(rows) if rows else np.zeros((0, 512), np.float32)
    return BankIdentity(name, tuple(patches), kept, middle, tuple(sources))
