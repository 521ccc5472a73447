"""SIGTERM as an exception, so that `finally` runs: files in the making are removed, locks let go."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived. Exit code 143."""


class StopSignal:
    """Which signal asked for an end, if any: long work looks where it can stop well. A second one ends at once."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number != 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.number = number
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """Within the block SIGINT, SIGTERM and SIGUSR1 (SLURM's warning) only set the flag."""
    stop = StopSignal()
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    before = {number: signal.signal(number, stop.hear) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminate_as_exception() -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated` in the main thread; a second one ends the process at once."""

    def on_terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, on_terminate)
    except ValueError:  # not in the main thread: whoever runs it decides about signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
