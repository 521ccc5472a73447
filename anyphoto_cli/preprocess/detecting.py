"""Stage 1 on a chunk of photos: decode, persons, faces, embeddings. Models see several pictures at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.sources import PhotoInput
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.preprocess.face_detection import FaceRule, FoundFace, embed_all, find_all_faces
from anyphoto_cli.preprocess.loading import LoadedPhoto, Unreadable, load_photo
from anyphoto_cli.runtime.jobs import CAREFULLY, batches
from anyphoto_cli.seams import FaceAnalyzer, PersonDetector
from anyphoto_cli.types import Embeddings, Person, Picture


@dataclass(frozen=True, eq=False)
class Detectors:
    """The models of the stage."""

    persons: PersonDetector
    faces: FaceAnalyzer


def open_detectors(config: PreprocessConfig, device: str = "cpu", threads: int = 0) -> Detectors:
    """Load both. Raises InputError or EnvironmentFault naming the option."""
    from anyphoto_cli.faces.packs import open_faces
    from anyphoto_cli.preprocess.persons import open_persons

    faces = open_faces(config.face_pack, device, threads, least=min(0.5, config.face_score))
    persons = open_persons(config.person_model, device, threads)
    # A detector of somebody else's need not tell.
    if config.masks and not getattr(persons, "masks", True):
        remedy = "Give one that was trained for segmentation (yolo11x-seg.pt), or leave masks at false"
        raise InputError(
            "has no masks, which masks=true asks for", file=persons.name, field="--person-model", remedy=remedy
        )
    return Detectors(persons, faces)


def detect_photos(
    photos: Sequence[PhotoInput],
    detectors: Detectors,
    config: PreprocessConfig,
    batch: int = 8,
    starting: Callable[[int], None] = lambda place: None,
    skip: frozenset[int] = frozenset(),
) -> tuple[list[dict[str, Any]], Embeddings]:
    """One row a photo, and the embeddings of all faces in their order, [faces, 512].

    starting: hears the place of each photo before it is touched, so that a photo that kills the process is known.
    skip: places of such photos. With anything in it photos go one by one.
    """
    rows: list[dict[str, Any]] = []
    embeddings: list[Embeddings] = [np.zeros((0, 512), np.float32)]
    for places in batches(range(len(photos)), 1 if skip else batch):
        loaded = [_load(photos[place], place, config, starting, skip) for place in places]
        found, vectors = _detect_safely(loaded, detectors, config)
        rows += found
        embeddings.append(vectors)
    return rows, np.concatenate(embeddings)


def detect_failed(
    photos: Sequence[PhotoInput],
    rows: Sequence[dict[str, Any]],
    embeddings: Embeddings,
    detectors: Detectors,
    config: PreprocessConfig,
    batch: int = 8,
    starting: Callable[[int], None] = lambda place: None,
    skip: frozenset[int] = frozenset(),
) -> tuple[list[dict[str, Any]], Embeddings]:
    """Rows and embeddings as `detect_photos` gave them, those of photos with a problem anew; the others stay."""
    failed = [place for place, row in enumerate(rows) if row["problem"]]
    left_out = frozenset(k for k, place in enumerate(failed) if place in skip) | (skip & {CAREFULLY})
    again = detect_photos(
        [photos[place] for place in failed], detectors, config, batch, lambda k: starting(failed[k]), left_out
    )
    parts = dict(enumerate(_each(rows, embeddings))) | dict(zip(failed, _each(*again), strict=True))
    whole = [parts[place] for place in range(len(rows))]
    vectors = [np.zeros((0, 512), np.float32), *(mine for _, mine in whole)]
    return [row for row, _ in whole], np.concatenate(vectors)


def _each(rows: Sequence[dict[str, Any]], embeddings: Embeddings) -> list[tuple[dict[str, Any], Embeddings]]:
    """Each row with those of its own faces."""
    ends = np.cumsum([0, *(len(row.get("faces", ())) for row in rows)])
    return [(row, embeddings[a:b]) for row, (a, b) in zip(rows, pairwise(ends), strict=True)]


def _load(
    photo: PhotoInput, place: int, config: PreprocessConfig, starting: Callable[[int], None], skip: frozenset[int]
) -> LoadedPhoto | Unreadable:
    if place in skip:
        return Unreadable("ended every process that touched it")
    starting(place)
    return load_photo(photo, config.max_side)


def _detect_safely(
    loaded: Sequence[LoadedPhoto | Unreadable], detectors: Detectors, config: PreprocessConfig
) -> tuple[list[dict[str, Any]], Embeddings]:
    """A photo on which a model fails costs itself, not its neighbours."""
    try:
        return _detect_loaded(loaded, detectors, config)
    except AnyPhotoError:
        raise
    except Exception as error:  # onnxruntime, OpenCV and ultralytics raise kinds of their own
        if len(loaded) == 1:
            problem = f"the models failed on it ({type(error).__name__})"
            return [{"problem": problem}], np.zeros((0, 512), np.float32)
    each = [_detect_safely([photo], detectors, config) for photo in loaded]
    return [row for rows, _ in each for row in rows], np.concatenate([vectors for _, vectors in each])


def _detect_loaded(
    loaded: Sequence[LoadedPhoto | Unreadable], detectors: Detectors, config: PreprocessConfig
) -> tuple[list[dict[str, Any]], Embeddings]:
    wanted = [photo for photo in loaded if isinstance(photo, LoadedPhoto) and _large_enough(photo, config)]
    pictures = [photo.pixels for photo in wanted]
    persons = detectors.persons.persons(pictures, config.person_score)
    faces = find_all_faces(pictures, [[p.box for p in group] for group in persons], detectors.faces, face_rule(config))
    vectors = embed_all(pictures, faces, detectors.faces)
    seen = iter(zip(wanted, persons, faces, strict=True))
    rows = []
    for photo in loaded:
        if isinstance(photo, Unreadable):
            rows.append({"problem": photo.problem})
        elif not _large_enough(photo, config):
            rows.append(_described(photo, [], [], config))
        else:
            rows.append(_described(*next(seen), config))
    return rows, vectors


def _large_enough(photo: LoadedPhoto, config: PreprocessConfig) -> bool:
    return bool(min(photo.pixels.shape[:2]) >= config.min_side)


def face_rule(config: PreprocessConfig) -> FaceRule:
    """The thresholds of the config as the face stage takes them."""
    return FaceRule(
        config.face_score, config.sure_face, config.min_face, config.min_sharpness, config.max_yaw, config.person_margin
    )


def _described(
    photo: LoadedPhoto, persons: Sequence[Person], faces: Sequence[FoundFace], config: PreprocessConfig
) -> dict[str, Any]:
    """What is kept of a photo: numbers and texts."""
    known = photo.known
    height, width = photo.pixels.shape[:2]
    return {
        "problem": "", "sha256": photo.sha256, "width": width, "height": height, "phash": perceptual_hash(photo.pixels),
        "url": known.url, "caption": known.caption,
        "aesthetics": known.aesthetics if np.isfinite(known.aesthetics) else None,
        "nsfw": known.nsfw if np.isfinite(known.nsfw) else None,
        "known": [[*map(float, face.box), face.identity] for face in known.faces],
        "persons": [_person(person, config.masks) for person in persons],
        "faces": [_face(face) for face in faces],
    }  # fmt: skip


def _person(person: Person, masks: bool) -> dict[str, Any]:
    counts = mask_to_rle(person.mask) if masks and person.mask is not None else ""
    return {"box": [*map(float, person.box)], "score": person.score, "mask": counts}


def _face(found: FoundFace) -> dict[str, Any]:
    return {
        "box": [*map(float, found.face.box)], "landmarks": found.face.landmarks.astype(float).tolist(),
        "score": found.face.score, "person": found.person, "flags": list(found.flags),
    }  # fmt: skip


def mask_to_rle(mask: np.ndarray) -> str:
    """[H, W] bool -> COCO's compressed run lengths."""
    from pycocotools import mask as coco

    return str(coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii"))


def perceptual_hash(picture: Picture) -> str:
    """64 bits as 16 hex digits: pictures that look alike differ in few of them."""
    import cv2
    import imagehash
    from PIL import Image

    # The hash itself looks at 32 px: averaging down to 128 first costs a tenth of PIL's filter on the whole picture.
    small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    return str(imagehash.phash(Image.fromarray(small)))
