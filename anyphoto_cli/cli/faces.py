"""`anyphoto faces`: calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.default_group import default_group
from anyphoto_cli.cli.options import FacePack, Json, Quiet

app = default_group("calibrate", "Measure from which cosine on a face pack takes two faces for one person's.")


@app.callback()
def _group() -> None:
    """Measure from which cosine on a face pack takes two faces for one person's."""


@app.command(epilog=f"Example: anyphoto faces calibrate refs --face-pack antelopev2\n\n{DOCS}")
def calibrate(
    refs: Annotated[Path, typer.Argument(metavar="REFS", help="Known people: a folder each, photos in it.")],
    face_pack: FacePack = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Another file than this machine's own.", metavar="JSON"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Store it also with fewer than 100 pairs of different people.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:
    """Compare everybody with everybody; the threshold is what one pair of different people in a hundred reaches.

    `verify`, `generate --verify` and `layout from-photo` take it for this very pack, by its hash. Fifteen people with
    two photos each are few; more are better. With fewer than a hundred pairs of different people nothing is stored.
    """
    from anyphoto_cli.data.bank import list_references
    from anyphoto_cli.faces.packs import DEFAULT_PACK, open_faces
    from anyphoto_cli.generate.calibrating import calibrate as measure

    console.hush_libraries(False)
    list_references(refs)  # before a face model that may have to be fetched
    found, file = measure(refs, open_faces(face_pack or DEFAULT_PACK), out, console.Terminal(quiet or as_json), force)
    if as_json:
        console.document({"file": str(file), **found.model_dump()})
        return 0
    console.result(f"{found.pack}: threshold {found.threshold:.3f}, from {found.people} people, {found.photos} photos")
    console.result(f"different people: mean {found.different_mean:.3f}, most {found.different_max:.3f}, "
                   f"{found.different_pairs} pairs")  # fmt: skip
    if found.same_pairs:
        console.result(f"one person: mean {found.same_mean:.3f}, 5 % below {found.same_p05:.3f}, {found.same_pairs} "
                       f"pairs, {found.false_reject:.1%} below the threshold")  # fmt: skip
    console.result(str(file))
    return 0
