"""Where anyphoto keeps what it makes for itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def anyphoto_home() -> Path:
    """$ANYPHOTO_HOME, else the user's cache folder."""
    if home := os.environ.get("ANYPHOTO_HOME"):
        return Path(home).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("anyphoto")


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Of all processes with this home, ranks and workers among them, one at a time comes in: to download or build what
    the others then find. Where nothing can be written, nobody waits.
    """
    from filelock import FileLock

    lock = FileLock(anyphoto_home() / "locks" / f"{name}.lock")
    with suppress(OSError):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
