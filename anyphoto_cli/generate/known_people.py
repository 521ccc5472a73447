"""Everybody of a folder of known people, by their faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyphoto_cli.data.bank import list_references
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.reference_face import find_reference_face
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Embeddings


@dataclass(frozen=True, eq=False)
class Known:
    """One person. embeddings: [n, 512]; photo: the first with a face."""

    photo: Path
    embeddings: Embeddings


def known_people(refs: Path, analyzer: FaceAnalyzer, listener: Listener) -> dict[str, Known]:
    """Name -> person, of everybody with at least one face. refs: a folder a person, photos in it.

    Photos without a face are told and left out. Raises InputError for a folder without people.
    """
    people: dict[str, Known] = {}
    folders = list_references(refs)
    listener.work("Faces", sum(len(person.photos) for person in folders))
    for person in folders:
        crops, shown = [], []
        for photo in person.photos:
            try:
                picture = read_picture(photo)
                crops.append(norm_crop(picture, find_reference_face(analyzer, picture).face.landmarks))
                shown.append(photo)
            except InputError as error:
                listener.caution(f"{photo}: {error.what}")
            listener.done(1)
        if crops:
            people[person.name] = Known(shown[0], analyzer.embed(np.stack(crops)))
    listener.end()
    return people
