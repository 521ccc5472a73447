"""Options that several commands share; names and help of the others come from the configs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", envvar="ANYPHOTO_JSON", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only warnings and the result.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Let the libraries talk, too.")]
FacePack = Annotated[
    str | None,
    typer.Option(
        "--face-pack",
        envvar="ANYPHOTO_FACE_PACK",
        help="Face models: an insightface pack by name, or a folder.",
        metavar="NAME|DIR",
    ),
]
RefsRoot = Annotated[
    Path | None,
    typer.Option("--refs-root", help="Folder of the references; default: the layout's own.", metavar="DIR"),
]


def described(model: Any, key: str, *names: str, **more: Any) -> Any:
    """A typer option for a config key: its help is the key's description."""
    return typer.Option(*(names or (f"--{key.replace('_', '-')}",)), help=model.model_fields[key].description, **more)
