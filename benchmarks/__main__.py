"""Run benchmarks, print tables, write JSON and Markdown under docs/performance/.

python -m benchmarks [startup] [preprocess] [bench] [train [--device cuda]]
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks import bench, preprocess, startup, train

PAGES = Path(__file__).resolve().parents[1] / "docs" / "performance"
Rows = list[dict[str, object]]


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    model = names[0] if names else platform.processor()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def table(rows: Rows) -> str:
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *[[str(row[key]) for key in header] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(name: str, title: str, bar: str, note: str, tables: dict[str, Rows]) -> None:
    about = f"{datetime.date.today()}, {machine()}; `python -m benchmarks {name}`{note}"
    text = "\n\n".join(f"## {part}\n\n{table(rows)}" if part else table(rows) for part, rows in tables.items())
    print(text, about, sep="\n")
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text(f"# {title}\n\n{about}\nBar: {bar}.\n\n{text}\n")
    (PAGES / f"{name}.json").write_text(json.dumps({"about": about, "tables": tables}, indent=2) + "\n")


def main() -> None:
    wanted = sys.argv[1:] or ["startup", "preprocess", "train", "bench"]
    if "startup" in wanted:
        note = "; medians of 15 interleaved rounds."
        write("startup", "Start-up", startup.LIMIT, note, {"": startup.measure()})
    if "preprocess" in wanted:
        note = "; medians of 5 interleaved rounds, nothing else running."
        write("preprocess", "Preprocess", preprocess.LIMITS, note, preprocess.measure())
    if "bench" in wanted:
        note = f"; medians of {bench.ROUNDS} interleaved rounds, nothing else running."
        write("bench", "Bench", bench.LIMITS, note, bench.measure())
    if "train" in wanted:
        given = [
            word
            for word in sys.argv[1:]
            if word.startswith("-") or word not in ("startup", "preprocess", "train", "bench")
        ]
        note, tables = train.measure(given)
        name = "train" if "cuda" not in given else "train_gpu"
        write(name, "Training step", train.LIMITS, note, tables)


if __name__ == "__main__":
    main()
