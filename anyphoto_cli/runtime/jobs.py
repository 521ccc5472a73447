"""Work in numbered pieces, done by processes here or by a Ray cluster. Each piece writes its own result file.

A piece is a pure function of its number, and its file appears whole or not at all: who did it, in which order, and how
often it was begun leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

CAREFULLY = -1
"""Among the places to skip: this piece has ended a worker before, so items are to be touched one by one."""


HANGS_AFTER_S = 600.0
DEATHS = 2
"""So many workers must die on an item before it is left out: the first may have been killed by someone else."""


class Job(Protocol):
    """What all pieces share; it must pickle. Models are loaded in `open`, once a worker."""

    def open(self, worker: int) -> Any:
        """What `run` needs: models, open files. worker: 0 .. workers - 1, to choose a device by."""
        ...

    def run(self, opened: Any, number: int, starting: Callable[[int], None], skip: frozenset[int]) -> Any:
        """Do one piece and commit its file. Returns a small summary.

        starting: call it with the place of each item before touching it. skip: places that ended a worker twice, and
        CAREFULLY.
        """
        ...


Executor = Callable[[Job, Sequence[int], int], Iterator[tuple[int, Any]]]
"""(job, numbers, workers) -> (number, summary) of each piece as it is finished, in any order."""


def run_here(job: Job, numbers: Sequence[int], workers: int = 1) -> Iterator[tuple[int, Any]]:
    """The literal twin of every executor: one after the other in this process."""
    opened = job.open(0) if numbers else None
    for number in numbers:
        yield number, job.run(opened, number, lambda place: None, frozenset())


def to_skip(deaths: Mapping[tuple[int, int], int], number: int) -> frozenset[int]:
    """What a piece is told to leave alone. deaths: (piece, place in it) -> workers that died there."""
    mine = {place: count for (piece, place), count in deaths.items() if piece == number}
    return frozenset({place for place, count in mine.items() if count >= DEATHS} | ({CAREFULLY} if mine else set()))


def batches(numbers: range, size: int) -> Iterator[range]:
    """A range in pieces of at most `size`."""
    for first in range(numbers.start, numbers.stop, size):
        yield range(first, min(first + size, numbers.stop))
