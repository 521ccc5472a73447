"""Strict JSON: what json.loads lets pass and a user would lose by is refused here, with the key's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from anyphoto_cli.errors import InputError

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

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InputError("this key stands twice", file=file, field=_shown(key), remedy="Keep one of them")
            if any(isinstance(part, str) and not _storable(part) for part in (key, value)):
                raise InputError("has characters that cannot be stored", file=file, field=_shown(key))
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=read_object, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"is not valid JSON at {where}: {error.msg}", file=file) from error
    except RecursionError as error:
        raise InputError("is nested too deep", file=file) from error
    except ValueError as error:  # an integer of thousands of digits
        raise InputError("holds a number with too many digits", file=file) from error


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(key: str) -> str:
    return key.encode("utf-8", "backslashreplace").decode()[:60]
