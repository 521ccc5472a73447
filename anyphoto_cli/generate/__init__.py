"""Pictures from layouts.

`render` is what `anyphoto generate` runs, `render_best` with `--best-of`; `verify_files` is `anyphoto verify`;
`prepare_faces` turns a layout's references into what the model takes.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "render": "rendering",
    "render_again": "rendering",
    "find_models": "rendering",
    "prepare_faces": "conditions",
    "verify_files": "verifying",
    "render_best": "best_of",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
