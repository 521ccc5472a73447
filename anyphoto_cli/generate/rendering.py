"""`anyphoto generate`: layouts in, pictures out. What is finished already is kept; nothing is half-written."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyphoto_cli import __version__
from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.errors import InputError, PictureFault
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.generate.planning import Job, Refusals, prepare_jobs, read_layouts
from anyphoto_cli.generate.png_metadata import FORMAT, IDENTIFYING, fingerprint_of, read_record, write_png
from anyphoto_cli.runtime.progress import Listener

if TYPE_CHECKING:
    from PIL import Image

    from anyphoto_cli.generate.weights import Renderer, Wanted, Weights
    from anyphoto_cli.seams import FaceAnalyzer


@dataclass(frozen=True)
class RenderedPicture:
    """One picture of a run. skipped: it was finished before. differs: of `render_again`: why its pixels are not those
    of the first, and what to do about it.
    """

    path: Path
    layout: str
    seed: int
    skipped: bool = False
    differs: str = ""


@dataclass(frozen=True)
class RenderResult:
    """pictures: in the order of the layouts. refused: one line for each layout or picture left out under keep_going.
    adapter: as the pictures' records have it, sha256 and train_step; None: no AnyPhoto weights.
    """

    pictures: tuple[RenderedPicture, ...]
    refused: tuple[str, ...] = ()
    adapter: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """One picture to make. record: what its PNG will say about it. companion: not written, and rendered only because
    the sums of a batch depend on how many are in it.
    """

    job: Job
    seed: int
    path: Path
    record: dict[str, Any]
    companion: bool = False

    @property
    def wanted(self) -> Wanted:
        """What the renderer needs of it."""
        from anyphoto_cli.generate.weights import Wanted

        return Wanted(self.job.layout, self.job.conditions, self.seed, str(self.path))


def render(
    layouts: Path | str | Sequence[Path | str],
    out: Path | str,
    config: GenerateConfig | None = None,
    *,
    refs_root: Path | None = None,
    overwrite: bool = False,
    keep_going: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
    models: RenderModels | None = None,
) -> RenderResult:
    """Render layout files, or all *.json of a folder, into `out` as <layout>_seed<seed>.png; the k-th has seed + k.

    Pictures that exist and were made from the same layout, references and weights are skipped; others of the same name
    are refused unless `overwrite`. keep_going: refused layouts are left out and reported. dry_run: nothing is made.
    models: opened by an earlier call with the same config (`find_models`); default: this call finds and opens its own.
    Calls in several threads render one after another.
    Raises InputError before a model is loaded, EnvironmentFault when a model or memory is lacking.
    """
    listener = listener or Listener()
    planned = plan(
        layouts, out, config, refs_root=refs_root, overwrite=overwrite, keep_going=keep_going, dry_run=dry_run,
        listener=listener, models=models,
    )  # fmt: skip
    return planned.result() if dry_run else carry_out(planned, listener)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run is going to do, all of it checked. finished: paths of tasks that were done before."""

    models: RenderModels
    tasks: tuple[Task, ...]
    finished: frozenset[Path]
    refusals: Refusals

    @property
    def todo(self) -> list[Task]:
        """The tasks that are left."""
        return [task for task in self.tasks if task.path not in self.finished]

    def result(self, left_out: Collection[Task] = ()) -> RenderResult:
        """Every picture of it but those that were refused after all."""
        pictures = [
            RenderedPicture(task.path, task.job.layout.shown_name, task.seed, task.path in self.finished)
            for task in self.tasks
            if task not in left_out
        ]
        return RenderResult(tuple(pictures), tuple(self.refusals.lines), self.models.weights.adapter_record)


