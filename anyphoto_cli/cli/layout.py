"""`anyphoto layout`: check, preview, schema, arrange, from-photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.default_group import default_group
from anyphoto_cli.cli.options import FacePack, Json, RefsRoot, described
from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.errors import InputError

app = default_group("check", "Make, check and preview layout files.")
Preset = Literal["row", "pyramid", "circle", "portrait"]
NewLayout = Annotated[Path, typer.Option("--out", "-o", help="The layout to write.", metavar="JSON")]
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
    people = console.counted(len(report.faces), "person", "people")
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


@app.command(epilog=f"Example: anyphoto layout arrange ana.jpg ben.jpg --prompt \"a photo of two friends on a beach\" "
             f"-o beach.json\n\n{DOCS}")  # fmt: skip
def arrange(
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="PICTURE...", help="A photo of each person, from left to right.")
    ] = None,
    people: Annotated[
        list[Path] | None, typer.Option("--people", help="The same: --people ana.jpg ben.jpg.", metavar="PICTURE...")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The layout to write.", metavar="JSON")] = Path(
        "layout.json"
    ),
    size: Annotated[str, typer.Option(help="Of the picture, px.", metavar="WxH")] = "1024x1024",
    preset: Annotated[Preset, typer.Option(help="How they stand.")] = "row",
    prompt: Annotated[
        str | None, typer.Option(help="What the picture shows; default: a photo of N people.", metavar="TEXT")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other places.", metavar="N", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the layout.")] = False,
    as_json: Json = False,
) -> int:
    """Write a layout with sensible places for people, one photo each. No model is loaded.

    Photos from outside the layout's folder are copied beside it.
    """
    from anyphoto_cli.layout.arrange import arrange as places_of
    from anyphoto_cli.layout.head_count import counted
    from anyphoto_cli.layout.write import Placed, names_of, parse_size, write_layout

    files = [*(people or []), *(pictures or [])]
    width, height = parse_size(size)
    places = places_of(len(files), width, height, preset, seed)
    placed = [Placed(*one) for one in zip(names_of(files), files, places, strict=True)]
    layout = write_layout(out, placed, prompt or counted(len(files)), (width, height), seed, overwrite)
    _written(out, layout, 0, as_json)
    return 0


@app.command(epilog=f"Example: anyphoto layout from-photo party.jpg --refs refs -o party.json\n\n{DOCS}")
def from_photo(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo of people at the places you want.")],
    out: NewLayout = Path("layout.json"),
    refs: Annotated[
        Path | None, typer.Option("--refs", help="Known people, a folder each: they are put in by name.", metavar="DIR")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the picture shows.", metavar="TEXT")] = None,
    captioner: Annotated[
        str | None, typer.Option(help="Writes the prompt instead: openai (a server), vllm.", metavar="NAME")
    ] = None,
    caption_url: Annotated[str | None, typer.Option(help="Of captioner openai.", metavar="URL")] = None,
    size: Annotated[
        str | None, typer.Option(help="Of the picture; default: about 1024x1024 px, as the photo.", metavar="WxH")
    ] = None,
    face_pack: FacePack = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least cosine of a known person; default: the pack's calibration, or the "
                                   "bank's own.", metavar="COS", min=-1, max=1)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the layout.")] = False,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Write a layout with the faces of a photo as its places: known people by name, the others to be filled in."""
    from anyphoto_cli.faces.packs import DEFAULT_PACK, open_faces
    from anyphoto_cli.generate.from_photo import check_asked, layout_from_photo
    from anyphoto_cli.layout.write import parse_size

    console.hush_libraries(False)
    caption, asked = _captioner(captioner, caption_url) if captioner else None, parse_size(size) if size else None
    check_asked(photo, out, refs, overwrite, threshold)
    layout, slots = layout_from_photo(
        photo, out, open_faces(face_pack or DEFAULT_PACK), refs=refs, prompt=prompt, caption=caption, size=asked,
        threshold=threshold, overwrite=overwrite, listener=console.Terminal(quiet=as_json),
    )  # fmt: skip
    _written(out, layout, slots, as_json)
    return 0


@app.command(epilog=f"Example: anyphoto layout edit trip.json\n\n{DOCS}")
def edit(
    file: Annotated[Path, typer.Argument(metavar="LAYOUT.json", help="The layout; a new one where none is there yet.")],
    model: Annotated[str | None, described(GenerateConfig, "model", metavar="NAME|ID|DIR")] = None,
    adapter: Annotated[str | None, described(GenerateConfig, "adapter", metavar="DIR|ID")] = None,
    face_pack: FacePack = None,
    device: Annotated[str | None, described(GenerateConfig, "device")] = None,
    memory: Annotated[str | None, described(GenerateConfig, "memory")] = None,
    refs_root: RefsRoot = None,
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0: any free one.", metavar="N", min=0, max=65535)] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> int:
    """Edit a layout on a page: drop pictures, drag faces, see what the model will see, render, look at the scores.

    The page answers this machine alone, and only to whoever has the address that is printed. Ends with Ctrl-C.
    """
    console.hush_libraries(False)
    from anyphoto_cli.config.load import load_config
    from anyphoto_cli.web.server import serve

    given = dict(model=model, adapter=adapter, face_pack=face_pack, device=device, memory=memory)
    serve(file, load_config(GenerateConfig, given=given), refs_root=refs_root, port=port, open_browser=not no_browser,
          tell=_told_at_once)  # fmt: skip
    return 0


def _told_at_once(line: str) -> None:
    """Also where stdout is a pipe: somebody waits for the address."""
    print(line, flush=True)


def _captioner(name: str, url: str | None) -> Any:
    """[H, W, 3] -> one sentence, by a captioner of `preprocess`."""
    from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
    from anyphoto_cli.preprocess.captioning import caption_one, open_captioner

    captioner = open_captioner(PreprocessConfig(captioner=name, caption_url=url), RunOptions())
    return lambda picture: caption_one(captioner, picture)


def _written(out: Path, layout: Any, slots: int, as_json: bool) -> None:
    """What stands where, and what is left to do."""
    if as_json:
        console.document({"file": str(out), "faces": [face.name for face in layout.faces], "to_fill": slots})
        return
    for face in layout.faces:
        x, y = face.place.mean(0)
        console.result(f"{face.name}: {face.reference}, at {x:.0f},{y:.0f}")
    people = console.counted(len(layout.faces), "person", "people")
    console.result(f"{out}: {people}, {layout.width}x{layout.height}")
    if slots:
        wanted = console.counted(slots, "reference picture that is", "reference pictures that are")
        console.Terminal().notice(f"To fill: {wanted} not there yet; or edit the names in it")


def _refuse_target(out: Path, inputs: list[Path]) -> None:
    """A preview is a PNG of its own: never an input, a folder or a device."""
    from anyphoto_cli.files.images import refuse_no_png

    refuse_no_png(out)
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
    """Says which face of a picture is taken, by the named pack or the installed one; None: nothing is to be done."""
    from anyphoto_cli.faces.packs import DEFAULT_PACK, installed_pack, open_faces
    from anyphoto_cli.faces.reference_face import find_reference_face

    searched = any(face.reference_landmarks is None for face in layout.faces)
    pack = face_pack or (installed_pack(DEFAULT_PACK) if searched else None)
    if pack is None:
        return None
    analyzer = open_faces(pack)

    def find(picture: Any) -> tuple[str, int]:
        found = find_reference_face(analyzer, picture)
        return found.choice, found.faces

    return find


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
