"""SIGTERM as an exception, so that `finally` runs: files in the making are removed, locks let go. Or as a request."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

STOPPING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK") if hasattr(signal, name))
"""What asks long work for an end; SIGUSR1 is SLURM's warning, SIGBREAK Windows' Ctrl-Break."""
GO_ON = "What is finished is kept; run the same command to go on"
"""What work that was interrupted says."""
DEAF_S = 5.0
"""A launcher signals the group and passes its own signal on: what comes again so soon is still the same request."""


class Terminated(BaseException):
    """SIGTERM arrived. Exit code 143."""


class StopSignal:
    """Which signal asked for an end, if any: long work looks where it can stop well.

    Within DEAF_S more of them change nothing; one after that ends the process at once.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def __call__(self) -> int:
        """Its number: to stop; 0: none asked for it."""
        return self.number

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        now = time.monotonic()
        if not self.number:
            self.number, self._since = number, now
            _say(f"{signal.Signals(number).name}: stopping at the next good place; again after {DEAF_S:g} s: at once")
        elif now - self._since > DEAF_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def _say(line: str) -> None:
    """On stderr past all buffers, which may be in use when the signal comes; once for all ranks of a launch."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{line}\n".encode())


@contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """Within the block signals of STOPPING only set the flag."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop.hear) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Signals of STOPPING come after the block: what it does is done as a whole or not at all."""
    with _later(STOPPING):
        yield


@contextmanager
def come_through(within: float) -> Iterator[None]:
    """For a library that swallows what signals raise (a poll of pyzmq goes on after Ctrl-C): SIGINT and SIGTERM that
    came in the block end it all the same, and this process with its children by force, if it has not ended `within`
    seconds after them. Those that are ignored stay so; elsewhere than in the main thread there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    timer = threading.Timer(within, lambda: _end_by_force(heard[0]))
    timer.daemon = True

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) == 1:
            timer.start()
        _as_before(before[signal.Signals(number)], number, frame)

    for number in before:
        signal.signal(number, hear)
    try:
        yield
    except Exception:  # after a signal: that its processes are gone, which heard it, too
        if not heard:
            raise
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        signal.raise_signal(heard[0])


def _as_before(handler: Callable[[int, FrameType | None], object] | int | None, number: int,
               frame: FrameType | None) -> None:  # fmt: skip
    if callable(handler):
        handler(number, frame)
    else:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _end_by_force(number: int) -> None:
    import psutil

    _say(f"{signal.Signals(number).name}: ended by force. {GO_ON}")
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(128 + number)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C comes after the block. A process that is started in it does not hear it until it says so itself (on
    Windows it does: see `deaf_to_interrupts`).
    """
    _start_resource_tracker()  # starting it lets SIGINT through again
    with _later((signal.SIGINT,)):
        yield


@contextmanager
def children_deaf() -> Iterator[None]:
    """Processes that are started in the block do not hear signals of STOPPING: they end with whoever started them.

    A signal for the whole group must not take from it those it still needs to stop well.
    """
    with signals_wait():
        _start_resource_tracker()  # it would die of USR1, too; and starting it lets INT and TERM through again
        with signals_wait():
            yield


def deaf_to_interrupts() -> None:
    """For a process whose parent decides what Ctrl-C means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


@contextmanager
def _later(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """These signals come after the block; processes started in it inherit that, but on Windows."""
    if sys.platform == "win32":
        with raised_later(numbers):
            yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def raised_later(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """For a system without masks: the first of them that is heard in the block is raised after it.

    Python hears signals in its main thread alone: in others there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = {number: signal.signal(number, lambda told, _: heard.append(told)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for told in heard[:1]:
            signal.raise_signal(told)


def _start_resource_tracker() -> None:
    """multiprocessing's own helper process; Windows has none."""
    if sys.platform != "win32":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()


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
