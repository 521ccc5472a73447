"""`anyphoto mini`: the small world."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.default_group import default_group
from anyphoto_cli.cli.options import Json, Quiet

app = default_group("photos", "Draw photos and reference faces of the small world that the embedded model knows.")
Style = Literal["photo", "pencil", "watercolour", "pixel", "comic", "sepia", "any"]


@app.command(epilog=f"Example: anyphoto mini photos --people 40 --groups 500 -o mini_photos\n\n{DOCS}")
def photos(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", metavar="DIR")],
    people: Annotated[int, typer.Option(help="Different people.", metavar="N")] = 40,
    groups: Annotated[int, typer.Option(help="Photos with one to four of them.", metavar="N")] = 500,
    references: Annotated[int, typer.Option(help="Portraits of each person in the bank.", metavar="N")] = 3,
    width: Annotated[int, typer.Option(help="Of the group photos, px.", metavar="PX")] = 128,
    height: Annotated[int, typer.Option(help="Of the group photos, px.", metavar="PX")] = 128,
    style: Annotated[Style, typer.Option(help="How they are drawn; any: half of them photos.")] = "photo",
    held_out: Annotated[
        bool, typer.Option("--held-out", help="People that no shipped model was trained on, for tests.")
    ] = False,
    layouts: Annotated[
        bool,
        typer.Option(
            "--layouts", help="Also layouts/ and cases.jsonl: for each photo one that asks for it, to render and judge."
        ),
    ] = False,
    worn: Annotated[
        bool, typer.Option("--worn", help="References as bad photos: few pixels, some grey, off in colour, noisy.")
    ] = False,
    siblings: Annotated[
        bool, typer.Option("--siblings", help="Half of the people look like another, often in the same photo.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Another seed, other people.", metavar="N")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:
    """Write photos/*.png, refs/NAME/*.png and truth.jsonl (boxes, landmarks, names, captions) like a user's own folder.

    The same settings give the same bytes on every machine; a run that was cut off goes on where it stopped.
    """
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos

    config = PhotosConfig(people, groups, references, width, height, style, held_out, seed, layouts, worn, siblings)
    drawn = draw_photos(out, config, console.Terminal(quiet=quiet or as_json))
    if as_json:
        console.document({**asdict(drawn), "folder": str(drawn.folder)})
        return 0
    photos_, references_ = console.counted(drawn.photos, "photo"), console.counted(drawn.references, "reference")
    who = console.counted(people, "person", "people")
    console.result(f"{out}/photos: {photos_}, {out}/refs: {references_} of {who}")
    if drawn.kept:
        console.result(f"{drawn.kept} of these files {'was' if drawn.kept == 1 else 'were'} there already")
    return 0


@app.command(epilog=f"Example: anyphoto mini sheet -o world.png\n\n{DOCS}")
def sheet(
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.", metavar="PNG")],
    seed: Annotated[int, typer.Option(help="Another seed, other pictures.", metavar="N")] = 0,
) -> int:
    """Draw the small world at a glance: scenes, styles, and a few people in many moments."""
    from anyphoto_cli.files.commit import committed
    from anyphoto_cli.files.images import refuse_no_png
    from anyphoto_cli.mini.photos import as_png
    from anyphoto_cli.mini.sheet import world_sheet

    refuse_no_png(out)
    with committed(out) as file:
        file.write(as_png(world_sheet(seed, scale=2)))
    console.result(str(out))
    return 0


@app.command(epilog=f"Example: anyphoto mini examples\n\n{DOCS}")
def examples(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", metavar="DIR")] = Path("examples"),
) -> int:
    """Write layouts of two and of three drawn people, with a portrait of each, to render at once."""
    from anyphoto_cli.mini.examples import write_examples

    for file in write_examples(out):
        console.result(f"anyphoto generate {file}")
    return 0


@app.command(epilog=f"Example: anyphoto mini demo -o demo\n\n{DOCS}")
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", metavar="DIR")] = Path("demo"),
    steps: Annotated[int, typer.Option(help="Of training.", metavar="N")] = 40,
    quiet: Quiet = False,
) -> int:
    """Photos, shards, training, pictures and scores in minutes, by the commands one would type, and a page of it all.

    What is finished is kept: the same command goes on where it was cut off.
    """
    console.hush_libraries(False)
    from anyphoto_cli.mini.demo import run_demo

    done = run_demo(out, steps, listener=console.Terminal(quiet=quiet))
    console.result(f"Open {done.page.resolve()}")
    return 0
