"""SIGTERM as an exception, so that `finally` runs: files in the making are removed, locks let go."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived. Exit code 143."""


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
