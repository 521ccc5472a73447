"""The shipped adapter: photos of the small world, made into shards and trained on by the product's own commands."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from anyphoto_cli.errors import InputError
from anyphoto_cli.mini.commands import echo, run_command
from anyphoto_cli.mini.pretrain.loop import STEPS as ASKED_STEPS
from anyphoto_cli.mini.pretrain.loop import Unfinished
from anyphoto_cli.model.adapter import CARD_FILE, LORA_FILE, PROJECTOR_FILE, read_card
from anyphoto_cli.runtime.devices import cores
from anyphoto_cli.train.checkpoint import ADAPTER_FOLDER

WORLD = ("--people", "1200", "--groups", "8000", "--references", "4", "--style", "any")
STEPS = 4000
SETTINGS = (
    "data.workers=0", "train_batch_size=8", "data.replacement_max=0.9", "lr_scheduler=cosine",
    "loss.face_on_dropped=false",
)  # fmt: skip
"""References here are always other photos than the target: training is asked the same question most of the time."""
FINISH_STEPS = 250
FINISH_SETTINGS = ("data.replacement=fixed", "learning_rate=0.0015", "loss.face_weight=0.5")
SHARE = 0.85
"""A short second run asks less for likeness, and gives faces the style of their picture back. All the way it costs too
much of the likeness; so the weights go this share of the way (arXiv 2109.01903).
"""
RUN, BEGUN = "run", "begun"
"""Below .mini/adapter. begun: an adapter to go on from, of an earlier base perhaps, where there is one."""
UNFINISHED = "unfinished"
"""A file below .mini/adapter from when its training begins until it is through."""
KEPT = (LORA_FILE, PROJECTOR_FILE, CARD_FILE, "training.yaml")


def train_adapter(folder: Path, device: str = "cpu", processes: int = 0, minutes: float | None = None) -> None:
    """Below `folder`/adapter; goes on where it stopped. minutes: end the command under way after that long. Raises
    Unfinished where one was ended so, EnvironmentFault where one fails.
    """
    out, steps = folder / "adapter", int(os.environ.get(ASKED_STEPS, STEPS))
    out.mkdir(parents=True, exist_ok=True)
    until = None if minutes is None else time.monotonic() + 60 * minutes
    (out / UNFINISHED).touch()

    def do(*words: str, launcher: Sequence[str] = ()) -> None:
        print(f"$ anyphoto {' '.join(words)}", flush=True)
        left = None if until is None else max(until - time.monotonic(), 0.0)
        try:
            run_command(out, words, launcher, echo, seconds=left)
        except TimeoutError:
            raise Unfinished(
                f"cut off in `anyphoto {words[0]}`", field="adapter", remedy="Run again to go on"
            ) from None

    do("mini", "photos", *WORLD, "-o", "world")
    do("preprocess", "world/photos.jsonl", "--refs", "world/refs", "-o", "data", "--config", "world/preprocess.yaml")
    do("train", "init", "--model", "mini", "--shards", "data", "-o", "run.yaml", "--output-dir", RUN, "--overwrite")
    ranks = 1 if device != "cpu" else processes or cores()
    settings = [*SETTINGS, *([f"adapter={BEGUN}"] if (out / BEGUN).is_dir() else [])]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    do("train", "run.yaml", f"max_train_steps={steps}", f"device={device}", *settings, launcher=launcher)
    settings = [*SETTINGS, *FINISH_SETTINGS, f"adapter={RUN}/{ADAPTER_FOLDER}", f"output_dir={finish_of(out).name}"]
    steps = min(FINISH_STEPS, steps)
    do("train", "run.yaml", f"max_train_steps={steps}", f"device={device}", *settings, launcher=launcher)
    (out / UNFINISHED).unlink()


def finish_of(out: Path) -> Path:
    """The second run of the adapter that stands in `out`/run now: a longer first run gets a second one of its own."""
    return out / f"finish-{read_card(out / RUN / ADAPTER_FOLDER).sha256[:12]}"


def export_adapter(folder: Path, out: Path) -> None:
    """The trained adapter as `anyphoto export` writes it, in float16, without what tells about a run.

    What lies in `out` goes only once that is written. Raises InputError where its training was cut off or is yet to be.
    """
    made = folder / "adapter"
    if (made / UNFINISHED).is_file():
        raise InputError("its training was cut off", file=made, remedy="Finish it first: --stages adapter")
    if not (made / RUN / ADAPTER_FOLDER).is_dir():
        raise InputError("no adapter was trained here", file=made, remedy="First: --stages adapter")
    way = ("--start", f"{RUN}/{ADAPTER_FOLDER}", "--share", str(SHARE))
    with TemporaryDirectory(dir=made) as temporary:
        new = Path(temporary, out.name).resolve()
        run_command(made, ("export", finish_of(made).name, "--to", str(new), *way, "--dtype", "float16"))
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(new, out, ignore=lambda _, names: {name for name in names if name not in KEPT})
