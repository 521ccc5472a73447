"""From references to conditions: the face in each reference, its patch on a canvas, its embedding. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.faces.norm_crop import face_patch, norm_crop
from anyphoto_cli.faces.reference_face import find_reference_face
from anyphoto_cli.files.commit import sha256_of_bytes
from anyphoto_cli.files.images import decode, read_bytes
from anyphoto_cli.layout.check import check_layout, check_reference_landmarks
from anyphoto_cli.layout.location_canvas import location_canvas, token_mask
from anyphoto_cli.layout.schema import Layout
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Embeddings, Picture, Points, PreparedFace


@dataclass(frozen=True, eq=False)
class Conditions:
    """A layout's people, found. choices: how each face was found, a sentence. references: path -> sha256. pack: of the
    face pack's recogniser.

    Canvases are large (0.8 MB a face at 512 px, 3 MB at 1024) and made when asked for: a run may have thousands.
    """

    layout: Layout
    method: MethodConfig
    landmarks: tuple[Points, ...]
    embeddings: Embeddings
    choices: tuple[str, ...]
    references: dict[str, str]
    pack: str = ""

    @property
    def faces(self) -> tuple[PreparedFace, ...]:
        """In the layout's order. Raises InputError for a reference that was changed or removed meanwhile."""
        return tuple(self._face(i) for i in range(len(self.layout.faces)))

    def _face(self, index: int) -> PreparedFace:
        face, path = self.layout.faces[index], self.layout.reference_path(index)
        data = read_bytes(path)
        if sha256_of_bytes(data) != self.references[face.reference]:
            raise InputError("changed while it was being rendered", file=path)
        canvas, tokens = _canvas(self.layout, index, np.asarray(decode(data, path)), self.landmarks[index], self.method)
        strength = 1.0 if face.strength is None else face.strength
        return PreparedFace(face.name, canvas, tokens, self.embeddings[index], strength, self.pack)


def prepare_faces(layout: Layout, analyzer: FaceAnalyzer, method: MethodConfig | None = None) -> Conditions:
    """Everything the model needs to know about the people of a layout.

    Landmarks given by hand win over detection. Raises InputError naming file and field: a place that cannot hold a face
    (`check_layout`), no face in a reference, or no token left of a face. Source: paper 3.2, 3.3, A.3.
    """
    method = method or MethodConfig()
    check_layout(layout, method=method, references=False)
    points, crops, choices, references = [], [], [], {}
    for i, face in enumerate(layout.faces):
        path, field = layout.reference_path(i), f"faces[{i}].reference"
        try:
            data = read_bytes(path)
            picture = np.asarray(decode(data, path))
            landmarks, choice = _landmarks(layout, i, picture, analyzer)
        except AnyPhotoError as error:
            error.file = face.reference
            raise error.at(file=layout.shown_name, field=field) from error
        if face.reference_landmarks is not None:
            height, width = picture.shape[:2]
            check_reference_landmarks(landmarks, width, height, layout.shown_name, f"{field}_landmarks")
        _canvas(layout, i, picture, landmarks, method)  # refuses a face outside before a model is loaded
        points.append(landmarks)
        crops.append(norm_crop(picture, landmarks))
        choices.append(f"{face.name}: {choice}")
        references[face.reference] = sha256_of_bytes(data)
    embeddings = analyzer.embed(np.stack(crops)) if crops else np.zeros((0, 512), np.float32)
    return Conditions(layout, method, tuple(points), embeddings, tuple(choices), references, analyzer.sha256)


def _canvas(
    layout: Layout, index: int, picture: Picture, landmarks: Points, method: MethodConfig
) -> tuple[Picture, Any]:  # fmt: skip
    """(the location canvas, its token mask). Raises InputError where no token is left of the face."""
    patch = face_patch(picture, landmarks, method.patch_size)
    canvas = location_canvas(patch, layout.faces[index].place, layout.width, layout.height, method)
    tokens = token_mask(canvas.mask, method.mask_rule)
    if not tokens.any():
        what = "nothing of the face lies inside the picture"
        raise InputError(what, file=layout.shown_name, field=f"faces[{index}]", remedy="Move it, or make it larger")
    return canvas.pixels, tokens


def _landmarks(layout: Layout, index: int, picture: Picture, analyzer: FaceAnalyzer) -> tuple[Points, str]:
    given = layout.faces[index].reference_landmarks
    if given is not None:
        return np.array(given, np.float64), "landmarks from the layout"
    found = find_reference_face(analyzer, picture)
    return found.face.landmarks, found.choice
