"""`anyphoto train`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.default_group import default_group
from anyphoto_cli.cli.options import Json, Quiet, Verbose
from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import AnyPhotoError, InputError

app = default_group("run", "Train location LoRA and identity projector on shards that preprocess wrote.")
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file: see `anyphoto train init`.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it: max_train_steps=500 data.workers=4."),
]
Preset = Annotated[
    str | None, typer.Option("--preset", help="An ablation of the paper; see `anyphoto train presets`.", metavar="NAME")
]


def _config(file: Path, settings: list[str] | None, preset: str | None) -> TrainConfig:
    changed: dict[str, Any] = {}
    if preset is not None:
        from anyphoto_cli.train.presets import preset as changes

        changed = changes(preset)
    return load_config(TrainConfig, file, settings=settings or [], under=changed, option="")


def _first() -> bool:
    """Whether this process is the one that speaks, of those that torchrun starts. A RANK alone is no launch."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


@contextmanager
def _by_its_key() -> Iterator[None]:
    """What others name by an option of theirs is a key of the configuration here."""
    try:
        yield
    except AnyPhotoError as error:
        key = error.field.removeprefix("--").replace("-", "_")
        if error.field.startswith("--") and key in TrainConfig.model_fields:
            raise type(error)(error.what, file=error.file, field=key, remedy=error.remedy) from error
        raise


@app.command(epilog=f"Examples:\n\nanyphoto train run.yaml\n\nanyphoto train run.yaml max_train_steps=500 --preset "
             f"no-modulation\n\ntorchrun --nproc-per-node 8 -m anyphoto_cli train run.yaml\n\n{DOCS}")  # fmt: skip
