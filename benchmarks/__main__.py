"""Run every benchmark this machine can, print tables, write JSON and Markdown under docs/performance/."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path

from benchmarks import startup

PAGES = Path(__file__).resolve().parents[1] / "docs" / "performance"


def machine() -> str:
    model = (
        next(
            (
                line.split(":", 1)[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if "model name" in line
            ),
            platform.processor(),
        )
        if Path("/proc/cpuinfo").exists()
        else platform.processor()
    )
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def main() -> None:
    rows = startup.measure()
    header = list(rows[0])
    table = [header, ["---"] * len(header), *[[str(row[key]) for key in header] for row in rows]]
    text = "\n".join(f"| {' | '.join(line)} |" for line in table)
    about = f"{datetime.date.today()}, {machine()}; `python -m benchmarks`; medians of 15 interleaved rounds."
    print(text, about, sep="\n")
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / "startup.md").write_text(f"# Start-up\n\n{about}\nBar: {startup.LIMIT}.\n\n{text}\n")
    (PAGES / "startup.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


main()
