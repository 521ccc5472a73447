"""Photos and known faces in, training shards out: paper appendix A.2, stage by stage.

`run` is what `anyphoto preprocess` runs, `estimate` its dry run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyphoto_cli.preprocess.finishing import Preprocessed
    from anyphoto_cli.preprocess.stages import run

_PUBLIC = {"run": "stages", "Preprocessed": "finishing"}
__all__ = ["Preprocessed", "run"]


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
