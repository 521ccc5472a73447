"""`anyphoto preprocess`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.options import Json, Quiet, Verbose, described
from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.preprocess import STAGES, PreprocessConfig, RunOptions

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
_EXAMPLES = f"""Examples:

anyphoto preprocess photos --refs refs -o data --captioner template

anyphoto preprocess photos --discover -o data --captioner openai --caption-url http://127.0.0.1:8000/v1

anyphoto preprocess MultiID-2M/train_cp --refs MultiID-2M/ref -o data --stages detect,match

{DOCS}"""


def _key(name: str, *names: str, **more: Any) -> Any:
    return described(PreprocessConfig, name, *names, **more)


def _option(name: str, **more: Any) -> Any:
    return described(RunOptions, name, **more)


@app.command(epilog=_EXAMPLES, no_args_is_help=True)
def preprocess(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Folders of photos, webdataset tars, .jsonl or .parquet.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", metavar="DIR")],
    refs: Annotated[
        Path | None, typer.Option("--refs", help="Known faces: DIR/NAME/*.jpg, or MultiID-2M's ref.", metavar="DIR")
    ] = None,
    discover: Annotated[bool, _key("discover", "--discover")] = False,
    exclude: Annotated[
        Path | None,
        typer.Option("--exclude", help="Identities and sources that must not be in the data.", metavar="FILE"),
    ] = None,
    stages: Annotated[str, typer.Option(help="Which to run.", metavar="NAME,...")] = ",".join(STAGES),
    person_model: Annotated[str | None, _key("person_model", metavar="NAME|FILE")] = None,
    face_pack: Annotated[
        str | None, _key("face_pack", "--face-pack", metavar="NAME|DIR", envvar="ANYPHOTO_FACE_PACK")
    ] = None,
    match_threshold: Annotated[float | None, _key("match_threshold")] = None,
    captioner: Annotated[str | None, _key("captioner", metavar="NAME")] = None,
    caption_model: Annotated[str | None, _key("caption_model", metavar="ID|DIR")] = None,
    caption_url: Annotated[str | None, _key("caption_url", metavar="URL")] = None,
    caption_file: Annotated[str | None, _key("caption_file", metavar="FILE")] = None,
    train_size: Annotated[int | None, _key("train_size", metavar="PX")] = None,
    patch_size: Annotated[int | None, _key("patch_size", metavar="PX")] = None,
    shard_size: Annotated[int | None, _key("shard_size", metavar="N")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="ANYPHOTO_PREPROCESS_CONFIG",
            help="A YAML file with keys of the configuration.",
            metavar="FILE",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            envvar="ANYPHOTO_PREPROCESS_SET",
            help="Any other key of the configuration: --set min_face=64.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    executor: Annotated[str | None, _option("executor", metavar="local|ray")] = None,
    ray_address: Annotated[str | None, _option("ray_address", metavar="ADDRESS")] = None,
    workers: Annotated[int | None, _option("workers", metavar="N")] = None,
    device: Annotated[str | None, _option("device")] = None,
    batch: Annotated[int | None, _option("batch", metavar="N")] = None,
    caption_concurrency: Annotated[int | None, _option("caption_concurrency", metavar="N")] = None,
    max_failed: Annotated[float | None, _option("max_failed", metavar="SHARE")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed photos and captions again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at 100 photos, estimate hours and disk, write nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Turn photos and known faces into captioned training shards: persons, faces, identities, captions.

    The same command goes on where it was cut off. Photos are never written, moved or deleted. Exit code 3: some photos
    could not be read; report.jsonl says which and why.
    """
    console.hush_libraries(verbose)
    given = dict(person_model=person_model, face_pack=face_pack, match_threshold=match_threshold, captioner=captioner,
                 caption_model=caption_model, caption_url=caption_url, caption_file=caption_file,
                 train_size=train_size, patch_size=patch_size, shard_size=shard_size,
                 discover=discover or None)  # fmt: skip
    how = dict(executor=executor, ray_address=ray_address, workers=workers, device=device, batch=batch,
               caption_concurrency=caption_concurrency, max_failed=max_failed)  # fmt: skip
    config = load_config(PreprocessConfig, file, given, settings or [])
    options = load_config(RunOptions, given=how)
    listener = console.Terminal(quiet or as_json)
    wanted = [stage.strip() for stage in stages.split(",") if stage.strip()]
    if dry_run:
        from anyphoto_cli.preprocess.estimate import estimate

        guess = estimate(sources, refs, config, options, out=out, stages=wanted, exclude=exclude, listener=listener)
        _show_estimate(guess, as_json)
        return 0
    from anyphoto_cli.preprocess import run

    done = run(sources, out, refs, config, options, stages=wanted, exclude=exclude, retry_failed=retry_failed,
               listener=listener)  # fmt: skip
    if as_json:
        console.document({**asdict(done), "folder": str(done.folder)})
    else:
        _show(done, wanted)
    return 3 if done.failed else 0


def _show(done: Any, stages: list[str]) -> None:
    if not done.finished:
        console.result(f"{done.folder}: {', '.join(stages)} of {done.photos} photos done")
        return
    failed = f", failed {done.failed}" if done.failed else ""
    people, shards = console.counted(done.identities, "person", "people"), console.counted(done.shards, "shard")
    console.result(f"{done.folder}/shards: {done.kept} of {done.photos} photos, {people}, {shards} "
                   f"(dropped {done.dropped}{failed})")  # fmt: skip
    for reason, count in done.reasons[:5]:
        console.result(f"  {count} x {reason}")
    if done.failed:
        console.result("  Those that failed, again: the same command with --retry-failed")
    console.result(f"{done.folder}/report.html")


def _show_estimate(guess: Any, as_json: bool) -> None:
    if as_json:
        console.document(asdict(guess))
        return
    for line in guess.lines():
        console.result(line)
