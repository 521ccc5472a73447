"""What is to be rendered: every layout read, checked and definite, every face found, before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import InputError, PictureFault
from anyphoto_cli.generate.conditions import Conditions, prepare_faces
from anyphoto_cli.layout.check import check_layout
from anyphoto_cli.layout.schema import Layout, load_layout
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.seams import Base, FaceAnalyzer

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Job:
    """A layout with nothing left open (seed, steps, num_images), and its people."""

    layout: Layout
    conditions: Conditions

    @property
    def stem(self) -> str:
        """First part of its pictures' names."""
        return self.layout.file.stem if self.layout.file else "layout"

    def seeds(self) -> range:
        """One a picture: the k-th has seed + k, so that picture k never depends on how many there are."""
        first = self.layout.seed or 0
        return range(first, first + self.layout.num_images)


class Refusals:
    """Layouts and pictures left out under keep_going; without it the first refusal ends the run."""

    def __init__(self, keep_going: bool) -> None:
        self.lines: list[str] = []
        self._keep_going = keep_going

    def attempt(self, work: Callable[[], T]) -> T | None:
        """The result of `work`, or None when it refused its input or came to nothing, and the run is to go on."""
        try:
            return work()
        except (InputError, PictureFault) as error:
            if not self._keep_going:
                raise
            self.lines.append(str(error))
            return None


def read_layouts(
    layouts: Path | str | Sequence[Path | str], refs_root: Path | None, refusals: Refusals, listener: Listener
) -> list[Layout]:
    """Layouts in the order given, checked; folders stand for their *.json, sorted. Needs no torch: bad input is refused
    in a second. Raises InputError unless refusals may go on.
    """

    def read(file: Path) -> Layout:
        layout = load_layout(file, refs_root)
        for caution in check_layout(layout).cautions:
            listener.caution(f"{layout.shown_name}: {caution}")
        return layout

    read_or_refused = [refusals.attempt(partial(read, file)) for file in layout_files(layouts)]
    return [layout for layout in read_or_refused if layout is not None]


def prepare_jobs(
    layouts: Sequence[Layout],
    base: Base,
    config: GenerateConfig,
    analyzer: FaceAnalyzer,
    method: MethodConfig,
    refusals: Refusals,
    listener: Listener,
    tries: int = 1,
) -> list[Job]:
    """Every value settled, every face found. tries: seeds for each picture that is asked for. Raises InputError unless
    refusals may go on.
    """

    def prepare(layout: Layout) -> Job:
        for caution in unusual(layout, base):
            listener.caution(f"{layout.shown_name}: {caution}")
        settled = settle(layout, base, config, tries)
        conditions = prepare_faces(settled, analyzer, method)
        for choice in conditions.choices:
            listener.notice(f"{layout.shown_name}: {choice}")
        return Job(settled, conditions)

    jobs = [refusals.attempt(partial(prepare, layout)) for layout in layouts]
    return [job for job in jobs if job is not None]


def unusual(layout: Layout, base: Base) -> list[str]:
    """A sentence each: where the picture has another size, or is guided otherwise, than the base knows."""
    found, size = [], f"{layout.width}x{layout.height}"
    shortest, longest = base.sides
    if min(layout.width, layout.height) < shortest or max(layout.width, layout.height) > longest:
        found.append(f"{size} is outside the {shortest}-{longest} px that {base.name} was trained on")
    elif base.tallest is not None and layout.height > base.tallest:
        found.append(f"{size} is higher than the {base.tallest} px that {base.name} was trained on")
    if base.guidance is not None and not base.guidance[0] <= layout.guidance_scale <= base.guidance[1]:
        least, most = base.guidance
        asked = f"guidance_scale {layout.guidance_scale:g}"
        found.append(f"{asked} is outside the {least:g} to {most:g} that {base.name} can be told")
    return found


def layout_files(layouts: Path | str | Sequence[Path | str]) -> list[Path]:
    """One or several: files as they are, folders as their *.json. Raises InputError for an empty folder, or two layouts
    of one name.
    """
    files: list[Path] = []
    for path in map(Path, [layouts] if isinstance(layouts, str | Path) else layouts):
        found = [file for file in sorted(path.glob("*.json")) if not file.name.endswith(".verify.json")]
        found = found if path.is_dir() else [path]
        if not found:
            raise InputError("holds no .json files", file=path)
        files += found
    seen: dict[str, Path] = {}
    for file in files:
        if seen.setdefault(file.stem, file) is not file:
            what = f"has the same name as {seen[file.stem]}, so their pictures would too"
            raise InputError(what, file=file, remedy="Rename one, or render them into different folders")
    return files


def settle(layout: Layout, base: Base, config: GenerateConfig, tries: int = 1) -> Layout:
    """The layout with every open value decided: the command line wins over the layout, the layout over the base."""

    def first(*values: int | None) -> int:
        return next(value for value in values if value is not None)

    decided: dict[str, Any] = {
        "seed": first(config.seed, layout.seed, 0),
        "steps": first(config.steps, layout.steps, base.steps),
        "num_images": tries * first(config.num_images, layout.num_images),
    }
    if decided["seed"] + decided["num_images"] > 2**63:
        raise InputError("seed + num_images is too large", file=layout.shown_name, field="seed")
    if config.strength is not None:
        decided["faces"] = tuple(face.model_copy(update={"strength": config.strength}) for face in layout.faces)
    return layout.model_copy(update=decided)
