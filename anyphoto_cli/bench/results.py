"""What stands in a folder of scores: one line a case, the settings, the summary. Also: where a case's picture lies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.sources import FileSource, Source
from anyphoto_cli.bench.summing import METRICS
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.runtime.run_record import read_record

LINES, SUMMARY, SETTINGS = "cases.jsonl", "summary.json", "bench.json"
SCORES, RUN = "scores", "run.json"
"""In the folder of `bench run`: the folder of its scores, and what was asked for."""
FINISHED = ("scored", "no face")
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class Results:
    """Where pictures of cases lie: <id>.png, <id>/out.png (also .jpg, .webp), <id>_seed<n>.png (the lowest seed); of no
    folder the cases' own. The folder is listed once.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def of(self, case: Case) -> Source | None:
        """None where there is none."""
        if self._folder is None:
            return case.result
        for ending in _ENDINGS:
            for file in (self._folder / f"{case.id}{ending}", self._folder / case.id / f"out{ending}"):
                if file.is_file():
                    return FileSource(file)
        seed = self._seeds.get(case.id)
        return None if seed is None else FileSource(self._folder / f"{case.id}_seed{seed}.png")

    def strays(self, ids: Iterable[str]) -> list[str]:
        """Names of pictures, in order, that belong to none of these cases; <id>_seed<n> of any kind belongs to <id>."""
        if self._folder is None or not self._folder.is_dir():
            return []
        known, strays = set(ids), []
        for entry in self._folder.iterdir():
            if entry.is_dir():
                found = [file for ending in _ENDINGS if (file := entry / f"out{ending}").is_file()]
                strays += [f"{entry.name}/{file.name}" for file in found if entry.name not in known]
            elif entry.suffix in _ENDINGS:
                seeded = re.fullmatch(r"(.+)_seed\d+(\.verify)?", entry.stem)
                if not known & {entry.stem, seeded[1] if seeded else entry.stem}:
                    strays.append(entry.name)
        return sorted(strays)

    @cached_property
    def _seeds(self) -> dict[str, int]:
        """Id -> the lowest seed of its pictures."""
        found: dict[str, int] = {}
        for file in self._folder.iterdir() if self._folder and self._folder.is_dir() else ():
            if match := re.fullmatch(r"(.+)_seed(0|[1-9]\d*)\.png", file.name):
                found[match[1]] = min(int(match[2]), found.get(match[1], int(match[2])))
        return found


def all_lines(out: Path) -> list[dict[str, Any]]:
    """Every case's line, also of those that could not be scored; what is torn or damaged is none."""
    file = out / LINES
    if not file.is_file():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("id"), str):
            lines.append(line)
    return lines


def write_lines(out: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """All of them anew."""
    with committed(out / LINES) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def read_summary(run: Path) -> dict[str, Any]:
    """summary.json of a scored folder. Raises InputError where there is none."""
    file = run / SUMMARY
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for part in document["subsets"].values():
            for metric in METRICS:
                part["metrics"][metric]["mean"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "Name a folder that `anyphoto bench score -o` wrote"
        what = f"{SUMMARY} is not whole" if file.is_file() else f"holds no {SUMMARY}"
        raise InputError(what, file=run, remedy=remedy) from error
    return document


def need_folder(out: Path) -> None:
    """Raises InputError where something else has the name of a folder that is to be written."""
    if out.exists() and not out.is_dir():
        raise InputError("is no folder", file=out, field="--out", remedy="Name another one")


def claim(
    file: Path, kept: Mapping[str, Any], what: str, later: Iterable[str] = (), begun: bool = True,
    free: Iterable[str] = (),
) -> None:  # fmt: skip
    """A folder's settings are those of its first run, in `file`. Raises InputError for others, naming the first.

    what: scores, pictures. later: settings that older versions did not write down; there they are taken as they are
    now. begun: whether anything was made with those in `file`; else they bind nobody. free: settings that nothing in
    the folder rests on.
    """
    need_folder(file.parent)
    was = (read_record(file.parent, file.name) if begun else {}) or dict(kept)
    known = {name: kept[name] for name in later if name in kept} | was | {n: kept[n] for n in free if n in kept}
    key = next((name for name in {**kept, **known} if known.get(name) != kept.get(name)), None)
    if key is not None:
        remedy = "Name another folder, or give what it began with"
        raise InputError(f"holds {what} made with {known.get(key)!r}", file=file.parent, field=key, remedy=remedy)
    if not begun or not file.is_file() or known != was:
        with committed(file) as written:
            written.write((json.dumps(kept, indent=2, sort_keys=True) + "\n").encode())
