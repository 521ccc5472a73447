"""Everything that can be said about a layout before a model is loaded.

Refused (InputError): places that cannot hold a face, references that cannot be used. Cautioned: what the paper's
section 4.4 reports as failing (overlapping faces, faces smaller than their tokens, prompts that count otherwise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.geometry import TOKEN_PX, fit_similarity, intersection, is_mirrored, overlap
from anyphoto_cli.layout.head_count import count_people
from anyphoto_cli.layout.location_canvas import paste_box
from anyphoto_cli.layout.schema import LANDMARK_ORDER, Layout, LayoutFace
from anyphoto_cli.types import Box, Picture, Points

SMALL_FACE_TOKENS = 4
"""Side of a face patch, in tokens, below which features no longer fit: eyes then share a token."""
SMALL_PICTURE_PX, SMALL_PICTURE_TOKENS = 256, 2
"""Where all sides are shorter, a small base renders, which was trained on faces of a few tokens: half of the limit."""
HEAVY_OVERLAP = 0.25
"""Share of the smaller patch covered by another one. Patches carry hair and background, so neighbours touch."""
MAX_OUTSIDE = 4
"""Points may lie at most this many canvas sides away."""

CLAMPED = 0.05
"""Share by which a patch may differ from the size that its points ask for (Eq. 28 bounds it)."""
TILTED = 30.0
"""Degrees from which a tilt is told: the patch is pasted upright whatever the points say (A.3)."""

FaceFinder = Callable[[Picture], tuple[str, int]]
"""[H, W, 3] RGB -> (a sentence on the face to use, how many the picture shows); InputError when there is none."""


@dataclass(frozen=True)
class Caution:
    """Something that will render, though likely not as meant."""

    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


@dataclass(frozen=True)
class FaceReport:
    """One face as the model will see it. box: the pasted patch, px, unclipped. tokens: its tokens in the canvas."""

    name: str
    box: Box
    tokens: int
    reference_size: tuple[int, int]


@dataclass(frozen=True)
class LayoutReport:
    """What `check_layout` found. looked_for_faces: whether a detector searched the references."""

    faces: tuple[FaceReport, ...]
    cautions: tuple[Caution, ...]
    looked_for_faces: bool


def check_layout(
    layout: Layout, find_face: FaceFinder | None = None, method: MethodConfig | None = None, references: bool = True
) -> LayoutReport:
    """Check places, references and prompt.

    find_face: looks for the face in references that carry no `reference_landmarks`; None: not looked. references: False
    leaves them unread, for who looks after them otherwise; their sizes are then (0, 0).
    Raises InputError (one line: file, field, remedy) on the first thing that cannot work.
    """
    method = method or MethodConfig()
    boxes = [_check_place(layout, i, face, method) for i, face in enumerate(layout.faces)]
    cautions: list[Caution] = []
    sizes = [
        _check_reference(layout, i, find_face, cautions) if references else (0, 0) for i in range(len(layout.faces))
    ]
    reports = tuple(
        FaceReport(face.name, box, _token_count(box, layout), size)
        for face, box, size in zip(layout.faces, boxes, sizes, strict=True)
    )
    cautions += [one for i in range(len(layout.faces)) for one in _pasted_otherwise(layout, i, boxes[i], method)]
    return LayoutReport(reports, (*cautions, *_cautions(layout, reports)), find_face is not None)


def _check_place(layout: Layout, index: int, face: LayoutFace, method: MethodConfig) -> Box:
    field = f"faces[{index}].{'bbox' if face.landmarks is None else 'landmarks'}"

    def refuse(what: str, remedy: str = "") -> InputError:
        return InputError(what, file=layout.shown_name, field=field, remedy=remedy)

    if face.bbox is not None and not (face.bbox[0] < face.bbox[2] and face.bbox[1] < face.bbox[3]):
        raise refuse("the box is empty", "Order: x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    limit = MAX_OUTSIDE * max(layout.width, layout.height)
    if not np.abs(face.place).max() <= limit:  # nor NaN, of a box too wide for a float
        raise refuse(f"lies more than {MAX_OUTSIDE} canvases away")
    _check_points(face.place, refuse)
    # The unclamped size: the clamp of Eq. 28 would hide that a face is smaller than a token.
    side = _side_asked_for(face.place, method)
    if side < TOKEN_PX:
        raise refuse(f"the face is {side:.1f} px wide, smaller than a token", f"Make it at least {TOKEN_PX} px")
    box = paste_box(face.place, layout.width, layout.height, method)
    inside = intersection(box, Box(0, 0, layout.width, layout.height))
    if inside.area < 1:
        raise refuse("the face lies wholly outside the picture", f"The picture is {layout.width}x{layout.height}")
    return box


def _side_asked_for(place: Points, method: MethodConfig) -> float:
    return float(method.patch_size / fit_similarity(place, _template(method)).scale)


def _pasted_otherwise(layout: Layout, index: int, box: Box, method: MethodConfig) -> list[Caution]:
    """Where the patch will not lie as the points do."""
    face, found, field = layout.faces[index], [], f"faces[{index}]"
    asked = _side_asked_for(face.place, method)
    if abs(box.width / asked - 1) > CLAMPED:
        text = f"{face.name} asks for a patch of {asked:.0f} px and gets one of {box.width:.0f} px: faces are pasted"
        found.append(Caution(field, f"{text} no larger than the picture's longer side"))
    across, down = face.place[1] - face.place[0]
    if abs(angle := float(np.degrees(np.arctan2(down, across)))) > TILTED:
        found.append(Caution(field, f"{face.name} is tilted by {angle:.0f} degrees: its face is pasted upright"))
    return found


def _template(method: MethodConfig) -> Points:
    from anyphoto_cli.geometry import arcface_template

    return arcface_template(method.patch_size)


def _check_points(points: Points, refuse: Callable[..., InputError]) -> None:
    """Five points that can be a face: apart, not on one line, not mirrored."""
    centred = points - points.mean(0)
    spread = np.linalg.svd(centred, compute_uv=False)
    if spread[0] < 1e-3 or spread[1] < 0.02 * spread[0]:
        raise refuse("the points lie on one spot or line", LANDMARK_ORDER)
    if is_mirrored(points):
        raise refuse("left and right are exchanged", LANDMARK_ORDER)


def _check_reference(
    layout: Layout, index: int, find_face: FaceFinder | None, cautions: list[Caution]
) -> tuple[int, int]:
    """Width and height of the reference, px, after it was decoded whole. Cautions where it shows several faces."""
    face, field = layout.faces[index], f"faces[{index}].reference"
    path = layout.reference_path(index)
    try:
        picture = read_picture(path)
    except AnyPhotoError as error:
        error.file = face.reference
        if not path.exists() and (others := _other_missing(layout, index)):
            error.remedy = f"Missing, too: {', '.join(others)}"
        raise error.at(file=layout.shown_name, field=field) from error
    height, width = picture.shape[:2]
    if face.reference_landmarks is not None:
        points = np.array(face.reference_landmarks, np.float64)
        check_reference_landmarks(points, width, height, layout.shown_name, f"faces[{index}].reference_landmarks")
    elif find_face is not None:
        try:
            choice, faces = find_face(picture)
        except InputError as error:
            raise InputError(
                f"{face.reference}: {error.what}", file=layout.shown_name, field=field, remedy=error.remedy
            ) from error
        if faces > 1:
            cautions.append(Caution(field, f"{face.reference}: {choice}"))
    return width, height


def _other_missing(layout: Layout, first: int) -> list[str]:
    """References of the faces after `first` that are not there: all that are still to be filled are told at once."""
    later = range(first + 1, len(layout.faces))
    names = [layout.faces[i].reference for i in later if not layout.reference_path(i).exists()]
    return [name for name in dict.fromkeys(names) if name != layout.faces[first].reference]


def check_reference_landmarks(points: Points, width: int, height: int, file: str = "", field: str = "") -> None:
    """points: [5, 2] px of a reference of width x height px. Raises InputError where they are no face in it, told of
    file and field.
    """

    def refuse(what: str, remedy: str = "") -> InputError:
        return InputError(what, file=file, field=field, remedy=remedy)

    if (points < -0.5).any() or (points > [width - 0.5, height - 0.5]).any():
        raise refuse(f"a point lies outside the reference, which is {width}x{height}")
    _check_points(points, refuse)


def _token_count(box: Box, layout: Layout) -> int:
    """Tokens under the box by the rule 'any'; exact for an opaque patch."""
    inside = intersection(box, Box(0, 0, layout.width, layout.height))
    across = int((inside.x1 - 1) // TOKEN_PX) - int(inside.x0 // TOKEN_PX) + 1
    down = int((inside.y1 - 1) // TOKEN_PX) - int(inside.y0 // TOKEN_PX) + 1
    return across * down


def _cautions(layout: Layout, faces: tuple[FaceReport, ...]) -> list[Caution]:
    found = []
    is_small = max(layout.width, layout.height) < SMALL_PICTURE_PX
    least = SMALL_PICTURE_TOKENS if is_small else SMALL_FACE_TOKENS
    for i, face in enumerate(faces):
        side = face.box.width / TOKEN_PX
        if side < least:
            found.append(
                Caution(
                    f"faces[{i}]",
                    f"{face.name} is {face.box.width:.0f} px wide, only {side:.1f} tokens: "
                    f"likeness fades below {least} tokens ({least * TOKEN_PX} px)",
                )
            )
        inside = intersection(face.box, Box(0, 0, layout.width, layout.height))
        if inside.area < 0.5 * face.box.area:
            found.append(Caution(f"faces[{i}]", f"more than half of {face.name} lies outside the picture"))
        for k in range(i):
            if (shared := overlap(face.box, faces[k].box)) > HEAVY_OVERLAP:
                found.append(
                    Caution(
                        f"faces[{i}]",
                        f"{face.name} and {faces[k].name} overlap by {shared:.0%}: faces may blend",
                    )
                )
    if layout.true_cfg_scale > 1 and layout.negative_prompt is None:
        found.append(Caution("true_cfg_scale", "has no effect without a negative_prompt"))
    if layout.negative_prompt and layout.true_cfg_scale == 1:
        found.append(Caution("negative_prompt", "has no effect while true_cfg_scale is 1"))
    count = count_people(layout.prompt)
    if count is not None and count != len(faces):
        found.append(
            Caution(
                "prompt",
                f"speaks of {count} {'person' if count == 1 else 'people'}, the layout places {len(faces)}",
            )
        )
    if not faces:
        found.append(Caution("faces", "is empty: the picture follows the prompt alone"))
    return found
