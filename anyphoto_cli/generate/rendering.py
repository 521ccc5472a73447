"""`anyphoto generate`: layouts in, pictures out. What is finished already is kept; nothing is half-written."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from anyphoto_cli import __version__
from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.files.images import decode, read_bytes
from anyphoto_cli.generate.conditions import prepare_faces
from anyphoto_cli.generate.planning import Job, Refusals, prepare_jobs, read_layouts
from anyphoto_cli.generate.png_metadata import FORMAT, as_recorded, fingerprint_of, read_record, write_png
from anyphoto_cli.layout.schema import Layout, parse_layout
from anyphoto_cli.runtime.progress import Listener

if TYPE_CHECKING:
    from anyphoto_cli.generate.weights import Renderer, Wanted, Weights
    from anyphoto_cli.seams import FaceAnalyzer


@dataclass(frozen=True)
class RenderedPicture:
    """One picture of a run. skipped: it was finished before."""

    path: Path
    layout: str
    seed: int
    skipped: bool = False


@dataclass(frozen=True)
class RenderResult:
    """pictures: in the order of the layouts. refused: one line for each layout left out under keep_going."""

    pictures: tuple[RenderedPicture, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Task:
    """One picture to make. record: what its PNG will say about it."""

    job: Job
    seed: int
    path: Path
    record: dict[str, Any]

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
    config, listener, out = config or GenerateConfig(), listener or Listener(), Path(out)
    if out.exists() and not out.is_dir():
        raise InputError("is not a folder", file=out, field="--out")
    refusals = Refusals(keep_going)
    read = read_layouts(layouts, refs_root, refusals, listener)
    models = models or find_models(config)
    weights, analyzer = models.weights, models.analyzer
    jobs = prepare_jobs(read, weights.base, config, analyzer, weights.method, refusals, listener)
    if not models.opened:
        for notice in weights.notices():
            listener.notice(notice)
        for caution in weights.cautions():
            listener.caution(caution)
    if dry_run:
        planned = [
            RenderedPicture(_path(out, job, seed), job.layout.shown_name, seed) for job in jobs for seed in job.seeds()
        ]
        return RenderResult(tuple(planned), tuple(refusals.lines))
    tasks = _tasks(jobs, out, weights, analyzer, listener)
    todo = [task for task in tasks if not _finished(task, overwrite, weights.precision_was_asked)]
    done = {task.path for task in tasks} - {task.path for task in todo}
    for task in tasks:
        if task.path in done:
            listener.picture(task.path, skipped=True)
    _render_all(todo, models, listener)
    pictures = [RenderedPicture(t.path, t.job.layout.shown_name, t.seed, t.path in done) for t in tasks]
    return RenderResult(tuple(pictures), tuple(refusals.lines))


def render_again(
    picture: Path,
    out: Path | None = None,
    config: GenerateConfig | None = None,
    *,
    refs_root: Path | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> tuple[RenderedPicture, bool]:
    """Render the picture of a PNG's record once more, as <name>_again.png; returns it, and whether all pixels agree.

    config: only what is set in it replaces what the record says. Raises InputError when a reference or the weights are
    not those of the record.
    """
    listener, record = listener or Listener(), read_record(picture)
    config = _recorded_config(record, config or GenerateConfig(), picture)
    layout = recorded_layout(record, picture, refs_root)
    models = find_models(config)
    weights, analyzer = models.weights, models.analyzer
    job = Job(layout, prepare_faces(layout, analyzer, weights.method))
    path = (out or picture.parent) / f"{picture.stem}_again.png"
    [task] = _tasks([job], path.parent, weights, analyzer, listener)
    _refuse_changes(record, task.record, picture)
    if as_recorded(record, decode(read_bytes(picture), picture)) is False:
        listener.caution(f"{picture}: its pixels are not those of its record; compared is what it shows now")
    made = {key: value for key, value in record.items() if key != "pixels"}  # those will be its own
    task = _Task(job, task.seed, path, made | {"refs": task.record["refs"]})
    if not _finished(task, overwrite):
        _render_all([task], models, listener)
    return RenderedPicture(path, layout.shown_name, task.seed), _same_pixels(picture, path)


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


def _path(out: Path, job: Job, seed: int) -> Path:
    return out / f"{job.stem}_seed{seed}.png"


def _tasks(jobs: Sequence[Job], out: Path, weights: Weights, analyzer: FaceAnalyzer, listener: Listener) -> list[_Task]:
    if jobs:
        listener.stage("Finding the model")
        weights.locate()
        if caution := weights.other_base():
            listener.caution(caution)
        if weights.device.type == "cuda" and weights.config.memory == "auto":
            listener.notice(f"Memory: {weights.mode} ({weights.memory_reason})")
    return [
        _Task(job, seed, _path(out, job, seed), _record(job, seed, out, weights, analyzer))
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


def _finished(task: _Task, overwrite: bool, precision_matters: bool = True) -> bool:
    """Whether the picture exists and is this very one. Raises InputError when another one has its name.

    precision_matters: False when the precision follows from what memory is free, which may differ by the hour.
    """
    if not task.path.exists() or overwrite:
        return False
    try:
        record = read_record(task.path)
    except InputError:
        record = {}
    keys = ("fingerprint", "precision") if precision_matters else ("fingerprint",)
    if any(record.get(key) != task.record[key] for key in keys):
        raise InputError(
            "exists and was made from something else", file=task.path,
            remedy="Choose another --out, or replace it with --overwrite",
        )  # fmt: skip
    return True


def _render_all(tasks: Sequence[_Task], models: RenderModels, listener: Listener) -> None:
    """One model for all, text and faces encoded once a layout, `config.batch` pictures a call."""
    if not tasks:
        return
    with _ONE_AT_A_TIME:
        _render_held(tasks, models, listener)


_ONE_AT_A_TIME = threading.RLock()
"""Opening a model borrows torch's default device, and a scheduler counts its steps: neither is for two threads."""