def plan(
    layouts: Path | str | Sequence[Path | str],
    out: Path | str,
    config: GenerateConfig | None = None,
    *,
    refs_root: Path | None = None,
    overwrite: bool = False,
    keep_going: bool = False,
    dry_run: bool = False,
    looks: bool = False,
    tries: int = 1,
    listener: Listener | None = None,
    models: RenderModels | None = None,
) -> Plan:
    """Read and check everything that `render` is told, in its words. dry_run: no base is fetched, and the adapter's
    files are compared with their hashes, as opening them would. looks: the pictures are going to be looked at, by the
    same face models. tries: seeds for each picture that is asked for. Raises as `render`.
    """
    config, listener, out = config or GenerateConfig(), listener or Listener(), Path(out)
    if out.exists() and not out.is_dir():
        raise InputError("is not a folder", file=out, field="--out")
    refusals = Refusals(keep_going)
    read = read_layouts(layouts, refs_root, refusals, listener)
    models = models or find_models(config)
    weights, analyzer = models.weights, models.analyzer
    if looks and not analyzer.detects:
        what = f"{analyzer.name} cannot find faces, and the pictures are to be looked at"
        raise InputError(what, field="--face-pack", remedy="Name a pack with a detector")
    jobs = prepare_jobs(read, weights.base, config, analyzer, weights.method, refusals, listener, tries)
    if not models.opened:
        for notice in weights.notices():
            listener.notice(notice)
        for caution in weights.cautions():
            listener.caution(caution)
    if dry_run:
        weights.check_adapter()
    there = any(path_of(out, job, seed).exists() for job in jobs for seed in job.seeds())
    if jobs and (there or not dry_run):
        locate(weights, listener, fetch=not dry_run)
    asked = weights.precision_was_asked and weights.located
    tasks, done = [], set()
    for task in tasks_of(jobs, out, weights, analyzer):
        before = refusals.attempt(partial(finished, task, overwrite, asked))
        if before is not None:
            tasks.append(task)
        if before:
            done.add(task.path)
    return Plan(models, tuple(tasks), frozenset(done), refusals)


def carry_out(planned: Plan, listener: Listener) -> RenderResult:
    """Render what is left of a plan. Raises EnvironmentFault when a model or memory is lacking."""
    for task in planned.tasks:
        if task.path in planned.finished:
            listener.picture(task.path, skipped=True)
    return planned.result(render_tasks(planned.todo, planned.models, listener, planned.refusals))


class RenderModels:
    """Weights and face models, found; the pipeline is opened for the first picture, and kept."""

    def __init__(self, weights: Weights, analyzer: FaceAnalyzer) -> None:
        self.weights, self.analyzer = weights, analyzer
        self._renderer: Renderer | None = None

    @property
    def opened(self) -> bool:
        """Whether a picture was made already."""
        return self._renderer is not None

    def renderer(self, listener: Listener) -> Renderer:
        """Raises as `open_weights`."""
        if self._renderer is None:
            from anyphoto_cli.generate.weights import open_weights

            self.weights.locate()
            listener.stage("Loading the model")
            self._renderer = open_weights(self.weights)
        return self._renderer


def find_models(config: GenerateConfig) -> RenderModels:
    """torch starts here. Raises InputError where names are unknown, or a named adapter and the face pack do not belong
    together; one that came with the base is left out there, which `weights.left_out` tells.
    """
    from anyphoto_cli.generate.weights import find_weights

    weights = find_weights(config)
    analyzer = open_faces(config.face_pack or weights.face_pack, weights.face_device)
    return RenderModels(weights.with_faces(analyzer.name, analyzer.sha256), analyzer)


def path_of(out: Path, job: Job, seed: int) -> Path:
    """Where a picture lies."""
    return out / f"{job.stem}_seed{seed}.png"


def locate(weights: Weights, listener: Listener, fetch: bool = True) -> None:
    """Find the base, or download it, and say what follows from where it is."""
    listener.stage("Finding the model")
    if not weights.locate(fetch):
        listener.notice("The model is not on this machine: pictures that exist are taken at their word about it")
        return
    if caution := weights.other_base():
        listener.caution(caution)
    if weights.device.type == "cuda" and weights.config.memory == "auto":
        listener.notice(f"Memory: {weights.mode} ({weights.memory_reason})")


def tasks_of(jobs: Sequence[Job], out: Path, weights: Weights, analyzer: FaceAnalyzer) -> list[Task]:
    """A task for each seed of each job."""
    return [
        Task(job, seed, path_of(out, job, seed), _record(job, seed, out, weights, analyzer))
        for job in jobs
        for seed in job.seeds()
    ]


def _record(job: Job, seed: int, out: Path, weights: Weights, analyzer: FaceAnalyzer) -> dict[str, Any]:
    layout = job.layout.model_dump(mode="json", exclude_none=True) | {"seed": seed, "num_images": 1}
    identifying: dict[str, Any] = {
        "layout": layout,
        "references": job.conditions.references,
        "model": weights.model_record,
        "adapter": weights.adapter_record,
        "face_pack": {"name": analyzer.name, "sha256": analyzer.sha256},
    }
    if weights.loras:
        identifying["loras"] = weights.lora_records
    return {
        "format": FORMAT,
        **identifying,
        "precision": weights.precision(job.layout.width * job.layout.height),
        "fingerprint": fingerprint_of(identifying),
        # Relative, so that a folder with layout, references and pictures can move as a whole.
        "refs": os.path.relpath(os.path.realpath(job.layout.refs_root), os.path.realpath(out)),
        "layout_name": job.layout.shown_name,
        "asked": weights.asked(),
        "anyphoto_version": __version__,
    }


