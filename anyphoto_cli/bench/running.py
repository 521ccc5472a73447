"""The benchmark's pictures, made: by workers here or on a Ray cluster, all of them or a share by `shard`.

Below `out`: pictures/, layouts/ (AnyPhoto's), refused/<id>.txt for a case that could not be made, asked/<id>.json with
what its picture is made of, and run.json with the settings. What is there is not made again, and what is there of
something else is refused, as `generate` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anyphoto_cli.bench.cases import Case, Cases
from anyphoto_cli.bench.origins import Origins
from anyphoto_cli.bench.results import RUN, Results, claim
from anyphoto_cli.bench.systems import settings_of
from anyphoto_cli.config.bench import RunConfig
from anyphoto_cli.errors import InputError, PictureFault
from anyphoto_cli.files.commit import committed
from anyphoto_cli.runtime.devices import on_cuda
from anyphoto_cli.runtime.executors import run_through
from anyphoto_cli.runtime.jobs import CAREFULLY
from anyphoto_cli.runtime.progress import Listener


@dataclass(frozen=True)
class RenderJob:
    """A case a piece, as a `runtime.jobs.Job`: pictures take seconds to minutes, and progress is told by each."""

    cases: tuple[Case, ...]
    out: Path
    config: RunConfig
    origins: Origins

    def open(self, worker: int) -> Any:
        """The system, with its models."""
        from anyphoto_cli.bench.systems import open_system

        return open_system(self.config, worker)

    def run(self, opened: Any, number: int, starting: Callable[[int], None], skip: frozenset[int]) -> int:
        """Make one picture. Returns 1 where the case was refused, else 0."""
        starting(0)
        case = self.cases[number]
        file = self.out / "refused" / f"{case.id}.txt"
        try:
            if skip - {CAREFULLY}:
                raise InputError("ended the process that rendered it, twice")
            self.origins.keep(case)
            opened.make(case, self.out)
        except (InputError, PictureFault) as error:
            with committed(file) as out:
                out.write(f"{error}\n".encode())
            return 1
        file.unlink(missing_ok=True)
        return 0


def render_cases(
    cases: Cases, out: Path, config: RunConfig, *, shard: tuple[int, int] = (1, 1), executor: str = "here",
    workers: int = 1, ray_address: str | None = None, listener: Listener | None = None,
) -> int:  # fmt: skip
    """Make the pictures that are missing. Returns how many cases were refused; why stands in refused/.

    shard: (i, n), the i-th of n shares, from 1. executor: here, local (processes on this machine) or ray. Raises
    InputError where `out` holds pictures of other settings, cases or weights, EnvironmentFault for what the machine
    lacks.
    """
    listener = listener or Listener()
    index, count = shard
    if not 1 <= index <= count:
        raise InputError(f"{index}/{count} is no share", field="--shard", remedy="Give 1/4, 2/4, 3/4, 4/4")
    settings = settings_of(config)
    origins = Origins(out, settings.pop("weights", {}))
    kept = config.model_dump(mode="json", exclude={"device", "memory"}) | settings
    # Settings that ended before the first picture, by a mistake in them mostly, bind nobody.
    begun = any((out / part).is_dir() for part in ("asked", "pictures"))
    later = ("precision", "side_used")
    claim(out / RUN, kept | {"precision": _precision(config)}, "pictures", later=later, begun=begun)
    mine = cases.cases[index - 1 :: count]
    there = Results(out / "pictures")
    found = {case.id: source for case in mine if (source := there.of(case)) is not None}
    for case in mine:
        if case.id in found:
            origins.check(case, found[case.id])
    waiting = tuple(case for case in mine if case.id not in found)
    job = RenderJob(waiting, out, config, origins)
    listener.work("Rendering", len(mine), len(mine) - len(waiting))
    refused = 0
    through = "here" if executor == "local" and workers < 2 else executor
    gpus = 1.0 if executor == "ray" and on_cuda(config.device) else 0.0
    for _, answer in run_through(through, job, range(len(waiting)), workers, address=ray_address, gpus=gpus):
        refused += answer
        listener.done(1)
    listener.end()
    return refused


def _precision(config: RunConfig) -> str:
    """Weights of fewer bits make other pictures; what auto takes may differ by the hour, as `generate` has it, too."""
    return config.memory if config.memory in ("nf4", "fp8") else "as dtype"


def with_places(cases: Cases, out: Path) -> Cases:
    """The cases with the places that AnyPhoto's layouts asked for, so that placement is judged against them."""
    return replace(cases, cases=tuple(_with_places(case, out / "layouts" / f"{case.id}.json") for case in cases.cases))


def _with_places(case: Case, layout: Path) -> Case:
    if not layout.is_file():
        return case
    told = json.loads(layout.read_text(encoding="utf-8"))
    landmarks = tuple(tuple((x, y) for x, y in face["landmarks"]) for face in told["faces"])
    return replace(case, landmarks=landmarks, size=(float(told["width"]), float(told["height"])))


def refusals(out: Path, cases: Sequence[Case]) -> dict[str, str]:
    """Id -> why its picture could not be made."""
    files = {case.id: out / "refused" / f"{case.id}.txt" for case in cases}
    return {id_: file.read_text(encoding="utf-8").strip() for id_, file in files.items() if file.is_file()}