def _render_held(tasks: Sequence[_Task], models: RenderModels, listener: Listener) -> None:
    renderer = models.renderer(listener)
    listener.begin(len(tasks), sum(renderer.calls(task.job.layout) for task in tasks))
    try:
        for together in _batches(tasks, models.weights.config.batch):
            pictures = renderer.pictures([task.wanted for task in together], listener)
            for task, picture in zip(together, pictures, strict=True):
                write_png(picture, task.path, task.record)
                listener.picture(task.path, skipped=False)
    finally:
        listener.end()


def _batches(tasks: Sequence[_Task], most: int) -> list[list[_Task]]:
    """In order, as many at once as one call takes: of one size, with the same steps and guidance."""
    batches: list[list[_Task]] = []
    for task in tasks:
        last = batches[-1] if batches else []
        if last and len(last) < most and last[0].wanted.goes_with(task.wanted):
            last.append(task)
        else:
            batches.append([task])
    return batches


def _recorded_config(record: dict[str, Any], given: GenerateConfig, picture: Path) -> GenerateConfig:
    try:
        return GenerateConfig.model_validate({**record["asked"], **given.model_dump(exclude_unset=True)})
    except ValidationError as error:
        field = f"record.asked.{error.errors()[0]['loc'][0]}"
        raise InputError("is damaged or was edited", file=picture, field=field) from None


def recorded_layout(record: dict[str, Any], picture: Path, refs_root: Path | None) -> Layout:
    """The layout that a picture was made from, references included. Raises InputError where their folder is gone."""
    root = refs_root or (Path(os.path.realpath(picture)).parent / record["refs"])
    if not root.is_dir():
        what = f"the folder of its references, {record['refs']!r}, is not there"
        raise InputError(what, file=picture, remedy="Name it with --refs-root")
    return parse_layout(record["layout"], root / Path(record["layout_name"]).name, refs_root)


def _refuse_changes(record: dict[str, Any], now: dict[str, Any], picture: Path) -> None:
    """What made the picture must still be there, unchanged. Raises InputError naming what is not."""
    for key in ("references", "model", "adapter", "loras", "face_pack", "precision"):
        if _content(record.get(key), key) != _content(now.get(key), key):
            what = "was made with other LoRAs" if key == "loras" else f"was made with another {key.replace('_', ' ')}"
            if key == "references":
                changed = [r for r in record[key] if record[key][r] != now[key].get(r)]
                what = f"was made with other references: {', '.join(changed)}"
            raise InputError(what, file=picture, remedy="The same picture needs the same files")
    if record["fingerprint"] != fingerprint_of({**now, "loras": record.get("loras")}):
        raise InputError("is damaged or was edited", file=picture, field="record.layout")


def _content(told: Any, key: str) -> Any:
    """LoRAs are their bytes and scales, wherever they lie."""
    if key != "loras" or not isinstance(told, list):
        return told
    return [{name: value for name, value in one.items() if name != "name"} for one in told]


def _same_pixels(a: Path, b: Path) -> bool:
    from PIL import Image

    with Image.open(a) as first, Image.open(b) as second:
        return first.size == second.size and first.tobytes() == second.tobytes()
