"""`generate --best-of`, `--retry-until`: several seeds of one picture, looked at, the best one kept.

Every try is an ordinary picture of `render` in `out`/tries, with its verdict beside it, so that a run that was cut off
goes on, and nothing is rendered twice. The keeper is copied to `out` under its own seed: it is the picture that
`generate --seed` of that seed makes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.verify import VerifyConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.generate.png_metadata import read_record, write_png
from anyphoto_cli.generate.rendering import Plan, Task, finished, plan, render_tasks
from anyphoto_cli.generate.verifying import BESIDE, DRAWN, Looker, Verified
from anyphoto_cli.runtime.progress import Listener, Passing

TRIES = "tries"


@dataclass(frozen=True)
class Choice:
    """How many seeds, and when to stop: after `most` of them, or, until_passed, at the first that passes.

    Raises InputError below 1.
    """

    most: int
    until_passed: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.most <= 1000:
            field = "--max-tries" if self.until_passed else "--best-of"
            raise InputError(f"{self.most} is not between 1 and 1000", field=field)


@dataclass(frozen=True)
class Kept:
    """The picture that was kept, its seed, and how many seeds were looked at. tries: (seed, score, passed) of each."""

    verified: Verified
    seed: int
    tries: tuple[tuple[int, float, bool | None], ...]


def render_best(
    layouts: Path | str | Sequence[Path | str],
    out: Path,
    config: GenerateConfig,
    choice: Choice,
    verify: VerifyConfig | None = None,
    *,
    annotate: bool = False,
    refs_root: Path | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> list[Kept]:
    """Picture j of a layout comes from the seeds seed + j * most ... Raises as `render`."""
    listener = listener or Listener()
    planned = plan(
        layouts, out / TRIES, config, refs_root=refs_root, overwrite=overwrite, looks=True, tries=choice.most,
        listener=listener,
    )  # fmt: skip
    looker = Looker(None, verify or VerifyConfig(), planned.models.analyzer)
    run = _Run(out, choice, planned, looker, overwrite, annotate, listener)
    for task in planned.tasks:  # any of them may be kept: what is in its way is refused before the first is rendered
        run.kept_before(task)
    ordered = [planned.tasks[k : k + choice.most] for k in range(0, len(planned.tasks), choice.most)]
    return [run.picture(tasks) for tasks in ordered]


@dataclass(frozen=True, eq=False)
class _Run:
    """What all pictures of a call share."""

    out: Path
    choice: Choice
    planned: Plan
    looker: Looker
    overwrite: bool
    annotate: bool
    listener: Listener

    def picture(self, tasks: Sequence[Task]) -> Kept:
        """Try seed after seed, keep the best."""
        tried: list[tuple[Task, Verified]] = []
        for task in self._rendered(tasks):
            tried.append((task, self.looker.look(task.path, task.job.layout, annotate=self.annotate)))
            self._tell(tried)
            if self.choice.until_passed and tried[-1][1].verdict.passed:
                break
        task, best = max(tried, key=lambda one: (one[1].verdict.passed is True, one[1].verdict.score))
        told = tuple((task.seed, one.verdict.score, one.verdict.passed) for task, one in tried)
        return Kept(self._keep(task, best, told), task.seed, told)

    def _rendered(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """Each as soon as it is there; as many at once as `config.batch`, but one by one where the first may do."""
        models = self.planned.models
        at_once = 1 if self.choice.until_passed else models.weights.config.batch
        for k in range(0, len(tasks), at_once):
            some = tasks[k : k + at_once]
            todo = [task for task in some if task.path not in self.planned.finished]
            render_tasks(todo, models, _Quieter(self.listener))
            yield from some

    def kept_before(self, task: Task) -> bool:
        """Whether its picture lies in `out` already. Raises InputError where something else has its name."""
        weights = self.planned.models.weights
        return finished(replace(task, path=self.out / task.path.name), self.overwrite, weights.precision_was_asked)

    def _tell(self, tried: Sequence[tuple[Task, Verified]]) -> None:
        task, one = tried[-1]
        said = {True: "passed", False: "not passed", None: "not judged"}[one.verdict.passed]
        told = f"{task.job.layout.shown_name}, seed {task.seed}: score {one.verdict.score:.3f}, {said}"
        self.listener.notice(f"{told} ({len(tried)} of at most {self.choice.most})")

    def _keep(self, task: Task, best: Verified, tries: Sequence[tuple[int, float, bool | None]]) -> Verified:
        """Copies of the picture, its verdict and its boxes; the picture last."""
        beside = best.picture.with_name(best.picture.stem + BESIDE)
        told: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        told |= {"keeper": task.seed, "tries": [{"seed": s, "score": round(v, 4), "passed": p} for s, v, p in tries]}
        target, same = self.out / best.picture.name, self.kept_before(task)
        written = {
            target.with_name(target.stem + BESIDE): (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode(
                "utf-8", "backslashreplace"
            )
        }
        if best.annotated is not None:
            written[target.with_name(target.stem + DRAWN)] = best.annotated.read_bytes()
        for name, content in written.items():
            with committed(name) as out:
                out.write(content)
        if not same:  # the same one may have been signed since
            self._write(best.picture, target)
        self.listener.picture(target, skipped=same)
        return Verified(target, best.verdict, target.with_name(target.stem + DRAWN) if best.annotated else None)

    def _write(self, picture: Path, target: Path) -> None:
        """As `render` would have written it here: the way to the references begins in another folder now."""
        from PIL import Image

        record = read_record(picture)
        root = os.path.normpath(Path(os.path.realpath(picture.parent)) / record["refs"])
        with Image.open(picture) as image:
            image.load()
            pixels = image.convert("RGB")
        write_png(pixels, target, record | {"refs": os.path.relpath(root, os.path.realpath(target.parent))})


class _Quieter(Passing):
    """Everything but which try is there: `_Run` says that with its score."""

    def picture(self, path: Path, skipped: bool) -> None:
        """Not passed on."""
