"""Pieces of work through the executor that a user named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from anyphoto_cli.runtime.jobs import Job, run_here


def run_through(
    name: str, job: Job, numbers: Sequence[int], workers: int, *, address: str | None = None, gpus: float = 0.0
) -> Iterator[tuple[int, Any]]:
    """(number, summary) as pieces are finished. name: here, local (processes on this machine) or ray.

    address: of the Ray cluster; gpus: of each of its actors. Raises as the executor does.
    """
    if name == "ray":
        from anyphoto_cli.runtime.ray_executor import run_ray

        return run_ray(job, numbers, workers, address=address, gpus=gpus)
    if name == "here":
        return run_here(job, numbers)
    from anyphoto_cli.runtime.local_executor import run_local

    return run_local(job, numbers, workers)
