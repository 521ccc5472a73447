"""Peak memory of a card, counted: the product's own code at FLUX.1's size on a card that is not there (`fake_card`).

python -m benchmarks peaks

Tensors have sizes and no numbers, so nothing is computed; whatever the code makes, keeps and lets go is counted as on a
card, but for what kernels and allocator take beside it. Where an H200 has measured the same, the page shows both.
"""

from __future__ import annotations

import json
import subprocess
import sys

from anyphoto_cli.model.memory import FLUX_NEEDS_GB

LIMITS = (
    "generate at 1024 px with 4 people: full 40 GB, hoisted 24 GB without quantising, nf4 12 GB, group 8 GB; train in "
    "bfloat16 60 GB at 512 px and 65 GB at 1024 px, on an nf4 base 24 GB"
)
Table = list[dict[str, object]]
SIDE, PEOPLE, FACE, STEPS = 1024, 4, 192, 2
MODES = {"full": 40, "offload": None, "hoisted": 24, "fp8": None, "nf4": 12, "group": 8}
"""--memory, and the bar in GB."""
TRAINED = (
    (512, 1, "plain", None, "34.5, the first"), (1024, 1, "plain", None, "53.1, a later one"),
    (512, 4, "plain", None, "60.5, a later one"), (512, 1, "fused", 60, ""), (1024, 1, "fused", 65, ""),
    (512, 4, "fused", None, ""), (512, 1, "nf4", 24, ""), (1024, 1, "nf4", 24, ""),
)  # fmt: skip
"""Side, batch, how, the bar, and what an H200 measured of which step (train_gpu_third.md, "GB at most")."""
HOW = {
    "plain": "each operation by itself, as in the third lease", "fused": "fused kernels, as now",
    "nf4": "an NF4 base, all blocks computed again",
}  # fmt: skip


def counted(*words: object) -> list[float]:
    """GB at most; of training of the first and of a later step."""
    command = [sys.executable, "-m", "benchmarks.peak", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    found = [round(float(one), 1) for one in json.loads(done.stdout.strip().splitlines()[-1])]
    print(*words, found, flush=True)
    return found


def rendered_row(mode: str, bar: float | None) -> dict[str, object]:
    return {
        "--memory": mode, "GB at most, counted": counted("render", mode)[0],
        "what `--memory auto` asks for": FLUX_NEEDS_GB[mode], "bar": bar or "",
    }  # fmt: skip


def trained_row(side: int, batch: int, how: str, bar: float | None, measured: str) -> dict[str, object]:
    first, later = counted("train", side, batch, how)
    return {
        "px": side, "batch": batch, "how": HOW[how], "GB at most, counted: the first step": first, "a later one": later,
        "measured on an H200": measured, "bar": bar or "",
    }  # fmt: skip


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    return "; counted, FLUX.1's size and an adapter of rank 128, on no card.", {
        f"generate, {SIDE} px, {PEOPLE} people of {FACE} px, T5 and CLIP included": [
            rendered_row(mode, bar) for mode, bar in MODES.items()
        ],
        "A whole training step, 2 faces, without T5 and CLIP": [trained_row(*case) for case in TRAINED],
    }
