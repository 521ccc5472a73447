"""`anyphoto generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.options import FacePack, Json, Quiet, RefsRoot, Verbose, described
from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.load import load_config
from anyphoto_cli.errors import InputError

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
_EXAMPLES = f"""Examples:

anyphoto generate examples/two_people.json -o out

anyphoto generate beach.json --model flux-dev --adapter my-adapter --num-images 4 --seed 7

{DOCS}"""


@app.command(epilog=_EXAMPLES, no_args_is_help=True)
def generate(
    layouts: Annotated[
        list[Path] | None, typer.Argument(metavar="LAYOUT.json|FOLDER...", help="Layouts to render.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the pictures; default: out, with --from the PNG's own."),
    ] = None,
    again: Annotated[
        Path | None, typer.Option("--from", help="Render the picture of this PNG once more.", metavar="PNG")
    ] = None,
    model: Annotated[str | None, described(GenerateConfig, "model", metavar="NAME|ID|DIR")] = None,
    adapter: Annotated[str | None, described(GenerateConfig, "adapter", metavar="DIR|ID")] = None,
    face_pack: FacePack = None,
    seed: Annotated[int | None, described(GenerateConfig, "seed")] = None,
    num_images: Annotated[int | None, described(GenerateConfig, "num_images", "--num-images", "-n")] = None,
    steps: Annotated[int | None, described(GenerateConfig, "steps")] = None,
    device: Annotated[str | None, described(GenerateConfig, "device")] = None,
    dtype: Annotated[str | None, described(GenerateConfig, "dtype")] = None,
    memory: Annotated[str | None, described(GenerateConfig, "memory")] = None,
    attention: Annotated[str | None, described(GenerateConfig, "attention")] = None,
    refs_root: RefsRoot = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pictures that exist.")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave refused layouts out; exit code 3.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, load no model, render nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Render pictures from layout files.

    Pictures are named <layout>_seed<seed>.png; those that are finished already are skipped. Without --adapter the
    picture carries no trained identity: there is no public AnyPhoto checkpoint.
    """
    console.hush_libraries(verbose)
    given = dict(model=model, adapter=adapter, face_pack=face_pack, seed=seed, num_images=num_images, steps=steps,
                 device=device, dtype=dtype, memory=memory, attention=attention)  # fmt: skip
    config = load_config(GenerateConfig, given=given)
    listener = console.Terminal(quiet or as_json)
    if again is not None:
        beside = {"--seed": seed, "--steps": steps, "--num-images": num_images, "--dry-run": dry_run or None,
                  "--keep-going": keep_going or None}  # fmt: skip
        if refused := [name for name, value in beside.items() if value is not None]:
            raise InputError(f"takes no {', '.join(refused)} beside it", field="--from")
        return _again(again, layouts, out, config, refs_root, overwrite, as_json, listener)
    if not layouts:
        raise InputError("name a layout file or a folder", field="LAYOUT", remedy="Or a picture with --from")
    from anyphoto_cli.generate import render

    rendered = render(
        layouts,
        out or Path("out"),
        config,
        refs_root=refs_root,
        overwrite=overwrite,
        keep_going=keep_going,
        dry_run=dry_run,
        listener=listener,
    )
    _show(rendered, dry_run, as_json)
    for line in rendered.refused:
        listener.caution(f"left out: {line}")
    return 0 if not rendered.refused else 3 if rendered.pictures else 2


def _again(
    again: Path, layouts: Any, out: Path | None, config: GenerateConfig, refs_root: Path | None, overwrite: bool,
    as_json: bool, listener: console.Terminal,
) -> int:  # fmt: skip
    if layouts:
        raise InputError("takes no layouts beside it", field="--from")
    from anyphoto_cli.generate import render_again

    picture, same = render_again(again, out, config, refs_root=refs_root, overwrite=overwrite, listener=listener)
    if as_json:
        console.document({"picture": str(picture.path), "seed": picture.seed, "identical": same})
    else:
        console.result(f"{picture.path}  {'identical, pixel for pixel' if same else 'differs from the original'}")
    return 0


def _show(rendered: Any, dry_run: bool, as_json: bool) -> None:
    if as_json:
        pictures = [
            {"path": str(p.path), "layout": p.layout, "seed": p.seed, "skipped": p.skipped} for p in rendered.pictures
        ]
        console.document({"pictures": pictures, "refused": list(rendered.refused), "dry_run": dry_run})
        return
    for picture in rendered.pictures:
        console.result(f"{picture.path}{'  (not rendered: dry run)' if dry_run else ''}")
