"""`anyphoto layout`: check, preview, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.default_group import default_group
from anyphoto_cli.cli.options import FacePack, Json, RefsRoot
from anyphoto_cli.errors import InputError

app = default_group("check", "Check, preview and describe layout files.")
LayoutFile = Annotated[Path, typer.Argument(metavar="LAYOUT.json", help="The layout file.")]


@app.command(epilog=f"Example: anyphoto layout check examples/two_people.json\n\n{DOCS}")
def check(file: LayoutFile, face_pack: FacePack = None, refs_root: RefsRoot = None, as_json: Json = False) -> int:
    """Say whether a layout can be rendered, and what will likely not come out as meant. No model is loaded.

    Looks for the face in each reference only where a face pack is named, or antelopev2 is installed.
    """
    from anyphoto_cli.layout.check import check_layout
    from anyphoto_cli.layout.schema import load_layout

    layout = load_layout(file, refs_root)
    report = check_layout(layout, _finder(layout, face_pack))
    if as_json:
        console.document(_as_document(file, report))
        return 0
    listener = console.Terminal()
    for caution in report.cautions:
        listener.caution(f"{layout.shown_name}: {caution}")
    for face in report.faces:
        x0, y0, x1, y1 = (round(value) for value in face.box)
        console.result(f"{face.name}: patch {x0},{y0} - {x1},{y1}, {face.tokens} tokens")
    if any(face.reference_landmarks is None for face in layout.faces) and not report.looked_for_faces:
        listener.notice("Did not look for faces in the references: name a pack with --face-pack")
    people = f"{len(report.faces)} {'person' if len(report.faces) == 1 else 'people'}"
    console.result(f"{file}: good, {people}, {layout.width}x{layout.height}")
    return 0


@app.command(epilog=f"Example: anyphoto layout preview examples/two_people.json -o preview.png\n\n{DOCS}")
def preview(
    file: LayoutFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.", metavar="PNG")],
    face_pack: FacePack = None,
    refs_root: RefsRoot = None,
    as_json: Json = False,
) -> int:
    """Draw what the model will see: pasted references, landmarks, token grid. No model is loaded."""
    import io

    from anyphoto_cli.files.commit import committed
    from anyphoto_cli.generate import prepare_faces
    from anyphoto_cli.layout.check import check_layout
    from anyphoto_cli.layout.preview import draw_preview
    from anyphoto_cli.layout.schema import load_layout

    layout = load_layout(file, refs_root)
    _refuse_target(out, [file, *(layout.reference_path(i) for i in range(len(layout.faces)))])
    listener = console.Terminal(quiet=as_json)
    for caution in check_layout(layout).cautions:
        listener.caution(f"{layout.shown_name}: {caution}")
    conditions = prepare_faces(layout, _analyzer(layout, face_pack))
    for choice in conditions.choices:
        listener.notice(choice)
    buffer = io.BytesIO()
    draw_preview(layout, conditions.faces).save(buffer, "PNG")
    with committed(out) as target:
        target.write(buffer.getvalue())
    tokens = {face.name: int(face.tokens.sum()) for face in conditions.faces}
    if as_json:
        console.document({"picture": str(out), "tokens": tokens})
    else:
        console.result(str(out))
    return 0


@app.command(epilog=f"Example: anyphoto layout schema > layout.schema.json\n\n{DOCS}")
def schema() -> int:
    """Print the JSON Schema of the layout file."""
    from anyphoto_cli.layout.schema import layout_json_schema

    console.document(layout_json_schema())
    return 0


def _refuse_target(out: Path, inputs: list[Path]) -> None:
    """A preview is a PNG of its own: never an input, a folder or a device."""
    if out.suffix.lower() != ".png":
        raise InputError("does not end in .png", file=out, field="--out")
    if out.exists() and (not out.is_file() or any(out.samefile(path) for path in inputs if path.exists())):
        raise InputError("would replace an input, a folder or a device", file=out, field="--out")


def _analyzer(layout: Any, face_pack: str | None) -> Any:
    """The named pack, else antelopev2 where it is installed, else the embedded one, which knows drawn faces only."""
    from anyphoto_cli.faces.packs import DEFAULT_PACK, installed_pack, open_faces
    from anyphoto_cli.registry import DEFAULT_BASE, find

    given = all(face.reference_landmarks is not None for face in layout.faces)
    known = DEFAULT_PACK if not given and installed_pack(DEFAULT_PACK) else find("bases", DEFAULT_BASE).face_pack
    return open_faces(face_pack or known)


def _finder(layout: Any, face_pack: str | None) -> Any:
    """Finds the face in a picture, by the named pack or the one that is installed; None where nothing is to be done."""
    from anyphoto_cli.faces.packs import DEFAULT_PACK, installed_pack, open_faces
    from anyphoto_cli.faces.reference_face import find_reference_face

    searched = any(face.reference_landmarks is None for face in layout.faces)
    pack = face_pack or (installed_pack(DEFAULT_PACK) if searched else None)
    if pack is None:
        return None
    analyzer = open_faces(pack)
    return lambda picture: find_reference_face(analyzer, picture).face.landmarks


def _as_document(file: Path, report: Any) -> dict[str, Any]:
    faces = [
        {"name": f.name, "box": list(f.box), "tokens": f.tokens, "reference_size": list(f.reference_size)}
        for f in report.faces
    ]
    warnings = [{"field": caution.field, "message": caution.text} for caution in report.cautions]
    return {
        "file": str(file),
        "faces": faces,
        "warnings": warnings,
        "looked_for_faces": report.looked_for_faces,
    }
