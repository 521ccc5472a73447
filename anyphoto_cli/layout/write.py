"""Layouts that are made, not typed: their references beside them, their JSON whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.images import decode, read_bytes
from anyphoto_cli.geometry import TOKEN_PX
from anyphoto_cli.layout.check import check_layout
from anyphoto_cli.layout.read import is_storable
from anyphoto_cli.layout.schema import Layout, parse_layout
from anyphoto_cli.types import Points


@dataclass(frozen=True, eq=False)
class Placed:
    """One person of a new layout. reference: a picture anywhere. name, reference: None: a place to be filled later."""

    name: str | None
    reference: Path | None
    landmarks: Points


def write_layout(
    file: Path, people: Sequence[Placed], prompt: str, size: tuple[int, int], seed: int = 0, overwrite: bool = False
) -> Layout:
    """Write `file`; references from outside its folder are copied into <name>_refs/ beside it, and replace nothing.

    A place to be filled is called person 1, 2, .. and names a picture in there that is not there yet. Raises InputError
    where `file` exists, for what `check_layout` refuses, and for a reference that is no picture.
    """
    check_target(file, overwrite)
    copies: dict[Path, bytes] = {}
    known = [
        (one.name, _beside(file, one.name, one.reference, copies)) if one.name and one.reference else None
        for one in people
    ]
    slots = _slots(file, {one.name for one in people}, copies)
    faces = [
        {"name": name, "reference": reference, "landmarks": _rounded(one.landmarks)}
        for one, (name, reference) in zip(people, [who or next(slots) for who in known], strict=True)
    ]
    document: dict[str, Any] = {
        "version": 1, "prompt": prompt, "width": size[0], "height": size[1], "seed": seed, "faces": faces,
    }  # fmt: skip
    layout = parse_layout(document, file)
    check_layout(layout, references=False)
    if None in known:  # where their pictures are to be put
        _refs(file).mkdir(parents=True, exist_ok=True)
    for copy, content in copies.items():
        with committed(copy) as out:
            out.write(content)
    with committed(file) as out:
        out.write(as_text(document).encode())
    return layout


def check_target(file: Path, overwrite: bool = False) -> None:
    """Raises InputError where a layout must not be written."""
    if file.suffix != ".json":
        raise InputError("does not end in .json", file=file, field="--out")
    if file.exists() and not overwrite:
        raise InputError("exists", file=file, field="--out", remedy="Replace it with --overwrite, or name another file")


def as_text(document: Any) -> str:
    """JSON for people: one line a point."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # Over ends of lines alone: texts hold none, and stay as they are.
    return re.sub(r"\[\n *(-?[\d.]+),\n *(-?[\d.]+)\n *\]", r"[\1, \2]", text) + "\n"


def _beside(file: Path, name: str, reference: Path, copies: dict[Path, bytes]) -> str:
    """The path of a reference inside the layout's folder."""
    folder = file.parent.resolve()
    if not is_storable(str(reference)):
        remedy = "Rename it: a layout is UTF-8"
        raise InputError("has a name that is no text", file=reference, remedy=remedy)
    content = read_bytes(reference)
    decode(content, reference)  # raises for what is no picture
    real = Path(os.path.realpath(reference))
    if folder in real.parents:
        return real.relative_to(folder).as_posix()
    copy = _free(_refs(file) / f"{_slug(name)}{reference.suffix.lower()}", content, copies)
    copies[copy] = content
    return copy.relative_to(file.parent).as_posix()


def _refs(file: Path) -> Path:
    """Where a layout's own copies of references lie; the editor's uploads, too."""
    return file.parent / f"{file.stem}_refs"


def _slots(file: Path, names: Set[str | None], copies: Mapping[Path, bytes]) -> Iterator[tuple[str, str]]:
    """(name, path of a picture that is not there) of places to be filled; what lies there is somebody else."""
    for number in itertools.count(1):
        name, picture = f"person {number}", _refs(file) / f"person_{number}.jpg"
        if name not in names and picture not in copies and not picture.exists():
            yield name, picture.relative_to(file.parent).as_posix()


def _free(file: Path, content: bytes, copies: dict[Path, bytes]) -> Path:
    """`file`, or the first of ana_2.png, ana_3.png, .. that is no other picture, neither on disk nor in `copies`."""
    for number in itertools.count(1):
        named = file if number == 1 else file.with_name(f"{file.stem}_{number}{file.suffix}")
        known = copies.get(named)
        if known is None and named.exists():
            known = named.read_bytes() if named.is_file() else b""
        if known is None or known == content:
            return named
    raise AssertionError("numbers do not end")


def _slug(name: str) -> str:
    """A name as a file may be called."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "person"


def _rounded(points: Points) -> list[list[float]]:
    return [[round(float(value), 1) for value in point] for point in points]


def names_of(files: Sequence[Path]) -> list[str]:
    """People called as their files are, each with a name of their own: ana, ben, ana 2."""
    names: list[str] = []
    for file in files:
        name, number = file.stem.replace("_", " ").strip() or "person", 1
        unique = name
        while unique in names:
            number += 1
            unique = f"{name} {number}"
        names.append(unique)
    return names


def parse_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT, multiples of 16. Raises InputError."""
    match = re.fullmatch(r"(\d{2,5})[x×](\d{2,5})", text.strip().lower())
    if not match:
        raise InputError(f"{text!r} is no size", field="--size", remedy="Like 1024x768")
    width, height = int(match[1]), int(match[2])
    if width % TOKEN_PX or height % TOKEN_PX:
        near = f"{max(round(width / TOKEN_PX), 4) * TOKEN_PX}x{max(round(height / TOKEN_PX), 4) * TOKEN_PX}"
        raise InputError(f"{text} is no multiple of {TOKEN_PX}", field="--size", remedy=f"Take {near}")
    return width, height
