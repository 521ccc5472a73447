"""The same pieces on a Ray cluster: actors do one at a time, and write to a folder all machines see.

As with `run_local` an actor that dies is replaced, and the item it touched last is blamed; one that stands still ends.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import AnyPhotoError, EnvironmentFault
from anyphoto_cli.runtime.jobs import DEATHS, HANGS_AFTER_S, Job, to_skip

BEGINS_WITHIN_S = 600.0
"""The first worker; after that the cluster has no room for one."""
LOOK_EVERY_S = 1.0
"""Whether somebody stands still, also while answers come from others."""


_OPENING = (-1, -1)
"""In the place of (piece, place in it)."""


class _Ledger:
    """An actor that outlives the others and knows which item each of them touched last."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, float]] = {}

    def note(self, worker: int, place: int) -> None:
        """-1: none of its piece yet."""
        self._last[worker] = (place, time.monotonic())

    def heard(self) -> int:
        """How many have begun."""
        return len(self._last)

    def last(self, worker: int) -> int:
        """The place."""
        return self._last.get(worker, (-1, 0.0))[0]

    def standing(self, seconds: float) -> list[int]:
        """Workers that have touched an item so long ago, and nothing since."""
        now = time.monotonic()
        return [worker for worker, (place, since) in self._last.items() if place >= 0 and now - since > seconds]


class _Actor:
    """Opens the job once, then does one piece a call. A refusal is told, not raised: Ray would wrap it.

    folder: where the run was called, which the job's paths may begin at.
    """

    def __init__(self, job: Job, worker: int, ledger: Any, folder: Path) -> None:
        self._job, self._worker, self._ledger, self._folder = job, worker, ledger, folder
        self._opened: Any = None

    def open(self) -> tuple[Any, AnyPhotoError | None]:
        """(None, refusal)."""
        self._note(-1)
        with suppress(OSError):  # not all machines need see it: other paths are whole
            os.chdir(self._folder)
        try:
            self._opened = self._job.open(0)  # it sees no card but its own
        except AnyPhotoError as error:
            return None, error
        return None, None

    def run(self, number: int, skip: frozenset[int]) -> tuple[Any, AnyPhotoError | None]:
        """(summary, refusal)."""
        self._note(-1)
        try:
            return self._job.run(self._opened, number, self._note, skip), None
        except AnyPhotoError as error:
            return None, error

    def _note(self, place: int) -> None:
        import ray

        ray.get(self._ledger.note.remote(self._worker, place))  # heard before the item is touched


@dataclass
class _Worker:
    """index: never used again. number: of the piece it is at, None while it opens."""

    index: int
    actor: Any
    number: int | None = None


@dataclass
class _Pool:
    """calls: what is under way, and whose it is."""

    ray: Any
    job: Any
    ledger: Any
    gpus: float
    waiting: list[int]
    calls: dict[Any, _Worker] = field(default_factory=dict)
    deaths: Counter[tuple[int, int]] = field(default_factory=Counter)
    begun: int = 0


def run_ray(
    job: Job, numbers: Sequence[int], workers: int, *, address: str | None = None, gpus: float = 0.0
) -> Iterator[tuple[int, Any]]:
    """(number, summary) as pieces are finished. gpus: of each actor. Raises what a piece refuses with."""
    with joined(address, workers) as ray:
        yield from _answers(ray, job, numbers, min(workers, len(numbers)), gpus)


