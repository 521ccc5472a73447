"""`anyphoto verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.options import FacePack, Json, Quiet, RefsRoot, described
from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.verify import VerifyConfig

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command(epilog=f"Examples:\n\nanyphoto verify out/*.png\n\nanyphoto verify theirs.jpg --layout trip.json "
             f"--face-pack antelopev2 --annotate\n\n{DOCS}")  # fmt: skip
def verify(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE|DIR...", help="Pictures to look at, or folders of them.")
    ],
    layout: Annotated[
        Path | None,
        typer.Option("--layout", "-l", help="What was asked for; default: what each picture says about itself.",
                     metavar="LAYOUT.json"),
    ] = None,
    face_pack: FacePack = None,
    threshold: Annotated[float | None, described(VerifyConfig, "threshold")] = None,
    off_by: Annotated[float | None, described(VerifyConfig, "off_by")] = None,
    annotate: Annotated[bool, typer.Option("--annotate", help="Write a copy with boxes and names.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for what is written; default: beside each picture.")
    ] = None,
    refs_root: RefsRoot = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Find the faces of pictures and hold them against a layout: likeness, place, who is missing, extra, swapped, there
    twice.

    Writes <picture>.verify.json beside each. Exit code 3 where a picture does not pass.
    """
    console.hush_libraries(False)
    from anyphoto_cli.generate.verifying import verify_files

    config = load_config(VerifyConfig, given={"threshold": threshold, "off_by": off_by})
    listener = console.Terminal(quiet or as_json)
    done = verify_files(pictures, layout, face_pack=face_pack, config=config, annotate=annotate, out=out,
                        refs_root=refs_root, listener=listener,
                        on_verified=lambda one: None if as_json else show(one, listener))  # fmt: skip
    if as_json:
        console.document({"pictures": [as_document(one) for one in done]})
    return exit_code(done)


def show(one: Any, listener: console.Terminal) -> None:
    """A line for the picture, a line a face; once, where the threshold is from. one: a `generate.Verified`."""
    tell = listener.notice if one.verdict.threshold is not None else listener.caution
    tell(f"Likeness: {one.verdict.threshold_from}")
    said = {True: "passed", False: "did not pass", None: "nothing wrong, likeness not judged"}[one.verdict.passed]
    console.result(f"{one.picture}: {said}, score {one.verdict.score:.3f}")
    for line in one.verdict.lines():
        console.result(f"  {line}")
    if one.annotated is not None:
        console.result(f"  {one.annotated}")


def as_document(one: Any) -> dict[str, Any]:
    """For --json."""
    drawn = {"annotated": str(one.annotated)} if one.annotated is not None else {}
    return {"picture": str(one.picture), **one.verdict.to_json(), **drawn}


def exit_code(done: Sequence[Any]) -> int:
    """3 where one does not pass."""
    return 3 if any(one.verdict.passed is False for one in done) else 0
