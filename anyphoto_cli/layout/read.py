"""Strict JSON: what json.loads lets pass and a user would lose by is refused here, with the key's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.texts import storable

MAX_BYTES = 5 * 2**20


def read_json(path: Path) -> Any:
    """The value in a UTF-8 JSON file; a byte order mark is accepted.

    Raises InputError on: no readable file, over 5 MiB, not UTF-8, malformed, nested too deep, duplicate keys, NaN or
    infinity, text that cannot be stored (lone surrogates, NUL).
    """
    try:
        if not path.is_file():
            what = "is a folder, not a layout file" if path.is_dir() else "no such file"
            raise InputError(what, file=path, remedy="Give the path of a layout.json")
        if path.stat().st_size > MAX_BYTES:
            raise InputError("is larger than 5 MiB", file=path, remedy="Is this a layout?")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise InputError(
                f"is not UTF-8 text (byte {error.start})", file=path.name, remedy="Save it as UTF-8"
            ) from error
        raise InputError(f"cannot be read ({error})", file=path) from error
    return parse_json(text, path.name)


def parse_json(text: str, file: str) -> Any:
    """The value of a JSON text; `file` is for the messages. Raises InputError as `read_json` does."""

    def refuse_constant(name: str) -> NoReturn:
        raise InputError(f"{name} is not a number", file=file)

    def read_object(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in pairs:
            if key in found:
                found.setdefault(_REFUSED, (key, "this key stands twice", "Keep one of them"))
            if any(isinstance(part, str) and not is_storable(part) for part in (key, value)):
                found.setdefault(_REFUSED, (key, "has characters that cannot be stored", ""))
            found[key] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=read_object, parse_constant=refuse_constant)
        refused = _first_refused(value)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"is not valid JSON at {where}: {error.msg}", file=file) from error
    except RecursionError as error:
        raise InputError("is nested too deep", file=file) from error
    except ValueError as error:  # an integer of thousands of digits
        raise InputError("holds a number with too many digits", file=file) from error
    if refused:
        where, what, remedy = refused
        raise InputError(what, file=file, field=where, remedy=remedy)
    return value


_REFUSED = object()
"""Key of what is wrong with an object: while it is read nobody knows where it stands."""


def _first_refused(value: Any, where: str = "") -> tuple[str, str, str] | None:
    """(faces[0].name, what is wrong, what to do) of the first object that something is wrong with."""
    if isinstance(value, list):
        parts = [(f"{where}[{number}]", part) for number, part in enumerate(value)]
    elif isinstance(value, dict):
        before = f"{where}." if where else ""
        if _REFUSED in value:
            key, what, remedy = value[_REFUSED]
            return before + _shown(key), what, remedy
        parts = [(before + _shown(key), part) for key, part in value.items()]
    else:
        return None
    return next((found for place, part in parts if (found := _first_refused(part, place))), None)


def is_storable(text: str) -> bool:
    """Whether it can stand in UTF-8 and in a picture's metadata."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(key: str) -> str:
    return storable(key)[:60]