def finished(task: Task, overwrite: bool, precision_matters: bool = True) -> bool:
    """Whether the picture exists and is this very one. Raises InputError when another one has its name.

    precision_matters: False when the precision follows from what memory is free, which may differ by the hour.
    """
    if not task.path.exists() or overwrite:
        return False
    try:
        record = read_record(task.path)
    except InputError:
        record = {}
    now = task.record
    if record and not now["model"]["revision"]:  # a dry run does not fetch a base to know
        now = now | {"model": now["model"] | {"revision": record["model"].get("revision")}}
        now["fingerprint"] = fingerprint_of(now)
    same = record.get("fingerprint") == now["fingerprint"]
    if not same or (precision_matters and record["precision"] != task.record["precision"]):
        other = f": other {', '.join(_others(record, now))}" if record else ""
        raise InputError(
            f"exists and was made from something else{other}", file=task.path,
            remedy="Choose another --out, or replace it with --overwrite",
        )  # fmt: skip
    return True


def _others(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What two records differ in, as a user knows it: keys of the layout, and of the rest what a picture rests on."""
    before, after = was["layout"], now["layout"]
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    rest = [key for key in (*IDENTIFYING, "loras", "precision") if key != "layout" and was.get(key) != now.get(key)]
    return [*keys, *(key.replace("_", " ") for key in rest)] or ["fingerprint"]


def render_tasks(
    tasks: Sequence[Task], models: RenderModels, listener: Listener, refusals: Refusals | None = None
) -> list[Task]:
    """Render and write: one model for all, text and faces encoded once a layout, `config.batch` pictures a call.

    Returns those that were left out: a reference had changed meanwhile, or numbers were not finite. Raises InputError
    or PictureFault for them unless refusals may go on.
    """
    if not tasks:
        return []
    with _ONE_AT_A_TIME:
        return _render_held(tasks, models, listener, refusals or Refusals(False))


_ONE_AT_A_TIME = threading.RLock()
"""Opening a model borrows torch's default device, and a scheduler counts its steps: neither is for two threads."""


def _render_held(tasks: Sequence[Task], models: RenderModels, listener: Listener, refusals: Refusals) -> list[Task]:
    renderer, gone, failed = models.renderer(listener), set[Job](), set[Task]()
    listener.begin(len(tasks), sum(renderer.calls(task.job.layout) for task in tasks))
    try:
        for batch in _batches(tasks, models.weights.config.batch):
            firsts = {task.job: task for task in batch if task.job not in gone}
            gone |= {job for job, task in firsts.items() if not _ready(task, renderer, refusals)}
            together = [task for task in batch if task.job not in gone]
            if together:
                failed |= _render_together(together, renderer, listener, refusals)
    finally:
        listener.end()
    return [task for task in tasks if task.job in gone or task in failed]


def _ready(task: Task, renderer: Renderer, refusals: Refusals) -> bool:
    """Whether its layout's text and faces could be encoded."""
    return refusals.attempt(partial(renderer.prepare, task.wanted)) is not None


def _render_together(
    tasks: Sequence[Task], renderer: Renderer, listener: Listener, refusals: Refusals
) -> set[Task]:  # fmt: skip
    """Returns those that came to nothing."""
    failed = set()
    pictures = renderer.pictures([task.wanted for task in tasks], listener)
    for task, picture in zip(tasks, pictures, strict=True):
        if not task.companion and refusals.attempt(partial(_write, task, picture, tasks)) is None:
            failed.add(task)
        elif not task.companion:
            listener.picture(task.path, skipped=False)
    return failed


def _write(task: Task, picture: Image.Image | PictureFault, together: Sequence[Task]) -> Path:
    if isinstance(picture, PictureFault):
        raise picture
    write_png(picture, task.path, task.record | {"together": _seeds(task, together)})
    return task.path


def _seeds(task: Task, together: Sequence[Task]) -> list[int | None]:
    """Those of one call, in order; None for a picture of another layout, which is nobody else's to know."""
    return [one.seed if one.job is task.job else None for one in together]


def _batches(tasks: Sequence[Task], most: int) -> list[list[Task]]:
    """In order, as many at once as one call takes: of one size, with the same steps and guidance."""
    batches: list[list[Task]] = []
    for task in tasks:
        last = batches[-1] if batches else []
        if last and len(last) < most and last[0].wanted.goes_with(task.wanted):
            last.append(task)
        else:
            batches.append([task])
    return batches
