"""Renders of the editor, one after another in a thread of their own, each by the same `render` as on the command line.

A render keeps what it was asked for in <layout>_pictures/NNN/layout.json, its pictures and verdicts beside it: the
history on the page is what lies there, and is there again after a restart.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.errors import AnyPhotoError, EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.layout.write import as_text
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.types import Picture

LAYOUT, MOST_WAITING, MOST_KEPT = "layout.json", 8, 200


class Cancelled(Exception):
    """The user does not want it any more."""


@dataclass(eq=False)
class Job:
    """One render. state: waiting, rendering, done, failed, cancelled. steps: of `total` denoising steps."""

    id: str
    folder: Path
    state: str = "waiting"
    steps: int = 0
    total: int = 0
    told: str = ""
    preview: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def set(self, **values: Any) -> None:
        """Change it, and wake who watches."""
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def shown(self) -> dict[str, Any]:
        """For the page."""
        return {"id": self.id, "state": self.state, "steps": self.steps, "total": self.total, "told": self.told,
                "preview": self.preview, "results": self.results}  # fmt: skip

    @property
    def over(self) -> bool:
        """Nothing will change any more."""
        return self.state in ("done", "failed", "cancelled")


class _Reporter(Listener):
    """Progress of `render` into a job."""

    wants_preview = True

    def __init__(self, job: Job, look: Callable[[Path], None]) -> None:
        self._job, self._look = job, look

    def stage(self, text: str) -> None:
        """What takes a while before the first step."""
        self._job.set(told=text)

    def begin(self, pictures: int, steps: int) -> None:
        """Steps in all."""
        self._job.set(total=steps, steps=0, told="")

    def step(self) -> None:
        """Also where a cancelled render ends."""
        if self._job.stop.is_set():
            raise Cancelled
        self._job.set(steps=self._job.steps + 1)

    def picture(self, path: Path, skipped: bool) -> None:
        """Judged at once: the render may be cancelled in the next one."""
        self._look(path)

    def preview(self, picture: Picture) -> None:
        """As an address that a page can show."""
        self._job.set(preview=_png_address(picture))


class Jobs:
    """The queue. config, refs_root: as for `generate`; models are opened at the first render and kept."""

    def __init__(self, layout: Path, config: GenerateConfig, refs_root: Path | None = None) -> None:
        self._layout, self._config = layout, config
        self._refs_root = refs_root or layout.parent
        self._waiting: queue.Queue[tuple[Job, dict[str, Any]] | None] = queue.Queue()
        self._jobs: dict[str, Job] = {}
        self._models: Any = None
        self.closing = False
        """The editor ends: who watches is let go."""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="renders", daemon=True)
        self._thread.start()

    @property
    def folder(self) -> Path:
        """Where everything rendered lies."""
        return self._layout.parent / f"{self._layout.stem}_pictures"

    def ask(self, document: dict[str, Any]) -> Job:
        """Queue a render of a checked layout. Raises InputError where too many wait, EnvironmentFault where its layout
        cannot be written; it is then not queued.
        """
        with self._lock:
            if sum(not job.over for job in self._jobs.values()) >= MOST_WAITING:
                raise InputError(f"{MOST_WAITING} renders are waiting", field="render", remedy="Let one finish first")
            number = 1 + max((int(path.name) for path in _numbered(self.folder)), default=0)
            folder = self.folder / f"{number:03d}"
            _keep(document, folder)
            job = self._jobs[folder.name] = Job(folder.name, folder)
        self._waiting.put((job, document))
        return job

    def get(self, id_: str) -> Job | None:
        """None for one of another start."""
        return self._jobs.get(id_)

    def cancel(self, id_: str) -> bool:
        """False where there is nothing to cancel."""
        job = self._jobs.get(id_)
        if job is None or job.over:
            return False
        job.stop.set()
        with job.changed:
            waiting = job.state == "waiting"
            if waiting:  # it need not come up first
                job.state = "cancelled"
                job.changed.notify_all()
        if waiting:
            _forget(job.folder)
        return True

    def running(self) -> list[dict[str, Any]]:
        """What is rendered or waits, the oldest first."""
        return [job.shown() for job in list(self._jobs.values()) if not job.over]

    def history(self) -> list[dict[str, Any]]:
        """Everything that lies there, the newest first."""
        found = []
        for folder in sorted(_numbered(self.folder), key=lambda path: -int(path.name))[:MOST_KEPT]:
            results = [_result(picture) for picture in sorted(_pictures(folder))]
            if results:
                found.append({"id": folder.name, "results": results})
        return found

    def picture(self, id_: str, name: str) -> Path | None:
        """A rendered picture; None for every other name, also one that leads elsewhere."""
        folders = {folder.name: folder for folder in _numbered(self.folder)}
        found = {file.name: file for file in _pictures(folders[id_])} if id_ in folders else {}
        return found.get(name)

    def close(self) -> None:
        """End the thread after the step under way."""
        self.closing = True
        for job in self._jobs.values():
            job.stop.set()
        self._waiting.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while (asked := self._waiting.get()) is not None:
            job, _ = asked
            try:
                if not self._begin(job):
                    continue
                self._render(job)
                job.set(state="done")
            except Cancelled:
                _forget(job.folder)
                job.set(state="cancelled")
            except AnyPhotoError as error:
                _forget(job.folder)
                job.set(state="failed", told=str(error))
            except Exception as error:
                # One bad render must not end all later ones; the page says what it was, the terminal where.
                logging.getLogger(__name__).exception("render %s", job.id)
                _forget(job.folder)
                job.set(state="failed", told=f"{type(error).__name__}: {error}"[:300])

    def _begin(self, job: Job) -> bool:
        """False for one that was cancelled while it waited."""
        with job.changed:
            if job.over:
                return False
            job.state = "rendering"
            job.changed.notify_all()
        if job.stop.is_set():  # the editor ends
            raise Cancelled
        return True

    def _render(self, job: Job) -> None:
        from anyphoto_cli.generate.rendering import find_models, render
        from anyphoto_cli.generate.verifying import Looker
        from anyphoto_cli.layout.schema import load_layout

        job.set(told="Loading the model")
        if self._models is None:
            self._models = find_models(self._config)
        file, root = job.folder / LAYOUT, self._refs_root
        layout, looker = load_layout(file, root), Looker(None, _verify_config(), self._models.analyzer)

        def look(picture: Path) -> None:
            if layout.faces and self._models.analyzer.detects:
                looker.look(picture, layout)

        reporter = _Reporter(job, look)
        rendered = render([file], job.folder, self._config, refs_root=root, listener=reporter, models=self._models)
        job.set(results=[_result(picture.path) for picture in rendered.pictures], preview="")


def _verify_config() -> Any:
    from anyphoto_cli.config.verify import VerifyConfig

    return VerifyConfig()


def watch(job: Job, wait: Callable[[], bool], every_s: float = 15.0) -> Iterator[dict[str, Any]]:
    """What a job shows, now and at each change until it is over, and every `every_s` seconds. wait: False ends it, half
    a second later at most.
    """
    last: dict[str, Any] = {}
    while wait():
        with job.changed:
            due = time.monotonic() + every_s
            while job.shown() == last and not job.over and wait() and time.monotonic() < due:
                job.changed.wait(0.5)
            last = job.shown()
        yield last
        if job.over:
            return


def _numbered(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()] if folder.is_dir() else []


def _pictures(folder: Path) -> list[Path]:
    """As `render` names them: not the copies beside them, layout_seed7_again.png or layout_seed7.verify.png."""
    return [file for file in folder.glob("*.png") if re.fullmatch(r".+_seed\d+", file.stem)]


def _result(picture: Path) -> dict[str, Any]:
    """One picture for the page: its name, seed, score and a line a face."""
    beside = picture.with_name(picture.stem + ".verify.json")
    try:
        told: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        faces = [
            {
                "name": face["name"],
                "state": face["state"],
                "cosine": face.get("cosine"),
                "like": face.get("like", ""),
                "off": face.get("off"),
            }
            for face in told.get("faces", [])
        ]
        extra = [{"twice": face.get("twice", "")} for face in told.get("extra", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or damaged: one without a verdict
        told, faces, extra = {}, [], []
    return {"picture": f"{picture.parent.name}/{picture.name}", "seed": int(picture.stem.rpartition("_seed")[2]),
            "score": told.get("score"), "passed": told.get("passed"), "faces": faces,
            "extra": extra}  # fmt: skip


def _keep(document: dict[str, Any], folder: Path) -> None:
    """The layout in a folder of its own, or neither. Raises EnvironmentFault."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise EnvironmentFault(f"cannot write here ({error.strerror})", file=folder) from error
    try:
        with committed(folder / LAYOUT) as out:
            out.write(as_text(document).encode())
    except EnvironmentFault:
        _forget(folder)
        raise


def _forget(folder: Path) -> None:
    """A render without a picture leaves nothing."""
    if not any(folder.glob("*.png")):
        shutil.rmtree(folder, ignore_errors=True)


def _png_address(picture: Picture) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
