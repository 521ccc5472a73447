"""Progress bars on the screen, known to whoever ends a run; apart from what draws them, which is slow to import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from anyphoto_cli.runtime.signals import signals_wait


class Bar(Protocol):
    """rich's, say."""

    def stop(self) -> None:
        """Take it off the screen and give the cursor back."""


_SHOWN: list[Bar] = []


def shown(bar: Bar) -> None:
    """A bar is on the screen from now on."""
    _SHOWN.append(bar)


def gone(bar: Bar) -> None:
    """It was stopped by whoever showed it."""
    if bar in _SHOWN:
        _SHOWN.remove(bar)


@contextmanager
def taken_away() -> Iterator[None]:
    """Whatever ends a run leaves no piece of a bar behind, and gives the cursor back."""
    try:
        yield
    finally:
        with signals_wait():
            while _SHOWN:
                _SHOWN.pop().stop()
