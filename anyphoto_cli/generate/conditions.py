"""From references to conditions: the face in each reference, its patch on a canvas, its embedding. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.faces.norm_crop import face_patch, norm_crop
from anyphoto_cli.faces.reference_face import find_reference_face
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.layout.location_canvas import location_canvas, token_mask
from anyphoto_cli.layout.schema import Layout
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Picture, Points, PreparedFace


@dataclass(frozen=True, eq=False)
class Conditions:
    """faces: in the layout's order. choices: how each face was found, a sentence. references: path -> sha256."""

    faces: tuple[PreparedFace, ...]
    choices: tuple[str, ...]
    references: dict[str, str]


def prepare_faces(layout: Layout, analyzer: FaceAnalyzer, method: MethodConfig | None = None) -> Conditions:
    """Everything the model needs to know about the people of a layout.

    Landmarks given by hand win over detection. Raises InputError naming file and field: no face in a reference, or no
    token left of a face. Source: paper 3.2, 3.3, A.3.
    """
    method = method or MethodConfig()
    canvases, crops, choices, references = [], [], [], {}
    for i, face in enumerate(layout.faces):
        path, field = layout.reference_path(i), f"faces[{i}].reference"
        try:
            picture = read_picture(path)
            landmarks, choice = _landmarks(layout, i, picture, analyzer)
        except AnyPhotoError as error:
            error.file = face.reference
            raise error.at(file=layout.shown_name, field=field) from error
        patch = face_patch(picture, landmarks, method.patch_size)
        canvas = location_canvas(patch, face.place, layout.width, layout.height, method)
        tokens = token_mask(canvas.mask, method.mask_rule)
        if not tokens.any():
            what = "nothing of the face lies inside the picture"
            raise InputError(what, file=layout.shown_name, field=f"faces[{i}]", remedy="Move it, or make it larger")
        canvases.append((canvas.pixels, tokens))
        crops.append(norm_crop(picture, landmarks))
        choices.append(f"{face.name}: {choice}")
        references[face.reference] = sha256_of(path)
    embeddings = analyzer.embed(np.stack(crops)) if crops else np.zeros((0, 512), np.float32)
    prepared = tuple(
        PreparedFace(face.name, pixels, tokens, embedding)
        for face, (pixels, tokens), embedding in zip(layout.faces, canvases, embeddings, strict=True)
    )
    return Conditions(prepared, tuple(choices), references)


def _landmarks(layout: Layout, index: int, picture: Picture, analyzer: FaceAnalyzer) -> tuple[Points, str]:
    given = layout.faces[index].reference_landmarks
    if given is not None:
        return np.array(given, np.float64), "landmarks from the layout"
    found = find_reference_face(analyzer, picture)
    return found.face.landmarks, found.choice
