"""The layout file: a prompt and, for each person, a reference and a place. Source: paper 3.1, Eq. 12."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PrivateAttr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from anyphoto_cli.config.generate import MAX_STRENGTH
from anyphoto_cli.errors import InputError
from anyphoto_cli.geometry import TOKEN_PX, upright_landmarks
from anyphoto_cli.layout.read import read_json
from anyphoto_cli.types import Box, Points

MIN_SIDE, MAX_SIDE, MAX_PIXELS, MAX_FACES = 64, 4096, 2048 * 2048, 64
LANDMARK_ORDER = "Order: left eye, right eye, nose, left and right mouth corner, as seen in the picture"

Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Point = tuple[FiniteFloat, FiniteFloat]
FivePoints = Annotated[tuple[Point, Point, Point, Point, Point], Field(json_schema_extra={"title": "Five points"})]
Rectangle = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class LayoutFace(_Strict):
    """One person: who (a reference picture) and where (five landmarks, or a box for an upright face)."""

    name: Name = Field(description="What the person is called; the same name always means the same reference.")
    reference: Text = Field(
        description="Picture of the person: a path inside the layout's folder (or inside --refs-root)."
    )
    landmarks: FivePoints | None = Field(
        default=None,
        description=f"Where the face goes: five points in pixels of the target picture. {LANDMARK_ORDER}.",
    )
    bbox: Rectangle | None = Field(
        default=None, description="Instead of landmarks: x0, y0, x1, y1; the face stands upright in the middle of it."
    )
    reference_landmarks: FivePoints | None = Field(
        default=None,
        description="The five points in the reference picture; they win over detection, and need no detector.",
    )
    strength: FiniteFloat | None = Field(
        default=None,
        ge=0,
        le=MAX_STRENGTH,
        description="How much the picture looks at this face: below 1 leaves more to the prompt, 0 leaves the person "
        "out; 1 when left out.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> LayoutFace:
        if (self.landmarks is None) == (self.bbox is None):
            raise PydanticCustomError("one_place", "give either landmarks or bbox, and not both")
        return self

    @property
    def place(self) -> Points:
        """[5, 2] the landmarks in the target picture, px."""
        if self.landmarks is not None:
            return np.array(self.landmarks, np.float64)
        return upright_landmarks(Box(*cast(Rectangle, self.bbox)))


class Layout(_Strict):
    """A layout file, version 1."""

    version: Annotated[int, Field(ge=1, le=1)] = Field(description="Format version: 1.")
    prompt: Text = Field(description="What the picture shows.")
    width: int = Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=TOKEN_PX, description="Pixels, a multiple of 16.")
    height: int = Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=TOKEN_PX, description="Pixels, a multiple of 16.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Seed of the first picture; 0 when left out.")
    faces: tuple[LayoutFace, ...] = Field(max_length=MAX_FACES, description="The people, in any order.")
    negative_prompt: str | None = Field(
        default=None, max_length=10_000, description="What the picture must not show; needs true_cfg_scale above 1."
    )
    steps: int | None = Field(default=None, ge=1, le=1000, description="Denoising steps; 28 when left out.")
    guidance_scale: FiniteFloat = Field(default=3.5, ge=0, le=100, description="FLUX's distilled guidance.")
    true_cfg_scale: FiniteFloat = Field(
        default=1.0, ge=1, le=100, description="Classifier-free guidance; above 1 every step costs twice."
    )
    num_images: int = Field(default=1, ge=1, le=10_000, description="How many pictures; the k-th has seed + k.")

    _file: Path | None = PrivateAttr(None)
    _refs_root: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """Where the layout was read from, if from a file."""
        return self._file

    @property
    def shown_name(self) -> str:
        """How messages call this layout."""
        return self._file.name if self._file else "layout"

    @property
    def refs_root(self) -> Path:
        """The folder that references are resolved in and must not leave."""
        if self._refs_root is not None:
            return self._refs_root
        return self._file.parent if self._file else Path.cwd()

    def reference_path(self, index: int) -> Path:
        """The reference of a face, inside refs_root.

        Raises InputError for URLs, `~`, and paths that leave the folder, by `..`, an absolute path or a link.
        """
        field = f"faces[{index}].reference"
        return resolve_reference(self.faces[index].reference, self.refs_root, self.shown_name, field)


def resolve_reference(text: str, refs_root: Path, shown_name: str, field: str) -> Path:
    """A reference's path inside `refs_root`. Raises InputError as `Layout.reference_path`, told of file and field."""
    root = Path(os.path.realpath(refs_root))
    if "://" in text or text.startswith(("~", "data:", "\\\\")):
        what = f"{text[:80]!r} is not a plain path"
        raise InputError(what, file=shown_name, field=field, remedy="No URLs, no ~")
    try:
        path = Path(os.path.realpath(root / text))
    except (OSError, ValueError) as error:
        raise InputError(f"is not a path ({error})", file=shown_name, field=field) from error
    if path != root and root not in path.parents:
        remedy = "Put the picture beside the layout, or name its folder with --refs-root"
        raise InputError(f"{text[:80]!r} lies outside {root}", file=shown_name, field=field, remedy=remedy)
    return path