@contextmanager
def joined(address: str | None = None, workers: int = 1) -> Iterator[Any]:
    """The ray module, with a cluster: the one this process is in, the one at the address, or a new one of so many CPUs
    here. Raises EnvironmentFault without Ray, and where there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        remedy = 'Run: pip install "anyphoto[ray]"'
        raise EnvironmentFault("needs Ray", field="--executor ray", remedy=remedy) from error
    mine = not ray.is_initialized()
    if mine:
        _join(ray, address, workers)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _join(ray: Any, address: str | None, workers: int) -> None:
    import logging

    own: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        # Unsaid, the address would be that of RAY_ADDRESS or of a cluster that someone has started on this machine.
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **own)
    except Exception as error:  # Ray raises kinds of its own
        what = f"the Ray cluster cannot be reached ({type(error).__name__}: {str(error)[:120]})"
        raise EnvironmentFault(what, field="--ray-address") from error


def cluster_room(address: str | None) -> tuple[int, int] | None:
    """(CPUs, GPUs) of the cluster that this process is in or that is at the address; None where there is none yet."""
    if address is None:
        import sys

        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return None
    with joined(address) as ray:
        has = ray.cluster_resources()
        return int(has.get("CPU", 0)), int(has.get("GPU", 0))


def _answers(ray: Any, job: Job, numbers: Sequence[int], workers: int, gpus: float) -> Iterator[tuple[int, Any]]:
    ledger = ray.remote(_Ledger).options(num_cpus=0).remote()
    pool = _Pool(ray, ray.put(job), ledger, gpus, list(reversed(numbers)))
    try:
        for _ in range(workers):
            _start(pool)
        began = looked = time.monotonic()
        while pool.waiting or any(worker.number is not None for worker in pool.calls.values()):
            ready, _ = ray.wait(list(pool.calls), timeout=1.0)
            for call in ready:
                yield from _hear(pool, call)
            if time.monotonic() - looked >= LOOK_EVERY_S:
                looked = time.monotonic()
                _must_begin(pool, looked - began)
                _end_standing(pool)
    finally:
        for worker in pool.calls.values():
            ray.kill(worker.actor)
        ray.kill(ledger)


def _must_begin(pool: _Pool, seconds: float) -> None:
    if seconds > BEGINS_WITHIN_S and not pool.ray.get(pool.ledger.heard.remote()):
        what = f"no worker has begun in {seconds:.0f} s: the Ray cluster has no room for one (1 CPU, {pool.gpus:g} GPU)"
        raise EnvironmentFault(what, field="--executor ray", remedy="See ray status, or give another --device")


def _start(pool: _Pool) -> None:
    """A new actor; Ray keeps it waiting until there is room, and pieces go to those that have opened."""
    kind = pool.ray.remote(_Actor).options(num_cpus=1, num_gpus=pool.gpus, max_restarts=0)
    worker = _Worker(pool.begun, kind.remote(pool.job, pool.begun, pool.ledger, Path.cwd()))
    pool.begun += 1
    pool.calls[worker.actor.open.remote()] = worker


def _hear(pool: _Pool, call: Any) -> Iterator[tuple[int, Any]]:
    """An answer, or a death; then the next piece."""
    worker = pool.calls.pop(call)
    try:
        summary, refusal = pool.ray.get(call)
    except pool.ray.exceptions.RayTaskError as error:
        raise RuntimeError(f"a worker failed:\n{error}") from None
    except pool.ray.exceptions.RayError:
        _bury(pool, worker)
        return
    if refusal is not None:
        raise refusal
    number, worker.number = worker.number, None
    if number is None:
        pool.deaths.pop(_OPENING, None)  # one can open: who dies of it later is counted anew
    if pool.waiting:
        worker.number = pool.waiting.pop()
        pool.calls[worker.actor.run.remote(worker.number, to_skip(pool.deaths, worker.number))] = worker
    if number is not None:
        yield number, summary


def _bury(pool: _Pool, worker: _Worker) -> None:
    """Note on what it died, and let a new one do the piece again. Dead before its first item, it cannot work."""
    number, place = _OPENING
    if worker.number is not None:
        number, place = worker.number, pool.ray.get(pool.ledger.last.remote(worker.index))
    pool.deaths[number, place] += 1
    if place < 0 and pool.deaths[number, place] >= DEATHS:
        remedy = "Give fewer --workers: this is mostly a lack of memory"
        raise EnvironmentFault("workers end before they begin", field="--executor ray", remedy=remedy)
    if worker.number is not None:
        pool.waiting.append(worker.number)
    _start(pool)


def _end_standing(pool: _Pool) -> None:
    standing = pool.ray.get(pool.ledger.standing.remote(HANGS_AFTER_S))
    for worker in pool.calls.values():
        if worker.index in standing and worker.number is not None:
            pool.ray.kill(worker.actor)
