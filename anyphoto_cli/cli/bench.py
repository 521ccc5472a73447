"""`anyphoto bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.default_group import default_group
from anyphoto_cli.cli.options import Json, Quiet, Verbose
from anyphoto_cli.config.bench import BenchConfig
from anyphoto_cli.errors import InputError

app = default_group("score", "Score pictures by MultiID-Bench, and lay them beside the published rows.")
Subset = Annotated[list[str] | None, typer.Option("--subset", help="p1, p2 or p3; all when none.", metavar="NAME")]
Format = Literal["markdown", "latex", "csv", "json", "html"]


@app.command(epilog=f"Examples:\n\nanyphoto bench score MultiID-Bench --results pictures -o scores\n\nanyphoto bench "
             f"score evaluator_tree -o scores --face-pack buffalo_l\n\n{DOCS}")  # fmt: skip
def score(
    bench: Annotated[Path, typer.Argument(metavar="BENCH", help="Parquet, arrow, hf2bench's or the evaluator's folder, "
                                          "or a JSONL of cases.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of scores.", metavar="DIR")],
    results: Annotated[Path | None, typer.Option(help="Pictures: <id>.png or <id>/out.png. Without it the cases' own.",
                                                 metavar="DIR")] = None,
    face_pack: Annotated[list[str] | None, typer.Option(help="Face model; of several all count.", metavar="NAME|DIR")
                         ] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP's hub id or folder; none: no CLIP.", metavar="ID|DIR")] = None,
    aesthetic: Annotated[Literal["v2.5", "laion"] | None, typer.Option(help="Which aesthetic predictor.")] = None,
    aesthetic_head: Annotated[str | None, typer.Option(help="Its head's file.", metavar="FILE")] = None,
    aesthetic_encoder: Annotated[str | None, typer.Option(help="Another encoder for it.", metavar="ID|DIR")] = None,
    subset: Subset = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.", metavar="NAME")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Write cases.jsonl (a line a case, also of those that cannot be scored) and summary.json; print the summary.

    The same command goes on where it was cut off. Exit code 3: some cases have no picture, no face, or are broken.
    """
    console.hush_libraries(verbose)
    from anyphoto_cli.bench.cases import only_subsets, read_cases
    from anyphoto_cli.bench.evaluation import evaluate, open_models
    from anyphoto_cli.config.load import load_config

    given: dict[str, Any] = {
        "face_packs": face_pack or None, "aesthetic": aesthetic, "aesthetic_head": aesthetic_head,
        "aesthetic_encoder": aesthetic_encoder, "device": device, "clip": clip if clip != "none" else None,
    }  # fmt: skip
    config = load_config(BenchConfig, given=given)
    if clip == "none":
        config = config.model_copy(update={"clip": None})
    cases = only_subsets(read_cases(bench), tuple(subset or ()))
    if results is not None and not results.is_dir():
        raise InputError("no such folder", file=results, field="--results")
    listener = console.Terminal(quiet or as_json)
    listener.stage("Loading the face models and CLIP")
    summary = evaluate(cases, results, out, config, open_models(config, out / "seen"), listener)
    if as_json:
        console.document(summary)
    else:
        _tell(summary, out)
    whole = summary["subsets"].get("all", {})
    return 0 if whole.get("scored") == whole.get("cases") else 3


def _tell(summary: dict[str, Any], out: Path) -> None:
    from anyphoto_cli.bench.tables import SUBSET_NAMES, TITLES

    for name, part in summary["subsets"].items():
        left = {key: part[key] for key in ("no face", "missing", "broken") if part[key]}
        told = ", ".join(f"{count} {key}" for key, count in left.items())
        console.result(f"{SUBSET_NAMES.get(name, name)}: {part['scored']} of {part['cases']} cases scored"
                       f"{f' ({told})' if told else ''}")  # fmt: skip
        for metric, values in part["metrics"].items():
            if values["mean"] is not None:
                console.result(
                    f"  {TITLES[metric]:9} {values['mean']:7.3f}  [{values['low']:.3f}, {values['high']:.3f}]  "
                    f"n {values['n']}; {values['filtered_mean']:.3f} without {values['outliers']} outliers"
                )  # fmt: skip
        if part["coverage"] is not None:
            error = "n/a" if part["place_error"] is None else f"{part['place_error']:.3f} face heights"
            console.result(
                f"  found at their places {part['coverage']:.1%} of {part['expected_faces']}, off by {error}; "
                f"{part['swapped']} swapped, {part['duplicates']} doubled, {part['extra_faces']} more than asked"
            )  # fmt: skip
    for metric, reason in summary["not_available"].items():
        console.result(f"{TITLES[metric]}: n/a ({reason})")
    console.result(f"{out}/summary.json, {out}/cases.jsonl; faces by {', '.join(summary['face_models'])}")


@app.command(
    epilog=f"Examples:\n\nanyphoto bench table\n\nanyphoto bench table scores --format latex -o table.tex\n\n{DOCS}"
)
def table(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of scores.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How it is written.")] = "markdown",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file; else it is printed.", metavar="FILE")] = None,
    subset: Subset = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain means; else without outliers, as published.")] = False,
    published: Annotated[bool, typer.Option("--published/--no-published", help="The papers' rows.")] = True,
) -> int:
    """Runs beside the rows of the WithAnyone and AnyPhoto papers, ranked by their rules.

    The three best are marked; copy-paste is ranked only above a Sim(GT) of .40 (one person) or .35; GPT-4o-Image takes
    no part in similarity for three and four people; GT and Ref never do.
    """
    from anyphoto_cli.bench import tables
    from anyphoto_cli.bench.standing import tables_for

    for name in subset or ():
        if name not in tables.SUBSET_NAMES:
            raise InputError(f"{name!r} is no subset", field="--subset", remedy="Known: p1, p2, p3")
    made = tables_for(runs or [], subset or (), not plain, published)
    writers = {
        "markdown": tables.markdown,
        "latex": tables.latex,
        "csv": tables.comma_separated,
        "html": tables.as_html,
    }
    if form == "json":
        text = json.dumps([row for name, rows in made.items() for row in tables.as_json(rows, name)], indent=2) + "\n"
    else:
        headings = {"markdown": "## {}\n\n", "latex": "% {}\n", "csv": "", "html": "<h2>{}</h2>\n"}
        parts = [
            headings[form].format(tables.SUBSET_NAMES[name]) + writers[form](rows, name) for name, rows in made.items()
        ]
        text = "\n".join(parts)
    if out is None:
        for line in text.splitlines():
            console.result(line)
        return 0
    from anyphoto_cli.files.commit import committed

    with committed(out) as file:
        file.write(text.encode())
    console.result(str(out))
    return 0
