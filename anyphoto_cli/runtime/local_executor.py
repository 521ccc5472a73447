"""Pieces of work in processes on this machine, one thread each. A worker that dies is replaced, its culprit found."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import AnyPhotoError, EnvironmentFault
from anyphoto_cli.runtime.jobs import DEATHS, HANGS_AFTER_S, Job, to_skip
from anyphoto_cli.runtime.signals import deaf_to_interrupts, interrupts_wait


@dataclass
class _Worker:
    """A process, our end of its pipe, and what it is at. place: the item it touched last, in memory both share."""

    process: Any
    pipe: Any
    place: Any
    number: int | None = None
    seen: tuple[int, float] = (-1, 0.0)


@dataclass
class _Pool:
    job: Job
    waiting: list[int]
    workers: dict[int, _Worker] = field(default_factory=dict)
    deaths: Counter[tuple[int, int]] = field(default_factory=Counter)


def run_local(job: Job, numbers: Sequence[int], workers: int = 1) -> Iterator[tuple[int, Any]]:
    """(number, summary) as pieces are finished. Raises what a piece raises; closing the iterator ends the workers."""
    pool = _Pool(job, list(reversed(numbers)))
    try:
        for index in range(min(workers, len(numbers))):
            pool.workers[index] = _start(job, index)
            _give(pool, index)
        while any(worker.number is not None for worker in pool.workers.values()):
            yield from _hear(pool)
    finally:
        _stop(pool)


def _start(job: Job, index: int) -> _Worker:
    # spawn: a forked process would inherit locks of threads it does not have.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    place = context.Value("q", -1, lock=False)
    process = context.Process(target=_work, args=(job, index, theirs, place), daemon=True)
    with interrupts_wait():  # it would end in a traceback while it still imports
        process.start()
    theirs.close()
    return _Worker(process, ours, place)


def _give(pool: _Pool, index: int) -> None:
    """The next piece, and which of its items to leave alone."""
    worker = pool.workers[index]
    worker.number = pool.waiting.pop() if pool.waiting else None
    worker.place.value, worker.seen = -1, (-1, time.monotonic())
    if worker.number is None:
        return
    with suppress(BrokenPipeError, ConnectionError):  # it died meanwhile: heard of in the next round
        worker.pipe.send((worker.number, to_skip(pool.deaths, worker.number)))


def _hear(pool: _Pool) -> Iterator[tuple[int, Any]]:
    """One round: answers, deaths, and whoever has stood still for too long."""
    busy = {worker.pipe: index for index, worker in pool.workers.items() if worker.number is not None}
    for pipe in wait(list(busy), timeout=1.0):
        index = busy[pipe]
        worker = pool.workers[index]
        try:
            kind, answer = worker.pipe.recv()
        except (EOFError, ConnectionError):
            _bury(pool, index)
            continue
        if kind == "refused":
            raise answer
        if kind == "failed":
            raise RuntimeError(f"a worker failed:\n{answer}")
        number, worker.number = worker.number, None
        assert number is not None
        _give(pool, index)
        yield number, answer
    for worker in pool.workers.values():
        place, since = worker.seen
        if worker.place.value != place:
            worker.seen = (worker.place.value, time.monotonic())
        elif worker.number is not None and place >= 0 and time.monotonic() - since > HANGS_AFTER_S:
            worker.process.kill()


def _bury(pool: _Pool, index: int) -> None:
    """A worker died: note on what, and let a new one do the piece again. Dead before its first item, it cannot work."""
    worker = pool.workers[index]
    worker.process.join()
    number, place = worker.number, worker.place.value
    assert number is not None
    pool.deaths[number, place] += 1
    if place < 0 and pool.deaths[number, place] >= DEATHS:
        code = worker.process.exitcode
        # A worker imports the script that began it; one without the guard begins anew there, and Python ends it.
        remedy = (
            'A script must do this below if __name__ == "__main__":, as workers import it'
            if code == 1 and _began_in_a_script() else "Give fewer --workers: this is mostly a lack of memory"
        )  # fmt: skip
        raise EnvironmentFault(f"workers end before they begin (exit code {code})", remedy=remedy)
    worker.pipe.close()
    pool.waiting.append(number)
    pool.workers[index] = _start(pool.job, index)
    _give(pool, index)


def _began_in_a_script() -> bool:
    """Whether this process runs a file of somebody else's, not a command of ours."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file is not None and Path(file).stem not in ("anyphoto", "__main__")


def _stop(pool: _Pool) -> None:
    for worker in pool.workers.values():
        worker.pipe.close()  # an idle worker ends by itself
        if worker.number is not None:
            worker.process.terminate()
    for worker in pool.workers.values():
        worker.process.join(2.0)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(job: Job, index: int, pipe: Any, place: Any) -> None:
    """What a worker does until its pipe is closed."""
    deaf_to_interrupts()  # Ctrl-C is the parent's to hear
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()

    def starting(item: int) -> None:
        place.value = item

    try:
        opened = job.open(index)
        while True:
            number, skip = pipe.recv()
            pipe.send(("done", job.run(opened, number, starting, skip)))
    except EOFError:
        return
    except AnyPhotoError as error:
        pipe.send(("refused", error))
    except Exception:
        import traceback

        pipe.send(("failed", traceback.format_exc()))


def _follow_parent() -> None:
    """A parent that was killed cannot end its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def one_thread() -> None:
    """Libraries of this process use one thread: several processes with several threads each only get into their way."""
    import cv2

    cv2.setNumThreads(1)
