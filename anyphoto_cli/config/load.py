"""A config from a YAML file and what the command line adds. YAML 1.2: 1e-4 is a number, `no` is a text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from anyphoto_cli.errors import InputError

Config = TypeVar("Config", bound=BaseModel)


def load_config(
    model: type[Config], file: Path | None = None, given: Mapping[str, Any] | None = None, settings: Sequence[str] = (),
    under: Mapping[str, Any] | None = None, option: str = "--set",
) -> Config:  # fmt: skip
    """The file's keys, then `under`, then `settings` (KEY=VALUE), then `given` (None: not given). option: with which
    settings are given, "" where they stand alone. Raises InputError by key.

    A key of a part of the configuration has a dot: data.resolution=512.
    """
    values, origin = _file(file), dict.fromkeys(_file(file), str(file))
    for key, value in (under or {}).items():
        _put(values, key, value)
    told: set[str] = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"{setting!r} is no KEY=VALUE", field=option)
        _put(values, key, parse_yaml(text, option or key))
        told.add(key)
        origin[key] = ""
    for key, value in (given or {}).items():
        if value is not None:
            _put(values, key, value)
            origin[key] = f"--{key.replace('_', '-')}"
    try:
        # Through JSON: strict in types, yet a list may stand for a tuple and a text for a path.
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise _refused(error.errors()[0], model, origin, {key: f"{option} {key}".strip() for key in told}) from None


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    for part in parts:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, dict) else {}
        values = values[part]
    values[last] = value


def _refused(
    first: Any, model: type[BaseModel], origin: Mapping[str, str], as_given: Mapping[str, str]
) -> InputError:  # fmt: skip
    path = ".".join(str(part) for part in first["loc"])
    where = origin[path] if path in origin else origin.get(path.partition(".")[0], "")
    option = as_given.get(path) or (where if where.startswith("--") else path)
    file = where if not where.startswith("--") else ""
    if first["type"] == "extra_forbidden":
        known = _keys(model, first["loc"][:-1])
        near = get_close_matches(str(first["loc"][-1]), known, n=1)
        part = "".join(f"{one}." for one in first["loc"][:-1])
        remedy = f"Did you mean {part}{near[0]}?" if near else f"Keys: {', '.join(known)}"
        if (here := getattr(model, "ELSEWHERE", {}).get(path)) is not None:
            remedy = f"Here: {here}"
        return InputError("is no key here", file=file, field=option, remedy=remedy)
    if first["type"] == "missing":
        return InputError("is not given", file=file, field=path)
    told = first["msg"].removeprefix("Value error, ")
    return InputError(f"{first['input']!r}: {told[:1].lower()}{told[1:]}", file=file, field=option)


def _keys(model: Any, path: Sequence[Any]) -> list[str]:
    """The keys of the part of a configuration that a path leads to."""
    for part in path:
        inner = model.model_fields.get(str(part))
        model = inner.annotation if inner is not None else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)


def _file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file) from error
    value = parse_yaml(text, str(file))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError("holds no KEY: VALUE lines", file=file)
    return {str(key): entry for key, entry in value.items()}


def parse_yaml(text: str, where: str) -> Any:
    """Plain values only: tags, duplicate keys and broken text are refused."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise InputError(f"is not YAML{line}: {getattr(error, 'problem', '') or 'unreadable'}", file=where) from error
    except (ValueError, RecursionError) as error:  # a date or a number that is none, lists in lists without end
        raise InputError(f"holds what is no value ({error})", file=where, remedy="Put quotes around text") from error
