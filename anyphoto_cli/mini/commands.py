"""The product's own commands, run as one types them: what the demo and the ablation are made of."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.runtime.devices import cores

SOME_LEFT_OUT = 3
"""The exit code of a command that did its work and left something out: `bench` where a case shows no face."""

HEARD_S, ENDS_S = 2.0, 40.0
"""How long a command is waited for that has heard Ctrl-C itself, and one that was told to end: a step of training, what
it saves, and the ranks of a launcher.
"""


_RUNNING: set[Popen[str]] = set()
"""Commands under way, in whichever thread."""


def echo(line: str) -> None:
    """For run_command's `said`: what a command says of its progress, below the line that names it."""
    print(f"    {line}", file=sys.stderr, flush=True)


def run_command(
    folder: Path, words: Sequence[str], launcher: Sequence[str] = (), said: Callable[[str], object] | None = None,
    beside: int = 1, seconds: float | None = None,
) -> float:  # fmt: skip
    """`anyphoto WORDS` below `folder`; returns its seconds. launcher: of several ranks, as Python's arguments. said:
    gets each line of its stderr, its progress, as it comes, but not its Error. beside: how many such commands run at
    once: each gets its share of the cores, unless OMP_NUM_THREADS says otherwise. seconds: after that long it is told
    to end (SIGTERM), as all of them do with what they have done kept.

    Raises TimeoutError where it ended so, and EnvironmentFault where it fails, with its last line that says Error, or
    else its last: a launcher of ranks has more to say after that.
    """
    began, last = time.monotonic(), "it said nothing"
    command = [sys.executable, *launcher, "-m", "anyphoto_cli", *words]
    share = {"OMP_NUM_THREADS": str(max(cores() // beside, 1))} if beside > 1 else {}
    with Popen(command, cwd=folder, stdout=DEVNULL, stderr=PIPE, text=True, errors="replace",
               env={**share, **os.environ}) as process:  # fmt: skip
        told_to_end = threading.Event()

        def end() -> None:
            told_to_end.set()
            process.terminate()

        timer = threading.Timer(seconds or 0, end)
        _RUNNING.add(process)
        try:
            if seconds is not None:
                timer.start()
            for line in map(str.rstrip, process.stderr or ()):
                failed = line.startswith("Error")
                if failed or (line and not last.startswith("Error")):
                    last = line.strip()
                if said is not None and line and not failed:
                    said(line)
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            timer.cancel()
            _RUNNING.discard(process)
    if code and told_to_end.is_set():
        raise TimeoutError
    if code not in (0, SOME_LEFT_OUT):
        raise EnvironmentFault(f"`anyphoto {' '.join(words)}` failed: {last}", file=folder)
    return time.monotonic() - began


def end_running() -> None:
    """For who waits for commands of other threads, which hear no signal: they end, with what they have done kept."""
    for process in tuple(_RUNNING):
        _end(process)


def _end(process: Popen[str]) -> None:
    """Told to end, so that it keeps what it has done; killed where it does not, or where one will not wait."""
    try:
        with suppress(TimeoutExpired):
            process.wait(HEARD_S)
            return
        process.terminate()
        with suppress(TimeoutExpired):
            process.wait(ENDS_S)
    finally:
        process.kill()
