"""Run benchmarks, print tables, write JSON and Markdown under docs/performance/.

python -m benchmarks [startup] [preprocess] [attention] [generate] [memory] [train] [launches] [counts] [bench] [scale]
                     [discovery] [peaks]
python -m benchmarks attention generate pictures train train-compiled kernels ladder --device cuda

python -m benchmarks together --device cuda      all of these but the ladder in one process, for a card lent for minutes

Without a name: all that this machine can measure. Some minutes on a GPU; pictures and train-compiled compile.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks import (
    attention,
    bench,
    counts,
    discovery,
    generate,
    kernels,
    ladder,
    launches,
    memory,
    peaks,
    pictures,
    preprocess,
    scale,
    startup,
    together,
    train,
)

PAGES = Path(__file__).resolve().parents[1] / "docs" / "performance"
Rows = list[dict[str, object]]


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    model = names[0] if names else platform.processor()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def table(rows: Rows) -> str:
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *[[str(row[key]) for key in header] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(name: str, title: str, bar: str, note: str, tables: dict[str, Rows], command: str) -> None:
    """Under docs/performance; of a GPU beside, not over, the CPU's page."""
    name = f"{name}_gpu" if "cuda" in command else name
    versions = f"torch {version('torch')}, diffusers {version('diffusers')}"
    about = f"{datetime.date.today()}, {machine()}, {versions}; `python -m benchmarks {command}`{note}"
    text = "\n\n".join(f"## {part}\n\n{table(rows)}" if part else table(rows) for part, rows in tables.items())
    print(text, about, sep="\n")
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text(f"# {title}\n\n{about}\nBar: {bar}.\n\n{text}\n")
    (PAGES / f"{name}.json").write_text(json.dumps({"about": about, "tables": tables}, indent=2) + "\n")


STARTUP = ("Start-up", startup.LIMIT, lambda given: ("; medians of 15 interleaved rounds.", {"": startup.measure()}))
QUIET = "; medians of {} interleaved rounds, nothing else running."
PARTS: dict[str, tuple[str, str, Callable[[list[str]], tuple[str, dict[str, Rows]]]]] = {
    "startup": STARTUP,
    "preprocess": ("Preprocess", preprocess.LIMITS, lambda given: (QUIET.format(5), preprocess.measure())),
    "discovery": ("Discovery", discovery.LIMITS, lambda given: (".", discovery.measure())),
    "attention": ("Attention", attention.LIMITS, attention.measure),
    "generate": ("Rendering", generate.LIMITS, generate.measure),
    "memory": ("Memory", memory.LIMITS, memory.measure),
    "peaks": ("Peak memory, counted", peaks.LIMITS, peaks.measure),
    "train": ("Training step", train.LIMITS, train.measure),
    "pictures": ("Whole pictures, compiled", pictures.LIMITS, pictures.measure),
    "train-compiled": ("Training step, compiled", train.LIMITS, train.measure_compiled),
    "kernels": ("Where a step's time goes", kernels.LIMITS, kernels.measure),
    "launches": ("What the host does for a step", launches.LIMITS, launches.measure),
    "counts": ("Operations of a training step", counts.LIMITS, counts.measure),
    "ladder": ("Memory, measured", ladder.LIMITS, ladder.measure),
    "bench": ("Bench", bench.LIMITS, lambda given: (QUIET.format(bench.ROUNDS), bench.measure())),
    "scale": ("Scale", scale.LIMITS, scale.measure),
}
"""Name -> title, bar, and what measures: words of the command line -> (a note, tables by title)."""
ON_A_GPU = ("attention", "generate", "pictures", "train", "train-compiled", "kernels", "ladder")
GPU_ALONE = ("pictures", "train-compiled", "kernels", "ladder")
"""At their own size they need one."""


def _page_of(command: str) -> Callable[[str, str, dict[str, Rows]], None]:
    def keep(name: str, note: str, tables: dict[str, Rows]) -> None:
        title, bar, _ = PARTS[name]
        write(name, title, bar, note, tables, command)

    return keep


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["together"]:
        together.measure(words[1:], _page_of("together " + " ".join(words[1:])))
        return
    options = [word for word in words if word not in PARTS]
    every = ON_A_GPU if "cuda" in options else [name for name in PARTS if name not in GPU_ALONE]
    wanted = [word for word in words if word in PARTS] or every
    for name in wanted:
        title, bar, measured = PARTS[name]
        note, tables = measured(options)
        write(name, title, bar, note, tables, " ".join([name, *options]))


if __name__ == "__main__":
    main()
