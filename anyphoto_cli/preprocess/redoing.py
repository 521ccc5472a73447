"""What goes when a part of a run is done again: the last first, so that what is left fits together at any moment."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from anyphoto_cli.data.bank import INDEX
from anyphoto_cli.data.shards import MANIFEST
from anyphoto_cli.preprocess.bank_making import SHUNNED
from anyphoto_cli.preprocess.selection import FILE
from anyphoto_cli.preprocess.stage_run import StageRun


def unpack(run: StageRun) -> None:
    """The shards depend on every photo and caption. Of the names that a run gives: other tars may lie there."""
    name = re.compile(re.escape(run.config.split) + r"-\d{6,}\.tar")
    shards = sorted(file for file in (run.out / "shards").glob("*.tar") if name.fullmatch(file.name))
    for file in [run.out / MANIFEST, *sorted((run.work.folder / "pack").glob("*.npz")), *shards]:
        file.unlink(missing_ok=True)


def forget_matches(run: StageRun, chunks: Sequence[int]) -> None:
    """Who is in the photos of `chunks`, and which of all photos stay."""
    unpack(run)
    (run.work.folder / FILE).unlink(missing_ok=True)
    for chunk in chunks:
        run.work.file("match", chunk).unlink(missing_ok=True)


def forget_exclusions(run: StageRun) -> None:
    """All that rests on who and what must not be in the data. Detections and captions stay, and the people of a bank,
    who are sorted anew; groups of faces that look alike are made of other photos then.
    """
    forget_matches(run, range(len(run.photos)))
    for report in ("report.html", "report.jsonl"):
        (run.out / report).unlink(missing_ok=True)
    for folder in (run.bank, run.work.folder / SHUNNED):
        (folder / INDEX).unlink(missing_ok=True)
        if run.config.discover and folder.is_dir():
            shutil.rmtree(folder)
