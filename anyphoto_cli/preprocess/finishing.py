"""The end of a run: outcomes, report, card, and last of all the manifest that makes the shards whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli import __version__
from anyphoto_cli.config.preprocess import STAGES
from anyphoto_cli.data.shards import Manifest, ShardRecord, write_manifest
from anyphoto_cli.files.commit import committed
from anyphoto_cli.preprocess.card import shards_card
from anyphoto_cli.preprocess.outcome import Tally, most_first, outcomes, write_outcomes, write_page
from anyphoto_cli.preprocess.selection import Selection, ShardPlan
from anyphoto_cli.preprocess.stage_run import StageRun
from anyphoto_cli.runtime.run_record import read_record


@dataclass(frozen=True)
class Preprocessed:
    """What a run has come to. finished: all stages are done; the numbers after it are 0 before that.

    reasons: why photos were dropped or failed, and how many, the commonest first.
    """

    folder: Path
    finished: bool
    photos: int
    kept: int = 0
    dropped: int = 0
    failed: int = 0
    shards: int = 0
    identities: int = 0
    reasons: tuple[tuple[str, int], ...] = ()


def finish(run: StageRun, selection: Selection, plan: ShardPlan) -> Preprocessed:
    """Card, report and, last of all, the manifest."""
    records = tuple(ShardRecord(**run.work.read("pack", k)[0][0]) for k in range(len(plan)))
    run.listener.stage("Writing the report")
    named = [record.name for record in records]
    tally = write_outcomes(run.out / "report.jsonl", outcomes(run.photos, run.work, selection, plan, named))
    facts = _facts(run, tally)
    write_page(
        run.out / "report.html", _told(facts), tally, run.photos, run.work, selection, run.bank, run.config
    )  # fmt: skip
    with committed(run.out / "shards" / "README.md") as out:
        out.write(shards_card(run.config, facts, tally).encode())
    write_manifest(run.out, Manifest(records, facts))
    dropped = tally.photos - tally.kept - tally.failed
    return Preprocessed(
        run.out, True, tally.photos, tally.kept, dropped, tally.failed, len(records), len(tally.identities),
        tuple((reason, count) for (_, reason), count in most_first(tally.reasons)),
    )  # fmt: skip


def _facts(run: StageRun, tally: Tally) -> dict[str, Any]:
    record = read_record(run.out)
    hashed = {part: value for part, value in record.items() if part != "input"}
    text = json.dumps(hashed, sort_keys=True)
    return {
        "anyphoto": __version__, "config": {stage: record[stage] for stage in STAGES}, "models": record["models"],
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(), "input_sha256": run.photos.sha256,
        "photos": tally.photos, "identities": len(tally.identities), "kept": tally.kept, "failed": tally.failed,
    }  # fmt: skip


def _told(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """For the head of the page."""
    detect, caption = facts["config"]["detect"], facts["config"]["caption"]
    return [
        ("anyphoto", facts["anyphoto"]), ("Person model", detect["person_model"]), ("Face pack", detect["face_pack"]),
        ("Captioner", caption["captioner"]), ("Photos", str(facts["photos"])), ("Kept", str(facts["kept"])),
        ("Identities", str(facts["identities"])), ("Input sha256", facts["input_sha256"][:16]),
    ]  # fmt: skip