def load_layout(path: Path | str, refs_root: Path | str | None = None) -> Layout:
    """Read and validate a layout file; references are not opened yet (`check_layout` does).

    refs_root: the folder of the references instead of the layout's own. Raises InputError: one line, file and field.
    """
    path = Path(path)
    return parse_layout(read_json(path), path, Path(refs_root) if refs_root is not None else None)


def parse_layout(value: Any, file: Path, refs_root: Path | None = None) -> Layout:
    """A Layout from parsed JSON; `file` is for the messages and for resolving references. Raises InputError."""
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", file=file.name, remedy='A layout starts with {"version": 1, ...}')
    if refs_root is not None and not refs_root.is_dir():
        raise InputError("no such folder", file=str(refs_root), field="--refs-root")
    try:
        # Strict pydantic takes JSON lists for tuples only when it reads JSON itself.
        layout = Layout.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise _first_refusal(error, file) from None
    layout._file, layout._refs_root = file, refs_root
    _refuse_huge(layout)
    _refuse_two_references(layout)
    return layout


def parse_points(text: str, field: str) -> FivePoints:
    """Five points from JSON text, as a layout has them. Raises InputError naming the field."""
    try:
        points: FivePoints = TypeAdapter(FivePoints).validate_json(text, strict=True)
    except ValidationError as error:
        raise InputError("needs 5 points of 2 numbers", field=field, remedy=LANDMARK_ORDER) from error
    return points


def layout_json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the layout file, as `anyphoto layout schema` publishes it."""
    schema = Layout.model_json_schema()
    face = schema["$defs"]["LayoutFace"]
    # pydantic cannot say "exactly one of these two" by itself.
    face["oneOf"] = [{"required": ["landmarks"]}, {"required": ["bbox"]}]
    for key in ("landmarks", "bbox"):
        face["properties"][key] = {
            k: v for k, v in face["properties"][key].items() if k not in ("anyOf", "default")
        } | face["properties"][key]["anyOf"][0]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:anyphoto:layout:1",
        **schema,
        "title": "anyphoto layout",
    }


def _refuse_huge(layout: Layout) -> None:
    if layout.width * layout.height > MAX_PIXELS:
        raise InputError(
            f"the canvas has {layout.width}x{layout.height} pixels",
            file=layout.shown_name,
            field="width",
            remedy=f"Limit: {MAX_PIXELS} pixels in all, {MAX_SIDE} on a side",
        )
    if (layout.seed or 0) + layout.num_images > 2**63:
        raise InputError("seed + num_images is too large", file=layout.shown_name, field="seed")


def _refuse_two_references(layout: Layout) -> None:
    seen: dict[str, str] = {}
    for i, face in enumerate(layout.faces):
        if seen.setdefault(face.name, face.reference) != face.reference:
            raise InputError(
                f"{face.name!r} already has the reference {seen[face.name]!r}",
                file=layout.shown_name,
                field=f"faces[{i}].name",
                remedy="Give each person a name of their own",
            )


# pydantic's error type -> our words; {..} are filled from the error's context.
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "is longer than {max_length} characters",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "greater_than": "must be above {gt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "too_long": "has more than {max_length} entries",
    "int_parsing_size": "is too large a number",
    "one_place": "give either landmarks or bbox, and not both",
}


def _first_refusal(error: ValidationError, file: Path) -> InputError:
    """One line from pydantic's list: the first finding, told our way, and how many more there are."""
    findings = error.errors(include_url=False, include_input=True)
    # An unknown key is often a misspelt one: it explains the missing one, so it goes first.
    first = next((f for f in findings if f["type"] == "extra_forbidden"), findings[0])
    location = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith("function"))]
    field, kind = _field(location), first["type"]
    what = _WORDS.get(kind, first["msg"]).format(**first.get("ctx", {}))
    remedy = ""
    points = next((part for part in location if part in ("landmarks", "reference_landmarks", "bbox")), None)
    if points and kind in ("missing", "too_long", "tuple_type"):
        what, remedy = _miscount(location, str(points), kind, first.get("input"))
        field = _field(location[: location.index(points) + 1])
    elif kind == "extra_forbidden":
        remedy = _did_you_mean(str(location[-1]), len(location) > 1)
    if len(findings) > 1:
        remedy = f"{remedy}; {len(findings) - 1} more" if remedy else f"({len(findings) - 1} more)"
    return InputError(what, file=file.name, field=field, remedy=remedy)


def _miscount(location: list[Any], points: str, kind: str, value: Any) -> tuple[str, str]:
    """Wrong numbers of points or coordinates, in the user's terms."""
    inside = location[location.index(points) + 1 :]
    if points == "bbox":
        return "needs 4 numbers: x0, y0, x1, y1", ""
    if inside[1:] or (inside and kind in ("tuple_type", "too_long")):
        return "each point needs 2 numbers: x, y", LANDMARK_ORDER
    count = f", got {len(value)}" if isinstance(value, (list, tuple)) else ""
    return f"needs 5 points{count}", LANDMARK_ORDER


def _did_you_mean(key: str, inside_face: bool) -> str:
    from difflib import get_close_matches

    known = list((LayoutFace if inside_face else Layout).model_fields)
    close = get_close_matches(key, known, 1)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}"


def _field(location: list[Any]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{str(part)[:60]}" if text else str(part)[:60]
    return text
