"""A training configuration as a YAML file with every key, its default, and where that comes from."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from anyphoto_cli.config.load import parse_yaml
from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError

_HEAD = """\
# anyphoto train: every key with its default. Lines that you leave out mean the same.
# One device:    anyphoto train THIS_FILE [key=value ...]
# Several GPUs:  torchrun --nproc-per-node 8 -m anyphoto_cli train THIS_FILE
"""


def config_text(given: Mapping[str, Any]) -> str:
    """given: dotted keys that differ from the defaults; output_dir and data.shards among them."""
    return _HEAD + "\n".join(_lines(TrainConfig, given, "", 0)) + "\n"


def _lines(model: type[BaseModel], given: Mapping[str, Any], path: str, indent: int) -> list[str]:
    lines: list[str] = []
    for name, info in model.model_fields.items():
        key, inner = f"{path}{name}", info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            lines += ["", f"{' ' * indent}{name}:"]
            lines += _lines(inner, given, f"{key}.", indent + 2)
            continue
        for part in textwrap.wrap(info.description or "", 110 - indent):
            lines.append(f"{' ' * indent}# {part}")
        default = None if info.default is PydanticUndefined else info.default
        lines.append(f"{' ' * indent}{name}: {_value(given.get(key, default))}")
    return lines


def _value(value: Any) -> str:
    """JSON is YAML; short names need no quotes."""
    plain = isinstance(value, str) and value.replace("-", "").replace("_", "").isalnum() and _reads_back(value)
    return str(value) if plain else json.dumps(value)


def _reads_back(text: str) -> bool:
    """Whether it needs no quotes: 2026_11_28 is a number to YAML."""
    try:
        return bool(parse_yaml(text, "") == text)
    except (InputError, ValueError):  # 2026-13-45 looks like a day, and is none
        return False