def run(
    config: Config,
    settings: Settings = None,
    preset: Preset = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where output_dir stands, if it does.")
    ] = True,
    allow_changes: Annotated[
        str | None,
        typer.Option("--allow-changes", help="Go on with other values of these than so far.", metavar="KEY,..."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run would be and need; train nothing.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> int:
    """Train to max_train_steps and write the adapter that `anyphoto generate --adapter` takes.

    The same command goes on where it was cut off, bit for bit on a CPU. SIGTERM, SIGINT and SIGUSR1 end it after the
    step under way, with a checkpoint: exit code 143, 130, 138.
    """
    console.hush_libraries(verbose)
    parsed = _config(config, settings, preset)
    listener = console.Terminal(quiet or as_json or not _first())
    if dry_run:
        from anyphoto_cli.train.estimate import estimate

        with _by_its_key():
            guess = estimate(parsed, listener)
        if as_json and _first():
            console.document(asdict(guess))
        for line in guess.lines() if _first() and not as_json else []:
            console.result(line)
        return 0
    from anyphoto_cli.runtime.signals import stop_on_signals
    from anyphoto_cli.train.loop import run as train

    allowed = [key.strip() for key in (allow_changes or "").split(",") if key.strip()]
    with stop_on_signals() as stop, _by_its_key():
        done = train(parsed, resume=resume, allow_changes=allowed, listener=listener, stop=stop)
    if not _first():
        return 0 if done.finished else 128 + done.signal
    if as_json:
        console.document({**asdict(done), "folder": str(done.folder), "adapter": str(done.adapter)})
    elif done.finished:
        loss = "" if done.loss is None else f", loss {done.loss:.4f}"
        console.result(f"{done.adapter}: trained for {done.step} steps{loss}")
        pack = f" --face-pack {parsed.face_pack}" if parsed.face_pack else ""
        console.result(f"Render: anyphoto generate LAYOUT.json --model {parsed.model}{pack} --adapter {done.adapter}")
    else:
        console.result(f"{done.folder}: stopped at step {done.step}; the same command goes on")
    return 0 if done.finished else 128 + done.signal


@app.command(epilog=f"Example: anyphoto train init --shards data -o run.yaml\n\n{DOCS}")
def init(
    out: Annotated[Path, typer.Option("--out", "-o", help="The YAML file to write.", metavar="FILE")],
    shards: Annotated[
        list[Path] | None,
        typer.Option(help="What preprocess wrote; may be given several times. Default: data.", metavar="DIR"),
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where the run will go.", metavar="DIR")] = Path("run"),
    model: Annotated[str, typer.Option(help="Base model.", metavar="NAME|ID|DIR")] = "flux-dev",
    face_pack: Annotated[
        str | None,
        typer.Option(help="The face models of preprocess, where they are not the base's own.", metavar="NAME|DIR"),
    ] = None,
    preset: Preset = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> int:
    """Write a configuration with every key, its default, and where that comes from.

    With --model mini the sizes fit the small world: pictures of 128 px, patches of 112 px, a run of minutes.
    """
    from anyphoto_cli.config.train_file import config_text
    from anyphoto_cli.files.commit import committed
    from anyphoto_cli.train.presets import preset as changes

    if out.exists() and not overwrite:
        raise InputError("exists", file=out, field="--out", remedy="Name another file, or give --overwrite")
    folders = [str(folder) for folder in shards or ("data",)]
    told = folders[0] if len(folders) == 1 else folders
    given: dict[str, Any] = {"output_dir": str(output_dir), "data.shards": told, "model": model}
    if face_pack is not None:
        given["face_pack"] = face_pack
    if model in ("mini", "tiny-random"):
        given |= {
            "data.resolution": 128, "method.patch_size": 112, "method.lora_rank": 32, "max_train_steps": 2000,
            "train_batch_size": 8, "learning_rate": 2e-3, "lr_scheduler": "cosine", "lr_warmup_steps": 50,
            "checkpointing_steps": 200, "gradient_checkpointing": False, "loss.face_margin": 8,
            # Drawn people can be told apart at sizes at which photos of people cannot.
            "loss.face_least_eyes": 8.0,
            # Who somebody is must be settled in the noise: docs/train.md.
            "loss.face_weight": 2.0, "loss.time_mean": 1.0,
        }  # fmt: skip
    given |= changes(preset) if preset else {}
    with committed(out) as file:
        file.write(config_text(given).encode())
    console.result(str(out))
    return 0


@app.command(epilog=f"Example: anyphoto train preview run.yaml -o preview.png\n\n{DOCS}")
def preview(
    config: Config,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.", metavar="PNG")],
    settings: Settings = None,
    step: Annotated[int, typer.Option(help="As the data is at this step of the run.", metavar="N")] = 0,
    rows: Annotated[int, typer.Option(help="Samples.", metavar="N", min=1, max=64)] = 6,
    degradations: Annotated[
        bool, typer.Option("--degradations", help="One reference after each degradation instead, by name.")
    ] = False,
) -> int:
    """Draw what the model will see: pictures with their faces, canvases, replaced and degraded references."""
    from anyphoto_cli.train.contact_sheet import write_contact_sheet, write_degradations

    parsed = _config(config, settings, None)
    if degradations:
        write_degradations(parsed, out)
    else:
        write_contact_sheet(parsed, out, step, rows)
    console.result(str(out))
    return 0


@app.command(epilog=f"Example: anyphoto train plot run -o curves.html\n\n{DOCS}")
def plot(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's output_dir, finished or not.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="A page or a picture: .html or .png; default: RUN/curves.html.", metavar="FILE"
        ),
    ] = None,
) -> int:
    """Draw a run's curves as one offline page or a picture: losses, cosines, validation, gradient norm, speed."""
    from anyphoto_cli.train.plots import write_plots

    target = out or folder / "curves.html"
    shown = write_plots(folder, target)
    console.result(f"{target}: {console.counted(shown, 'line')} of metrics")
    return 0


@app.command(epilog=f"Examples:\n\nanyphoto train sweep sweep.yaml --dry-run\n\nanyphoto train sweep sweep.yaml --only "
             f"2/8\n\n{DOCS}")  # fmt: skip
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="A YAML file: config, output_dir, vary.")],
    settings: Settings = None,
    only: Annotated[str | None, typer.Option(help="The i-th of n parts: one job each.", metavar="I/N")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs; train nothing.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Train every combination of a few keys in turn, and write one table: sweep.csv.

    The same command passes over what is finished and goes on with what was cut off.
    """
    console.hush_libraries(verbose)
    from anyphoto_cli.train.sweep import plan, shared, write_table
    from anyphoto_cli.train.sweep import sweep as train_all

    planned = plan(file, settings or [])
    mine = shared(planned, only)
    if dry_run:
        for one in mine if _first() else []:
            console.result(f"{one.config.output_dir}{' (finished)' if one.finished else ''}")
        return 0
    from anyphoto_cli.runtime.signals import stop_on_signals

    with stop_on_signals() as stop:
        finished, signal = train_all(mine, console.Terminal(quiet), stop)
    if _first():
        console.result(f"{write_table(planned)}: {len(finished)} of {len(mine)} runs are finished")
    return 0 if len(finished) == len(mine) else 128 + signal


@app.command()
def presets() -> int:
    """List the paper's ablations."""
    from anyphoto_cli.train.presets import PRESETS

    for name, (told, changes) in PRESETS.items():
        listed = " ".join(f"{key}={str(value).lower()}" for key, value in changes.items())
        console.result(f"{name:18} {told}{f': {listed}' if listed else ''}")
    return 0
