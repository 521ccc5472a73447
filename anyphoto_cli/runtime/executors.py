"""Pieces of work through the executor that a user named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from anyphoto_cli.config.preprocess import RunOptions
from anyphoto_cli.runtime.devices import free_workers, resolve_device
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


def room(options: RunOptions) -> tuple[str, int]:
    """(device, workers): as asked for, else what this machine has or, with Ray, the cluster. A card by number is one
    worker; Ray chooses the card, and its actor sees no other: cuda. Raises as `resolve_device` and, where the cluster
    cannot be reached, as `run_ray` does.
    """
    cluster = None
    if options.executor == "ray":
        from anyphoto_cli.runtime.ray_executor import cluster_room

        cluster = cluster_room(options.ray_address)
    device = resolve_device(options.device, here=options.executor != "ray")
    if cluster is not None and options.device == "auto":
        device = "cuda" if cluster[1] else "cpu"
    if cluster is None or ":" in device:
        workers = options.workers or free_workers(device)
    else:
        workers = options.workers or max(cluster[device == "cuda"], 1)
    return device.partition(":")[0] if options.executor == "ray" else device, workers
