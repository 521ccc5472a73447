"""Pictures from layouts.

`render` is what `anyphoto generate` runs, `render_best` with `--best-of`; `verify_files` is `anyphoto verify`;
`prepare_faces` turns a layout's references into what the model takes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyphoto_cli.generate.again import render_again
    from anyphoto_cli.generate.best_of import render_best
    from anyphoto_cli.generate.conditions import prepare_faces
    from anyphoto_cli.generate.rendering import find_models, render
    from anyphoto_cli.generate.verifying import verify_files

_PUBLIC = {
    "render": "rendering",
    "render_again": "again",
    "find_models": "rendering",
    "prepare_faces": "conditions",
    "verify_files": "verifying",
    "render_best": "best_of",
}
__all__ = ["find_models", "prepare_faces", "render", "render_again", "render_best", "verify_files"]


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
