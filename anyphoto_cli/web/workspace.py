"""The layout that is being edited, its references and what is wrong with it. No web here, and no torch."""

from __future__ import annotations

import hashlib
import io
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.faces.norm_crop import face_patch
from anyphoto_cli.faces.reference_face import find_reference_face
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.images import decode, read_bytes
from anyphoto_cli.geometry import fitting_size, upright_landmarks
from anyphoto_cli.layout.arrange import PRESETS, arrange
from anyphoto_cli.layout.check import check_layout, check_reference_landmarks
from anyphoto_cli.layout.location_canvas import paste_box
from anyphoto_cli.layout.schema import FivePoints, Layout, LayoutFace, load_layout, parse_layout, resolve_reference
from anyphoto_cli.layout.write import as_text
from anyphoto_cli.seams import Base, FaceAnalyzer
from anyphoto_cli.types import Box, Picture, Points

SHOWN, PATCH = 480, 224
"""Longest side of a reference as the page shows it; side of a pasted patch. px."""
_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "HEIF": ".heic", "TIFF": ".tif",
            "BMP": ".bmp", "GIF": ".gif"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture of one person, looked at once. problem: why it cannot be used, or "". passing: the problem is not the
    picture's but the machine's, as a face pack that could not be fetched.
    """

    width: int
    height: int
    shown: bytes
    patch: bytes
    told: str
    box: tuple[float, ...] | None
    problem: str = ""
    passing: bool = False


@dataclass(frozen=True, eq=False)
class _Look:
    """digest: of the bytes looked at. until: when to look again, s of time.monotonic."""

    digest: str
    until: float
    found: Reference


@dataclass(eq=False)
class Workspace:
    """file: the layout, there or not yet. open_analyzer: called when a reference is first looked at, until it succeeds.
    refs_root: where references are, and uploads are kept; None: beside the layout. again_s: so long a passing problem
    is believed.
    """

    file: Path
    base: Base
    open_analyzer: Callable[[], FaceAnalyzer]
    method: MethodConfig = field(default_factory=MethodConfig)
    refs_root: Path | None = None
    again_s: float = 30.0
    _seen: dict[tuple[str, FivePoints | None], _Look] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)
    _adding: Any = field(default_factory=threading.Lock)

    @cached_property
    def _analyzer(self) -> FaceAnalyzer:
        return self.open_analyzer()

    @property
    def _root(self) -> Path:
        return self.refs_root or self.file.parent

    def opened(self) -> tuple[dict[str, Any], str]:
        """(the layout as it lies there, or an empty one; the file's sha256, "" where it is not there yet).

        Raises InputError where it is none, or has a place that is too far for the page.
        """
        if self.file.is_file():
            load_layout(self.file, self.refs_root)
            content = self.file.read_bytes()
            document = _for_the_page(json.loads(content.decode("utf-8-sig")), self.file.name)
            return document, hashlib.sha256(content).hexdigest()
        side = self.base.sides[0] if self.base.sides[1] < 512 else 1024
        width, height = fitting_size(1, 1, side)
        empty = {"version": 1, "prompt": "a photo of two friends", "width": width, "height": height, "seed": 0,
                 "faces": []}  # fmt: skip
        return empty, ""

    def facts(self) -> dict[str, Any]:
        """What the page must know beside the layout."""
        return {
            "file": self.file.name, "folder": str(self.file.parent.resolve()), "model": self.base.name,
            "steps": self.base.steps, "sides": list(self.base.sides), "presets": list(PRESETS), "note": self.base.note,
        }  # fmt: skip

    def parsed(self, document: Any) -> Layout:
        """Raises InputError naming the field."""
        return parse_layout(document, self.file, self.refs_root)

    def checked(self, document: Any) -> dict[str, Any]:
        """Refusal or cautions, and of each face the pasted box and its tokens [[row, column], ...]."""
        try:
            layout = self.parsed(document)
            report = check_layout(layout, method=self.method, references=False)
        except InputError as error:
            return {"error": {"field": error.field, "message": _sentence(error)}, "cautions": [], "faces": []}
        cautions = [{"field": caution.field, "message": caution.text} for caution in report.cautions]
        cautions += self._problems(layout)
        faces = [
            {"box": [round(value, 1) for value in self._paste(face, layout)], "tokens": one.tokens}
            for face, one in zip(layout.faces, report.faces, strict=True)
        ]
        return {"error": None, "cautions": cautions, "faces": faces}

    def _paste(self, face: LayoutFace, layout: Layout) -> Box:
        return paste_box(face.place, layout.width, layout.height, self.method)

    def _problems(self, layout: Layout) -> list[dict[str, str]]:
        found = []
        for k, face in enumerate(layout.faces):
            key = "reference" if face.reference_landmarks is None else "reference_landmarks"
            try:
                problem = self.reference(face.reference, face.reference_landmarks).problem
            except AnyPhotoError as error:  # also what this machine cannot read, as HEIC without its extra
                key, problem = "reference", _sentence(error)
            if problem:
                found.append({"field": f"faces[{k}].{key}", "message": f"{face.name}: {problem}"})
        return found

    def reference(self, named: str, landmarks: FivePoints | None = None) -> Reference:
        """Looked at once, until its bytes change; where the machine was at fault, once in `again_s` seconds. landmarks:
        the layout's own, px; they win over detection.

        Raises InputError for a path outside the folder, or no picture.
        """
        path = resolve_reference(named, self._root, self.file.name, "reference")
        data = read_bytes(path)
        digest, key = hashlib.sha256(data).hexdigest(), (named, landmarks)
        with self._lock:
            seen = self._seen.get(key)
            if seen is None or seen.digest != digest or time.monotonic() >= seen.until:
                found = self._looked_at(data, path, landmarks)
                until = time.monotonic() + self.again_s if found.passing else math.inf
                seen = self._seen[key] = _Look(digest, until, found)
            return seen.found

    def _looked_at(self, data: bytes, path: Path, landmarks: FivePoints | None) -> Reference:
        picture = np.asarray(decode(data, path))
        height, width = picture.shape[:2]
        shown = _encoded(_smaller(picture, SHOWN), "JPEG")
        try:
            points, told, box = self._face(picture, landmarks)
        except AnyPhotoError as error:
            passing = not isinstance(error, InputError)
            return Reference(width, height, shown, b"", "", None, _sentence(error), passing)
        return Reference(width, height, shown, _encoded(face_patch(picture, points, PATCH), "PNG"), told, box)

    def _face(self, picture: Picture, landmarks: FivePoints | None) -> tuple[Points, str, tuple[float, ...] | None]:
        """(its landmarks, how it was found, its box where a detector told one). Raises as a render would."""
        if landmarks is not None:
            points = np.array(landmarks, np.float64)
            check_reference_landmarks(points, picture.shape[1], picture.shape[0])
            return points, "landmarks from the layout", None
        found = find_reference_face(self._analyzer, picture)
        return found.face.landmarks, found.choice, tuple(round(float(value), 1) for value in found.face.box)

    def add(self, name: str, data: bytes) -> str:
        """Keep an uploaded picture with the references; returns its path there. Raises InputError for no picture."""
        image = decode(data, Path(name))
        del image
        folder = self._root / f"{self.file.stem}_refs"
        ending = _ENDINGS.get(_format(data), ".png")
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(name).stem).strip("_")[:60] or "person"
        digest = hashlib.sha256(data).hexdigest()
        with self._adding:  # two of one name may come at once
            for number in range(1, 10_000):
                target = folder / f"{stem}{'' if number == 1 else f'_{number}'}{ending}"
                if not target.exists():
                    with committed(target) as out:
                        out.write(data)
                    break
                if hashlib.sha256(target.read_bytes()).hexdigest() == digest:
                    break  # dropped once more
        return target.relative_to(self._root).as_posix()

    def arranged(self, document: Any, preset: str, seed: int) -> list[list[list[float]]]:
        """New places for everybody. Raises InputError."""
        layout = self.parsed(document)
        places = arrange(max(len(layout.faces), 1), layout.width, layout.height, preset, seed)
        return [[[round(float(value), 1) for value in point] for point in points] for points in places]

    def save(self, document: Any, read: str | None) -> str:
        """Write the layout; returns the file's sha256. read: the one that the page knows; None: whatever is there.

        Raises InputError where the layout is wrong, or the file was changed by somebody else meanwhile.
        """
        self.parsed(document)
        _for_the_page(document, self.file.name)  # what is saved can be opened again
        now = hashlib.sha256(self.file.read_bytes()).hexdigest() if self.file.is_file() else ""
        if read is not None and now != read:
            raise InputError("was changed on disk since it was opened here", file=self.file.name, field="save",
                             remedy="Save again to replace it, or reload to see it")  # fmt: skip
        content = as_text(document).encode()
        with committed(self.file) as out:
            out.write(content)
        return hashlib.sha256(content).hexdigest()


def _for_the_page(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Without what is null, as if it were not there, and with points for boxes: the page moves points.

    Raises InputError for a box whose points are beyond any number.
    """
    document = {key: value for key, value in document.items() if value is not None}
    document["faces"] = [{key: value for key, value in face.items() if value is not None} for face in document["faces"]]
    for number, face in enumerate(document["faces"]):
        if "bbox" in face:
            points = upright_landmarks(Box(*map(float, face.pop("bbox"))))
            if not np.isfinite(points).all():
                raise InputError("is too far out to be shown", file=name, field=f"faces[{number}].bbox",
                                 remedy="Give corners in px of the picture")  # fmt: skip
            face["landmarks"] = [[round(float(value), 2) for value in point] for point in points]
    return document


def _sentence(error: AnyPhotoError) -> str:
    return f"{error.what}. {error.remedy}" if error.remedy else error.what


def _format(data: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return str(image.format)


def _smaller(picture: Picture, side: int) -> Picture:
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    smaller: Picture = np.asarray(image)
    return smaller


def _encoded(pixels: Any, kind: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
