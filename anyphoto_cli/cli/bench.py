"""`anyphoto bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.default_group import default_group
from anyphoto_cli.cli.options import Json, Quiet, Verbose, described
from anyphoto_cli.config.bench import PROTOCOLS, BenchConfig, RunConfig
from anyphoto_cli.config.load import load_config
from anyphoto_cli.errors import InputError

app = default_group("score", "Render and score MultiID-Bench, and lay runs beside the published rows.")
Subset = Annotated[list[str] | None, typer.Option("--subset", help="p1, p2 or p3; all when none.", metavar="NAME")]
Format = Literal["markdown", "latex", "csv", "json", "html"]


Bench = Annotated[Path, typer.Argument(metavar="BENCH", help="Parquet, arrow, hf2bench's or the evaluator's folder, or "
                                       "a JSONL of cases.")]  # fmt: skip
Protocol = Annotated[Literal["anyphoto", "withanyone"], typer.Option("--protocol", help="withanyone: three face models "
                     "pooled and references padded, as the published rows were made.")]  # fmt: skip
Scorer = Annotated[list[str] | None, typer.Option("--face-pack", help="Face model that judges; of several all count.",
                                                  metavar="NAME|DIR")]  # fmt: skip
ClipModel = Annotated[str | None, typer.Option("--clip", help="CLIP's hub id or folder; none: no CLIP.",
                                               metavar="ID|DIR")]  # fmt: skip
Aesthetic = Annotated[Literal["v2.5", "laion"] | None, typer.Option("--aesthetic", help="Which aesthetic predictor.")]
Head = Annotated[str | None, typer.Option("--aesthetic-head", help="Its head's file.", metavar="FILE")]
Encoder = Annotated[str | None, typer.Option("--aesthetic-encoder", help="Another encoder for it.", metavar="ID|DIR")]
Precision = Annotated[Literal["float32", "bfloat16"] | None, described(BenchConfig, "precision")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda.", metavar="NAME")]


@app.command(epilog=f"Examples:\n\nanyphoto bench score MultiID-Bench --results pictures -o scores\n\nanyphoto bench "
             f"score evaluator_tree -o scores --face-pack buffalo_l\n\n{DOCS}")  # fmt: skip
def score(
    bench: Bench,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of scores.", metavar="DIR")],
    results: Annotated[Path | None, typer.Option(help="Pictures: <id>.png or <id>/out.png. Without it the cases' own.",
                                                 metavar="DIR")] = None,
    protocol: Protocol = "anyphoto",
    face_pack: Scorer = None,
    clip: ClipModel = None,
    aesthetic: Aesthetic = None,
    aesthetic_head: Head = None,
    aesthetic_encoder: Encoder = None,
    precision: Precision = None,
    subset: Subset = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one, on a CPU one for four cores.",
                                                metavar="N", min=1)] = None,
    device: Device = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Write cases.jsonl (a line a case, also of those that cannot be scored) and summary.json; print the summary.

    The same command goes on where it was cut off. Exit code 3: some cases have no picture, no face, or are broken.
    """
    console.hush_libraries(verbose)
    from anyphoto_cli.bench.cases import only_subsets, read_cases
    from anyphoto_cli.bench.results import need_folder

    config = _scoring(protocol, face_pack, clip, aesthetic, aesthetic_head, aesthetic_encoder, precision, device)
    cases = only_subsets(read_cases(bench), tuple(subset or ()))
    if results is not None and not results.is_dir():
        raise InputError("no such folder", file=results, field="--results")
    need_folder(out)
    return _score(cases, results, out, config, {}, console.Terminal(quiet or as_json), as_json, workers)


_RUN = f"""Examples:

anyphoto bench run MultiID-Bench -o run --model flux-dev --adapter my-adapter

anyphoto bench run MultiID-Bench -o kontext --system flux-kontext --shard 1/8 --no-score

{DOCS}"""


