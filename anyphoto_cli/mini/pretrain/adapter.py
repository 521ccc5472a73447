"""The shipped adapter: photos of the small world, made into shards and trained on by the product's own commands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from anyphoto_cli.mini.commands import run_command
from anyphoto_cli.mini.pretrain.loop import STEPS as ASKED_STEPS

WORLD = ("--people", "1200", "--groups", "8000", "--references", "4", "--style", "any")
STEPS = 4000
SETTINGS = (
    "data.workers=0", "train_batch_size=8", "data.replacement_max=0.9", "lr_scheduler=cosine",
)  # fmt: skip
"""References here are always other photos than the target: training is asked the same question most of the time."""
RUN, BEGUN = "run", "begun"
"""Below .mini/adapter. begun: an adapter to go on from, of an earlier base perhaps, where there is one."""


def train_adapter(folder: Path, device: str = "cpu", processes: int = 0) -> None:
    """Below `folder`/adapter; goes on where it stopped. Raises EnvironmentFault where a command fails."""
    out, steps = folder / "adapter", int(os.environ.get(ASKED_STEPS, STEPS))
    out.mkdir(parents=True, exist_ok=True)

    def do(*words: str, launcher: Sequence[str] = ()) -> None:
        print(f"$ anyphoto {' '.join(words)}", flush=True)
        run_command(out, words, launcher)

    do("mini", "photos", *WORLD, "-o", "world")
    do("preprocess", "world/photos.jsonl", "--refs", "world/refs", "-o", "data", "--config", "world/preprocess.yaml")
    do("train", "init", "--model", "mini", "--shards", "data", "-o", "run.yaml", "--output-dir", RUN, "--overwrite")
    ranks = 1 if device != "cpu" else processes or len(os.sched_getaffinity(0))
    settings = [*SETTINGS, *([f"adapter={BEGUN}"] if (out / BEGUN).is_dir() else [])]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    do("train", "run.yaml", f"max_train_steps={steps}", f"device={device}", *settings, launcher=launcher)


def export_adapter(folder: Path, out: Path) -> None:
    """The trained adapter as `anyphoto export` writes it, in float16, without what tells about a run."""
    from anyphoto_cli.train.export import export

    shutil.rmtree(out, ignore_errors=True)
    export(folder / "adapter" / RUN, out, name="anyphoto-mini", dtype="float16")
    for file in out.iterdir():
        if file.name not in KEPT:
            shutil.rmtree(file) if file.is_dir() else file.unlink()


KEPT = ("pytorch_lora_weights.safetensors", "id_projector.safetensors", "anyphoto.json", "training.yaml")
