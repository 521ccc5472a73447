"""`anyphoto export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.errors import InputError

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command(epilog=f"Examples:\n\nanyphoto export run --to my-adapter\n\nanyphoto export run --to hub:org/name "
             f"--public\n\n{DOCS}")  # fmt: skip
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run's output_dir, a checkpoint, or an adapter.")],
    to: Annotated[str, typer.Option("--to", help="A new folder, or hub:org/name.", metavar="DIR|hub:ID")],
    dtype: Annotated[str | None, typer.Option(help="float16 or bfloat16: half the size. Default: as trained.")] = None,
    start: Annotated[Path | None, typer.Option(help="What RUN was trained on from: export weights between the "
                                               "two, with --share.")] = None,
    share: Annotated[float | None, typer.Option(help="How far from --start to RUN, between 0 and 1: 0.3 keeps most of "
                                                "what --start could.", metavar="S")] = None,
    public: Annotated[bool, typer.Option("--public", help="On the hub: for everybody to see.")] = False,
) -> int:  # fmt: skip
    """Write a Hugging Face model folder: weights, card, notice, samples, configuration; or upload it.

    `anyphoto generate --adapter` takes the folder, and the hub id.
    """
    console.hush_libraries(False)
    from anyphoto_cli.train.export import export as write
    from anyphoto_cli.train.export import export_to_hub
    from anyphoto_cli.train.interpolation import Start

    if not source.is_dir():
        raise InputError("no such folder", file=source, field="RUN")
    if (start is None) != (share is None):
        raise InputError("goes with --start" if start is None else "goes with --share",
                         field="--share" if start is None else "--start", remedy="Give both, or neither")  # fmt: skip
    way = Start(start, share) if start is not None and share is not None else None
    if to.startswith("hub:"):
        console.result(export_to_hub(source, to.removeprefix("hub:"), private=not public, dtype=dtype, start=way))
        return 0
    card = write(source, Path(to), dtype=dtype, start=way)
    console.result(f"{to}: trained for {card.train_step} steps on {card.base_model}")
    return 0
