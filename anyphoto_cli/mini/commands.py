"""The product's own commands, run as one types them: what the demo and the ablation are made of."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from anyphoto_cli.errors import EnvironmentFault

SOME_LEFT_OUT = 3
"""The exit code of a command that did its work and left something out: `bench` where a case shows no face."""


def run_command(folder: Path, words: Sequence[str], launcher: Sequence[str] = ()) -> float:
    """`anyphoto WORDS` below `folder`; returns its seconds. launcher: of several ranks, as Python's arguments.

    Raises EnvironmentFault where it fails, with its last line.
    """
    began = time.monotonic()
    command = [sys.executable, *launcher, "-m", "anyphoto_cli", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in (0, SOME_LEFT_OUT):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EnvironmentFault(f"`anyphoto {' '.join(words)}` failed: {last}", file=folder)
    return time.monotonic() - began
