"""The whole life of a model in the small world, by the product's own commands: `anyphoto mini demo`.

Photos and a bank of known faces, shards, some steps of training, a layout in two styles, the benchmark, and one page
that shows all of it. Every command goes on where it was cut off, and so does the demo.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.command_line import refuse_below
from anyphoto_cli.mini.commands import run_command
from anyphoto_cli.mini.proof import save_untrained
from anyphoto_cli.model.adapter import CARD_FILE
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.runtime.run_record import keep_options, read_record

PAGE = "index.html"
SECONDS = "seconds.json"
"""Command -> what it took, and whether it was through."""
UNTRAINED = "untrained"
STYLES = {"photo": "a photo of", "watercolour": "a watercolour painting of"}
"""Name of the layout -> how its prompt begins."""
PEOPLE, WHERE = ("", "one person", "two people", "three people", "four people"), "in a park"


@dataclass(frozen=True)
class Done:
    """page: the file to open. commands: what was run, as one would type it below `out`, and its seconds, of all calls
    until it was through.
    """

    page: Path
    commands: tuple[tuple[str, float], ...]


def run_demo(out: Path, steps: int = 40, listener: Listener | None = None) -> Done:
    """Write everything below `out`, the page last. steps: of training, on from the adapter that came with the package.

    Raises InputError for other steps than those that the demo in `out` began with, EnvironmentFault where a package is
    missing, or a command fails, with its last line.
    """
    listener = listener or Listener()
    refuse_below(1, "--steps", steps)
    if out.exists() and not out.is_dir():
        raise InputError("is no folder", file=out, field="--out", remedy="Name a new one")
    _need_packages()
    out.mkdir(parents=True, exist_ok=True)
    keep_options(out, "demo", {"steps": steps}, begun=(out / "run").is_dir())
    told: list[tuple[str, float]] = []

    def do(*words: str) -> None:
        command = f"anyphoto {' '.join(words)}"
        listener.stage(command)
        told.append((command, _run_timed(out, command, words)))

    do("mini", "photos", "--people", "24", "--groups", "96", "-o", "world")
    do("preprocess", "world/photos.jsonl", "--refs", "world/refs", "-o", "data", "--config", "world/preprocess.yaml")
    do("train", "init", "--model", "mini", "--shards", "data", "-o", "run.yaml", "--output-dir", "run", "--overwrite")
    adapter = shipped.adapter_folder()
    begin = [f"adapter={adapter}", "lr_scheduler=constant", "learning_rate=0.0003"] if adapter else []
    often = ("logging_steps=5", "data.workers=0")
    do("train", "run.yaml", f"max_train_steps={steps}", *often, *begin)
    do("mini", "photos", "--people", "12", "--groups", "12", "--held-out", "--layouts", "-o", "held_out")
    write_layouts(out / "held_out", out / "layouts")
    do("layout", "preview", "layouts/photo.json", "--face-pack", "mini", "-o", "layout.png")
    do("generate", "layouts", "-o", "pictures", "--adapter", "run/adapter")
    judged = ("--face-pack", "mini", "--clip", "none")
    do("bench", "run", "held_out/cases.jsonl", "-o", "alone", "--system", "flux", "--model", "mini", *judged)
    listener.stage("Making an adapter that has learned nothing")
    if not (out / UNTRAINED / CARD_FILE).is_file():
        save_untrained(out / "run" / "adapter", out / UNTRAINED)
    begun_from = {"as-it-came": str(adapter.resolve())} if adapter else {}
    for name, of in {"nothing-learned": UNTRAINED, **begun_from, "trained": "run/adapter"}.items():
        do("bench", "run", "held_out/cases.jsonl", "-o", name, "--adapter", of, *judged)
    listener.stage("Writing the page")
    with committed(out / PAGE) as file:
        file.write(page(out, told))
    return Done(out / PAGE, tuple(told))


def _run_timed(out: Path, command: str, words: Sequence[str]) -> float:
    """Its seconds, with those of calls that were cut off; once it was through, those it took until then."""
    file = out / SECONDS
    known = read_record(out, SECONDS)
    spent = known.get(command, {"seconds": 0.0, "through": False})
    began, through = time.monotonic(), False
    try:
        run_command(out, words)
        through = True
    finally:
        if not spent["through"]:
            spent = {"seconds": spent["seconds"] + time.monotonic() - began, "through": through}
            with committed(file) as written:
                written.write((json.dumps({**known, command: spent}, indent=1) + "\n").encode())
    return float(spent["seconds"])


def _need_packages() -> None:
    """Raises EnvironmentFault for what a later command would miss."""
    wanted = ("imagehash", "webdataset", "jinja2", "matplotlib", "tensorboard")
    if missing := [name for name in wanted if find_spec(name) is None]:
        remedy = 'Run: pip install "anyphoto[preprocess,train,bench]"'
        raise EnvironmentFault(f"the demo needs {missing[0]}", remedy=remedy)


def write_layouts(held_out: Path, folder: Path) -> None:
    """The places of the first drawn photo of three people, as layouts in two styles, with their references."""
    files = sorted((held_out / "layouts").glob("*.json"))
    layouts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    chosen = next((layout for layout in layouts if len(layout["faces"]) == 3), layouts[0])
    for face in chosen["faces"]:
        with committed(folder / face["reference"]) as out:
            out.write((held_out / "layouts" / face["reference"]).read_bytes())
    for name, start in STYLES.items():
        document = chosen | {"prompt": f"{start} {PEOPLE[len(chosen['faces'])]} {WHERE}", "seed": 1}
        with committed(folder / f"{name}.json") as out:
            out.write((json.dumps(document, indent=1) + "\n").encode())


def page(out: Path, commands: Sequence[tuple[str, float]]) -> bytes:
    """index.html of a finished demo; links lead to the reports beside it."""
    from anyphoto_cli.files.html import render_page
    from anyphoto_cli.train.plots import charts, read_metrics

    benched = [name for name in _ROWS if any(f" -o {name} " in command for command, _ in commands)]
    summaries = {name: json.loads((out / name / "scores" / "summary.json").read_text()) for name in benched}
    rows = read_metrics(out / "run")
    return render_page(
        Path(__file__).with_suffix(".html.j2").read_text(encoding="utf-8"), "AnyPhoto in the small world", [],
        commands=commands, seconds=sum(seconds for _, seconds in commands),
        photos=[_small(file) for file in sorted((out / "world" / "photos").iterdir())[:8]],
        people=[(folder.name, _small(next(iter(sorted(folder.iterdir())))))
                for folder in sorted((out / "world" / "refs").iterdir())[:8]],
        manifest=json.loads((out / "data" / "manifest.json").read_text()), charts_of=charts(rows)[:3], last=rows[-1],
        went_on=any(" adapter=" in command for command, _ in commands),
        preview=_small(out / "layout.png", 640), asked=_asked(out), made=_made(out),
        rows=[(name, _ROWS[name].format(steps=rows[-1]["step"]), summaries[name]) for name in benched],
    )  # fmt: skip


_ROWS = {
    "alone": "the base by the prompt alone", "nothing-learned": "an untrained adapter",
    "as-it-came": "the adapter as it came", "trained": "{steps} steps later",
}  # fmt: skip
"""Folder of a benchmark -> how its row is called."""


def _small(file: Path, side: int = 256) -> bytes:
    """A JPEG of at most `side` px; drawn pictures are enlarged to it, sharp."""
    from PIL import Image

    image = Image.fromarray(read_picture(file))
    factor = side / max(image.size)
    kind = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    buffer = io.BytesIO()
    image.resize((round(image.width * factor), round(image.height * factor)), kind).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _asked(out: Path) -> list[tuple[str, bytes]]:
    """(name, reference) of the people in the layout."""
    told = json.loads((out / "layouts" / "photo.json").read_text())
    return [(face["name"], _small(out / "layouts" / face["reference"])) for face in told["faces"]]


def _made(out: Path) -> list[dict[str, Any]]:
    """The rendered pictures: prompt, picture, and each face's likeness to its reference."""
    import numpy as np

    from anyphoto_cli.faces.norm_crop import norm_crop
    from anyphoto_cli.faces.packs import open_faces
    from anyphoto_cli.generate import prepare_faces
    from anyphoto_cli.layout.schema import load_layout

    faces, made = open_faces("mini"), []
    for name in STYLES:
        layout = load_layout(out / "layouts" / f"{name}.json")
        file = out / "pictures" / f"{name}_seed{layout.seed}.png"
        pixels = read_picture(file)
        crops = np.stack([norm_crop(pixels, face.place) for face in layout.faces])
        alike = (faces.embed(crops) * prepare_faces(layout, faces).embeddings).sum(1)
        names = [face.name for face in layout.faces]
        made.append({"prompt": layout.prompt, "picture": _small(file, 512),
                     "alike": [(who, float(value)) for who, value in zip(names, alike, strict=True)]})  # fmt: skip
    return made
