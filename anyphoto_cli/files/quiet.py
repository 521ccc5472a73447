"""What libraries say by the way, kept from results and logs; other threads and filters of the user stay as they are."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ONE_AT_A_TIME = threading.RLock()


class _Muted:
    """A stdout on which one thread is not heard, or is heard elsewhere."""

    def __init__(self, real: Any, thread: int, instead: Any) -> None:
        self._real, self._thread, self._instead = real, thread, instead

    def write(self, text: str) -> int:
        heard = self._instead if threading.get_ident() == self._thread else self._real
        if heard is not None:
            heard.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def without_prints(instead: Any = None) -> Iterator[None]:
    """What this thread prints to stdout goes to `instead`, or nowhere. contextlib's own way takes it from all threads,
    and where two of them are in it at once, for good.
    """
    with _ONE_AT_A_TIME:
        before = sys.stdout
        muted: Any = _Muted(before, threading.get_ident(), instead)
        sys.stdout = muted
        try:
            yield
        finally:
            if sys.stdout is muted:
                sys.stdout = before


def unheard(message: str = "", module: str = "") -> None:
    """Such warnings are ignored from now on, unless the process has a filter of its own for them.

    Not for a while: `catch_warnings` in two threads at once can leave all warnings of the process ignored.
    """
    warnings.filterwarnings("ignore", message, module=module, append=True)
