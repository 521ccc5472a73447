"""What people see: results on stdout, everything else on stderr; plain under NO_COLOR, TERM=dumb and in pipes."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from anyphoto_cli.cli import bars
from anyphoto_cli.errors import one_line
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.runtime.signals import signals_wait

_EVERY_S = 30.0


def _on_a_terminal(stream: Any) -> bool:
    """A stream that was closed is None."""
    return stream is not None and bool(stream.isatty())


def counted(number: int, one: str, more: str = "") -> str:
    """1 shard, 2 shards; 1 person, 2 people."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def result(line: str) -> None:
    """One line of the result, to stdout; never wrapped, never taken for markup."""
    print(one_line(line))


def document(value: Any) -> None:
    """The whole result as one JSON document, to stdout; in ASCII, as what stdout cannot encode would not stay JSON."""
    print(json.dumps(value, indent=2))


@dataclass
class _Count:
    """How far counted work is, and when it was last said."""

    label: str
    total: int
    done: int
    said: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Every half minute."""
        if time.monotonic() - self.said < _EVERY_S:
            return False
        self.said = time.monotonic()
        return True

    def line(self, told: str) -> str:
        """One line for a log."""
        return f"{self.label}: {self.done} of {self.total}{f', {told}' if told else ''}"


class Terminal(Listener):
    """Progress on stderr: a bar with ETA on a terminal, plain lines elsewhere; nothing but cautions when quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: Any = None
        self._said: set[str] = set()
        self.cautions: list[str] = []
        """All that were said, for --json."""
        self._count = _Count("", 0, 0)

    def notice(self, text: str) -> None:
        """A dim line, once."""
        if not self._quiet and text not in self._said:
            self._said.add(text)
            self._console.print(one_line(text), style="dim", markup=False)

    def caution(self, text: str) -> None:
        """A line that starts with Warning, also when quiet; once, as all seeds of a layout have the same faces."""
        if text not in self._said:
            self._said.add(text)
            self.cautions.append(one_line(text))
            self._console.print(f"Warning: {one_line(text)}", style="yellow", markup=False)

    def stage(self, text: str) -> None:
        """A dim line that ends in dots."""
        self.notice(f"{text} ...")

    def begin(self, pictures: int, steps: int) -> None:
        """Show the bar."""
        if self._quiet or not _on_a_terminal(sys.stderr):
            return
        counted = (TextColumn("Rendering"), BarColumn(), MofNCompleteColumn(), TextColumn("steps,"))
        timed = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("to go"))
        self._task = self._show(Progress(*counted, *timed, **self._where()), steps, 0)

    def work(self, label: str, total: int, done: int = 0) -> None:
        """A bar on a terminal, a line now and then elsewhere."""
        self._count = _Count(label, total, done)
        if done:
            self.notice(f"{label}: going on after {done} of {total}")
        if self._quiet or not _on_a_terminal(sys.stderr):
            return
        counted = (TextColumn(one_line(label)), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        timed = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("to go"))
        self._task = self._show(Progress(*counted, *timed, **self._where()), total, done)

    def _where(self) -> dict[str, Any]:
        # Results printed beside a bar stand above it on a terminal; in a file or a pipe they stay stdout's.
        return {"console": self._console, "transient": True, "redirect_stdout": _on_a_terminal(sys.stdout)}

    def _show(self, bar: Progress, total: int, done: int) -> Any:
        self._bar = bar
        with signals_wait():
            bar.start()
            bars.shown(bar)
        return bar.add_task("", total=total, completed=done)

    def done(self, count: int, told: str = "") -> None:
        """Move the bar, or say how far it is, every half minute."""
        self._count.done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, description=one_line(told))
        elif not self._quiet and self._count.due():
            self._console.print(one_line(self._count.line(told)), style="dim", markup=False)

    def step(self) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def picture(self, path: Path, skipped: bool) -> None:
        """Say which picture is there."""
        if not self._quiet and not skipped:
            self._console.print(f"Rendered {one_line(str(path))}", markup=False)
        elif not self._quiet:
            self._console.print(f"Finished before: {one_line(str(path))}", style="dim", markup=False)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with signals_wait():
                self._bar.stop()
                bars.gone(self._bar)
            self._bar = None


REDIRECTS = "torch.distributed.elastic.multiprocessing.redirects"
"""Where torch says, whenever it is imported on Windows or a Mac, what its launcher cannot do there."""


def hush_libraries(verbose: bool) -> None:
    """diffusers, transformers, onnxruntime and vLLM talk a lot; without -v only their errors are shown, and vLLM's
    warnings.
    """
    if verbose:
        return
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("diffusers", "transformers", "huggingface_hub", "peft", "accelerate", "insightface", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger(REDIRECTS).setLevel(logging.ERROR)
    import os

    for variable in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # Weight shards load in seconds; only downloads keep their bars.
    os.environ.setdefault("TQDM_DISABLE", "0" if _on_a_terminal(sys.stderr) else "1")