@app.command(epilog=_RUN)
def run(
    bench: Bench,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of this run.", metavar="DIR")],
    system: Annotated[str | None, described(RunConfig, "system", metavar="NAME")] = None,
    model: Annotated[str | None, described(RunConfig, "model", metavar="NAME|ID|DIR")] = None,
    adapter: Annotated[str | None, described(RunConfig, "adapter", metavar="DIR|ID")] = None,
    model_face_pack: Annotated[str | None, described(RunConfig, "model_face_pack", metavar="NAME|DIR")] = None,
    layout_from: Annotated[Literal["gt", "reference"] | None, described(RunConfig, "layout_from")] = None,
    side: Annotated[int | None, described(RunConfig, "side", metavar="PX")] = None,
    seed: Annotated[int | None, described(RunConfig, "seed")] = None,
    steps: Annotated[int | None, described(RunConfig, "steps")] = None,
    guidance_scale: Annotated[float | None, described(RunConfig, "guidance_scale")] = None,
    strength: Annotated[float | None, described(RunConfig, "strength")] = None,
    dtype: Annotated[str | None, described(RunConfig, "dtype")] = None,
    memory: Annotated[str | None, described(RunConfig, "memory")] = None,
    shard: Annotated[str, typer.Option(help="The i-th of n shares of the cases.", metavar="I/N")] = "1/1",
    executor: Annotated[Literal["local", "ray"], typer.Option(help="Workers on this machine, or a Ray cluster whose "
                                                              "machines all see the folders.")] = "local",
    workers: Annotated[int | None, typer.Option(help="Default: one a GPU, or one; for scores as `score`.", metavar="N",
                                                min=1)
                       ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Of the cluster; default: Ray's own.", metavar="HOST:PORT")
                           ] = None,
    scored: Annotated[
        bool,
        typer.Option(
            "--score/--no-score", envvar="ANYPHOTO_BENCH_RUN_SCORE", help="Score when all pictures are there."
        ),
    ] = True,
    protocol: Protocol = "anyphoto",
    face_pack: Scorer = None,
    clip: ClipModel = None,
    aesthetic: Aesthetic = None,
    aesthetic_head: Head = None,
    aesthetic_encoder: Encoder = None,
    precision: Precision = None,
    subset: Subset = None,
    device: Device = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Render the benchmark's missing pictures, then score them, as `score` does, into DIR/scores.

    The same command goes on where it was cut off; several shares may run at once, into the same folder.
    """
    console.hush_libraries(verbose)
    from anyphoto_cli.bench.cases import only_subsets, read_cases
    from anyphoto_cli.bench.results import SCORES
    from anyphoto_cli.bench.running import refusals, render_cases, with_places
    from anyphoto_cli.runtime.devices import free_workers, on_cuda

    given = {
        "system": system, "model": model, "adapter": adapter, "model_face_pack": model_face_pack,
        "layout_from": layout_from, "side": side, "seed": seed, "steps": steps, "guidance_scale": guidance_scale,
        "strength": strength, "device": device, "dtype": dtype, "memory": memory,
    }  # fmt: skip
    config = load_config(RunConfig, given=given)
    scoring = _scoring(protocol, face_pack, clip, aesthetic, aesthetic_head, aesthetic_encoder, precision, device)
    cases = only_subsets(read_cases(bench), tuple(subset or ()))
    listener = console.Terminal(quiet or as_json)
    on_gpus = executor == "local" and free_workers("cuda") if on_cuda(config.device) else 1
    refused = render_cases(
        cases, out, config, shard=_share(shard), executor=executor, workers=workers or on_gpus or 1,
        ray_address=ray_address, listener=listener,
    )  # fmt: skip
    if refused:
        listener.caution(f"{refused} cases could not be rendered; why stands in {out}/refused")
    if not scored or shard != "1/1":
        console.result(f"{out}/pictures")
        return 3 if refused else 0
    placed = with_places(cases, out)
    why = refusals(out, cases.cases)
    return _score(placed, out / "pictures", out / SCORES, scoring, why, listener, as_json, workers)


def _scorers(device: str) -> int:
    """Each process holds all models, and four threads of one serve a model well: one for four cores, up to four."""
    from anyphoto_cli.runtime.devices import free_workers, on_cuda

    return 1 if on_cuda(device) else max(min(free_workers("cpu") // 4, 4), 1)


def _share(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise InputError(f"{text!r} is no share", field="--shard", remedy="Give 1/4, 2/4, 3/4, 4/4")
    return int(index), int(count)


def _scoring(
    protocol: str, face_packs: list[str] | None, clip: str | None, aesthetic: str | None, head: str | None,
    encoder: str | None, precision: str | None, device: str | None,
) -> BenchConfig:  # fmt: skip
    given: dict[str, Any] = {
        "face_packs": face_packs or None, "aesthetic": aesthetic, "aesthetic_head": head,
        "aesthetic_encoder": encoder, "device": device, "precision": precision,
        "clip": clip if clip != "none" else None,
    }  # fmt: skip
    config = load_config(BenchConfig, given=PROTOCOLS[protocol] | {k: v for k, v in given.items() if v is not None})
    return config.model_copy(update={"clip": None}) if clip == "none" else config


def _score(
    cases: Any, results: Path | None, out: Path, config: BenchConfig, refused: dict[str, str],
    listener: console.Terminal, as_json: bool, workers: int | None,
) -> int:  # fmt: skip
    from anyphoto_cli.bench.evaluation import evaluate
    from anyphoto_cli.bench.models import open_models
    from anyphoto_cli.bench.report import write_report
    from anyphoto_cli.bench.results import all_lines
    from anyphoto_cli.bench.standing import run_name
    from anyphoto_cli.config.home import anyphoto_home

    listener.stage("Loading the face models and CLIP")
    cache = anyphoto_home() / "bench"
    summary = evaluate(cases, results, out, config, open_models(config, cache), listener, refused,
                       workers or _scorers(config.device), cache)  # fmt: skip
    listener.stage("Writing the report")
    title = f"MultiID-Bench: {run_name(out)}"
    write_report(out / "report.html", title, cases.cases, results, all_lines(out), summary)
    if as_json:
        console.document(summary)
    else:
        _tell(summary, out)
    whole = summary["subsets"].get("all", {})
    return 0 if whole.get("scored") == whole.get("cases") else 3


def _tell(summary: dict[str, Any], out: Path) -> None:
    from anyphoto_cli.bench.footnotes import people_told
    from anyphoto_cli.bench.rows import SUBSET_NAMES, TITLES
    from anyphoto_cli.bench.standing import counts_of

    for name, part in summary["subsets"].items():
        left = {key: part[key] for key in ("no face", "missing", "broken") if part[key]}
        told = ", ".join(f"{count} {key}" for key, count in left.items())
        console.result(f"{SUBSET_NAMES.get(name, name)}: {part['scored']} of {part['cases']} cases scored"
                       f"{f' ({told})' if told else ''}")  # fmt: skip
        for metric, values in part["metrics"].items():
            if values["mean"] is not None:
                outliers = console.counted(values["outliers"], "outlier")
                console.result(
                    f"  {TITLES[metric]:9} {values['mean']:7.3f}  [{values['low']:.3f}, {values['high']:.3f}]  "
                    f"n {values['n']}; {values['filtered_mean']:.3f} without {outliers}"
                )  # fmt: skip
                if len(values["by_model"]) > 1:
                    each = ", ".join(f"{name} {_three(mean)}" for name, mean in values["by_model"].items())
                    console.result(f"            {each}")
        if who := people_told(counts_of(part)):
            console.result(f"  {who}")
    for metric, reason in summary["not_available"].items():
        console.result(f"{TITLES.get(metric, metric)}: n/a ({reason})")
    console.result(
        f"{out}/report.html, {out}/summary.json, {out}/cases.jsonl; faces by {', '.join(summary['face_models'])}"
    )


def _three(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


@app.command(
    epilog=f"Examples:\n\nanyphoto bench table\n\nanyphoto bench table scores --format latex -o table.tex\n\n{DOCS}"
)
def table(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of scores.")] = None,
    form: Annotated[
        Format, typer.Option("--format", envvar="ANYPHOTO_BENCH_TABLE_FORMAT", help="How it is written.")
    ] = "markdown",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file; else it is printed.", metavar="FILE")] = None,
    subset: Subset = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain means; else without outliers, as published.")] = False,
    published: Annotated[bool, typer.Option("--published/--no-published", help="The papers' rows.")] = True,
    ablation: Annotated[bool, typer.Option("--ablation", help="The paper's Tables 2, A and B instead; runs named like "
                                           "the presets of train stand below its rows.")] = False,
) -> int:  # fmt: skip
    """Runs beside the rows of the WithAnyone and AnyPhoto papers, ranked by their rules.

    The three best are marked; copy-paste is ranked only above a Sim(GT) of .40 (one person) or .35; GPT-4o-Image takes
    no part in similarity for three and four people; GT and Ref never do. Ablations are of three and four people
    (another --subset for the runs), and not ranked.
    """
    from anyphoto_cli.bench import tables
    from anyphoto_cli.bench.rows import SUBSET_NAMES
    from anyphoto_cli.bench.standing import rows_for, tables_for

    for name in subset or ():
        if name not in SUBSET_NAMES:
            raise InputError(f"{name!r} is no subset", field="--subset", remedy="Known: p1, p2, p3")
    if ablation:
        if len(subset or ()) > 1 or not published:
            told = ("--subset", "takes one") if published else ("--no-published", "leaves nothing to lay runs beside")
            raise InputError(f"with --ablation {told[1]}", field=told[0])
        ours = rows_for((subset or ["p3"])[0], runs or [], not plain, with_published=False)
        made = [(title, tables.ABLATION, rows) for title, rows in tables.ablation_tables(ours).items()]
    else:
        found = tables_for(runs or [], subset or (), not plain, published)
        made = [(SUBSET_NAMES[name], name, rows) for name, rows in found.items()]
    _write_out(_as_text(made, form), out)
    return 0


def _as_text(made: list[tuple[str, str, Any]], form: Format) -> str:
    """made: (title, subset, rows) of each table."""
    from anyphoto_cli.bench import tables

    if form == "json":
        rows = [row | {"table": title} for title, name, rows in made for row in tables.as_json(rows, name)]
        return json.dumps(rows, indent=2) + "\n"
    if form == "csv":  # one table for programs, whatever it is of
        return "".join(tables.comma_separated(rows, name, head=not k) for k, (_, name, rows) in enumerate(made))
    if form == "html":
        return tables.page([f"<h2>{title}</h2>\n{tables.as_html(rows, name)}" for title, name, rows in made])
    writers = {
        "markdown": ("## {}\n\n", tables.markdown), "latex": ("% {}\n", tables.latex),
    }  # fmt: skip
    heading, write = writers[form]
    return "\n".join(heading.format(title) + write(rows, name) for title, name, rows in made)


def _write_out(text: str, out: Path | None) -> None:
    if out is None:
        for line in text.splitlines():
            console.result(line)
        return
    from anyphoto_cli.files.commit import committed

    with committed(out) as file:
        file.write(text.encode())
    console.result(str(out))


@app.command(epilog=f"Example: anyphoto bench chart run1 run2 -o charts\n\n{DOCS}")
def chart(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of scores, or of `bench run`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder.", metavar="DIR")] = Path("charts"),
    plain: Annotated[bool, typer.Option("--plain", help="Plain means; else without outliers, as published.")] = False,
) -> int:
    """Write scatter.png (likeness against copy-paste) and bars.png (every subset), runs beside the papers' systems."""
    from anyphoto_cli.bench.charts import write_charts

    for file in write_charts(runs, out, not plain):
        console.result(str(file))
    return 0
