"""How long a command takes to answer, against the bare import of its own two libraries."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEER = "import typer, rich"
CASES = {
    "python -c 'import typer, rich'": ["-c", PEER],
    "anyphoto --help": ["-m", "anyphoto_cli", "--help"],
    "anyphoto --version": ["-m", "anyphoto_cli", "--version"],
    "anyphoto layout check examples/two_people.json": [
        "-m",
        "anyphoto_cli",
        "layout",
        "check",
        "examples/two_people.json",
    ],
}
LIMIT = "anyphoto --help: at most 1.5 x the bare import; layout check: under 0.5 s more than it"


def seconds(arguments: list[str]) -> float:
    """Wall time of one process, warm file cache."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(rounds: int = 15) -> list[dict[str, object]]:
    """Rounds go through all cases in turn, so that a busy moment hits every one of them."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for case in CASES.values():
        seconds(case)
    for _ in range(rounds):
        for name, case in CASES.items():
            times[name].append(seconds(case))
    peer = times[next(iter(CASES))]
    rows = []
    for name, taken in times.items():
        ratios = sorted(a / b for a, b in zip(taken, peer, strict=True))
        rows.append(
            {
                "case": name,
                "median_s": round(statistics.median(taken), 3),
                "min_s": round(min(taken), 3),
                "ratio_to_bare_import": round(statistics.median(ratios), 2),
            }
        )
    return rows
