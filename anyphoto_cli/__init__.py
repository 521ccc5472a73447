"""anyphoto: several real people, from one reference face each, at chosen places in one generated picture.

The public names below are resolved when they are first used, so that `import anyphoto_cli` costs nothing.
Source of the method: the AnyPhoto paper (arXiv 2603.14770).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyphoto_cli.config.method import MethodConfig
    from anyphoto_cli.errors import EnvironmentFault, InputError
    from anyphoto_cli.faces.packs import open_faces
    from anyphoto_cli.layout.check import check_layout
    from anyphoto_cli.layout.schema import Layout, load_layout
    from anyphoto_cli.model.pipeline import AnyPhotoPipeline
    from anyphoto_cli.model.transformer import AnyPhotoTransformer
    from anyphoto_cli.seams import FaceAnalyzer

__version__ = "0.1.0"

_PUBLIC = {
    "Layout": "layout.schema",
    "load_layout": "layout.schema",
    "check_layout": "layout.check",
    "AnyPhotoPipeline": "model.pipeline",
    "AnyPhotoTransformer": "model.transformer",
    "FaceAnalyzer": "seams",
    "open_faces": "faces.packs",
    "MethodConfig": "config.method",
    "InputError": "errors",
    "EnvironmentFault": "errors",
}
__all__ = [
    "AnyPhotoPipeline", "AnyPhotoTransformer", "EnvironmentFault", "FaceAnalyzer", "InputError", "Layout",
    "MethodConfig", "__version__", "check_layout", "load_layout", "open_faces",
]  # fmt: skip


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
