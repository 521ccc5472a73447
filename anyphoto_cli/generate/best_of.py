"""`generate --best-of`, `--retry-until`: several seeds of one picture, looked at, the best one kept.

Every try is an ordinary picture of `render` in `out`/tries, with its verdict beside it, so that a run that was cut off
goes on, and nothing is rendered twice. The keeper is copied to `out` under its own seed: it is the picture that
`generate --seed` of that seed makes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.verify import VerifyConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.generate.planning import layout_files
from anyphoto_cli.generate.png_metadata import read_record, write_png
from anyphoto_cli.generate.rendering import RenderModels, find_models, render
from anyphoto_cli.generate.verifying import BESIDE, DRAWN, Looker, Verified
from anyphoto_cli.layout.schema import Layout, load_layout
from anyphoto_cli.runtime.progress import Listener

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
    listener, verify = listener or Listener(), verify or VerifyConfig()
    files = layout_files(layouts)
    opened = [load_layout(file, refs_root) for file in files]
    models = find_models(config)
    looker = Looker(None, verify, models.analyzer)
    one = _One(out, config, choice, models, looker, refs_root, overwrite, annotate, listener)
    kept = []
    for file, layout in zip(files, opened, strict=True):
        first = config.seed if config.seed is not None else layout.seed or 0
        for number in range(config.num_images if config.num_images is not None else layout.num_images):
            kept.append(one.picture(file, layout, first + number * choice.most))
    return kept


@dataclass(frozen=True, eq=False)
class _One:
    """What all pictures of a call share."""

    out: Path
    config: GenerateConfig
    choice: Choice
    models: RenderModels
    looker: Looker
    refs_root: Path | None
    overwrite: bool
    annotate: bool
    listener: Listener

    def picture(self, file: Path, layout: Layout, first: int) -> Kept:
        """Try seed after seed, keep the best."""
        tried: list[tuple[int, Verified]] = []
        for seed in range(first, first + self.choice.most):
            tried.append((seed, self._look(file, layout, seed)))
            self._tell(file, tried)
            if self.choice.until_passed and tried[-1][1].verdict.passed:
                break
        seed, best = max(tried, key=lambda one: (one[1].verdict.passed is True, one[1].verdict.score))
        told = tuple((number, one.verdict.score, one.verdict.passed) for number, one in tried)
        return Kept(self._keep(best, seed, told), seed, told)

    def _look(self, file: Path, layout: Layout, seed: int) -> Verified:
        asked = self.config.model_copy(update={"seed": seed, "num_images": 1})
        [picture] = render(
            [file], self.out / TRIES, asked, refs_root=self.refs_root, overwrite=self.overwrite,
            listener=_Quieter(self.listener), models=self.models,
        ).pictures  # fmt: skip
        return self.looker.look(picture.path, layout, annotate=self.annotate)

    def _tell(self, file: Path, tried: Sequence[tuple[int, Verified]]) -> None:
        seed, one = tried[-1]
        said = {True: "passed", False: "not passed", None: "not judged"}[one.verdict.passed]
        told = f"{file.name}, seed {seed}: score {one.verdict.score:.3f}, {said}"
        self.listener.notice(f"{told} ({len(tried)} of at most {self.choice.most})")

    def _keep(self, best: Verified, seed: int, tries: Sequence[tuple[int, float, bool | None]]) -> Verified:
        """Copies of the picture, its verdict and its boxes; the picture last."""
        beside = best.picture.with_name(best.picture.stem + BESIDE)
        told: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        told |= {"keeper": seed, "tries": [{"seed": s, "score": round(v, 4), "passed": p} for s, v, p in tries]}
        target = self.out / best.picture.name
        same = target.is_file() and _record(target) == _record(best.picture)
        if target.exists() and not same and not self.overwrite:
            remedy = "Choose another --out, or replace it with --overwrite"
            raise InputError("exists and was made from something else", file=target, remedy=remedy)
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


def _record(file: Path) -> Any:
    """What identifies a picture; None for one that is not ours."""
    try:
        record = read_record(file)
    except InputError:
        return None
    return record["fingerprint"], record["precision"]


class _Quieter(Listener):
    """Everything but which try is there: `_One` says that with its score."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner

    def notice(self, text: str) -> None:
        """Passed on."""
        self._inner.notice(text)

    def caution(self, text: str) -> None:
        """Passed on."""
        self._inner.caution(text)

    def stage(self, text: str) -> None:
        """Passed on."""
        self._inner.stage(text)

    def begin(self, pictures: int, steps: int) -> None:
        """Passed on."""
        self._inner.begin(pictures, steps)

    def step(self) -> None:
        """Passed on."""
        self._inner.step()

    def end(self) -> None:
        """Passed on."""
        self._inner.end()
