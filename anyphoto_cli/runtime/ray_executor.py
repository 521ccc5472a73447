"""The same pieces on a Ray cluster: Ray Data hands numbers to actors, which write to a folder all machines see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from anyphoto_cli.errors import AnyPhotoError, EnvironmentFault
from anyphoto_cli.runtime.jobs import Job


class _Actor:
    """Opens the job once, then does one piece a call."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._opened: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """{"number": [k]} -> {"number": [k], "summary": [..], "refusal": [..]}; a refusal is told, not raised.

        Ray would wrap what is raised, and try the piece again.
        """
        number = int(batch["number"][0])
        try:
            if self._opened is None:
                self._opened = self._job.open(0)
            summary, refusal = self._job.run(self._opened, number, lambda place: None, frozenset()), None
        except AnyPhotoError as error:
            summary, refusal = None, error
        return {"number": [number], "answer": [_packed((summary, refusal))]}


def _packed(value: Any) -> bytes:
    import pickle

    return pickle.dumps(value)


def run_ray(
    job: Job, numbers: Sequence[int], workers: int, *, address: str | None = None, gpus: float = 0.0
) -> Iterator[tuple[int, Any]]:
    """(number, summary) as pieces are finished. gpus: of each actor. Raises what a piece refuses with."""
    try:
        import ray
    except ImportError as error:
        remedy = 'Run: pip install "anyphoto[ray]"'
        raise EnvironmentFault("needs Ray", field="--executor ray", remedy=remedy) from error
    mine = not ray.is_initialized()
    if mine:
        _join(ray, address, workers)
    try:
        yield from _answers(ray, job, numbers, workers, gpus)
    finally:
        if mine:
            ray.shutdown()


def _join(ray: Any, address: str | None, workers: int) -> None:
    import logging

    own: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except Exception as error:  # Ray raises kinds of its own
        what = f"the Ray cluster cannot be reached ({type(error).__name__}: {str(error)[:120]})"
        raise EnvironmentFault(what, field="--ray-address") from error


def _answers(ray: Any, job: Job, numbers: Sequence[int], workers: int, gpus: float) -> Iterator[tuple[int, Any]]:
    import pickle

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Pieces run for minutes and hold models: one at a time an actor, in blocks of one.
    pieces = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=max(len(numbers), 1))
    done = pieces.map_batches(
        _Actor, fn_constructor_args=(job,), batch_size=1, num_gpus=gpus or None, batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=max(1, min(workers, len(numbers)))),
    )  # fmt: skip
    for row in done.iter_rows():
        # From our own actors, within the cluster: no pickle comes from data.
        summary, refusal = pickle.loads(row["answer"])
        if refusal is not None:
            raise refusal
        yield int(row["number"]), summary
