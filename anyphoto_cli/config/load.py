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
    model: type[Config], file: Path | None = None, given: Mapping[str, Any] | None = None, settings: Sequence[str] = ()
) -> Config:
    """The file's keys, then `settings` (KEY=VALUE), then `given` (None: not given). Raises InputError by key."""
    values, origin = _file(file), dict.fromkeys(_file(file), str(file))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"{setting!r} is no KEY=VALUE", field="--set")
        values[key], origin[key] = parse_yaml(text, "--set"), "--set"
    for key, value in (given or {}).items():
        if value is not None:
            values[key], origin[key] = value, f"--{key.replace('_', '-')}"
    try:
        # Through JSON: strict in types, yet a list may stand for a tuple and a text for a path.
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise _refused(error.errors()[0], model, origin) from None


def _refused(first: Any, model: type[BaseModel], origin: Mapping[str, str]) -> InputError:
    key = str(first["loc"][0]) if first["loc"] else ""
    where = origin.get(key, "")
    option = f"--set {key}" if where == "--set" else where if where.startswith("--") else key
    file = where if not where.startswith("--") else ""
    if first["type"] == "extra_forbidden":
        near = get_close_matches(key, model.model_fields, n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Keys: {', '.join(model.model_fields)}"
        return InputError("is no key here", file=file, field=option, remedy=remedy)
    path = ".".join(map(str, first["loc"][1:]))
    return InputError(f"{first['input']!r}: {first['msg'].lower()}", file=file, field=f"{option}.{path}".rstrip("."))


def _file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file, field="--config") from error
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
