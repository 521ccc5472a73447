"""`anyphoto preprocess` from end to end. Paper, appendix A.2: detect, match, caption, pack; each stage can wait."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anyphoto_cli.config.preprocess import STAGES, PreprocessConfig, RunOptions
from anyphoto_cli.data.bank import INDEX, read_index
from anyphoto_cli.data.shards import shard_name
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import sweep
from anyphoto_cli.preprocess.bank_making import SHUNNED, make_bank, references_digest
from anyphoto_cli.preprocess.caption_checks import captioning_digests
from anyphoto_cli.preprocess.captioning import (
    JOURNAL,
    caption_photos,
    forget_answers,
    open_again,
    open_captioner,
)
from anyphoto_cli.preprocess.detecting import open_detectors
from anyphoto_cli.preprocess.exclusions import unused_lines
from anyphoto_cli.preprocess.finishing import Preprocessed, finish
from anyphoto_cli.preprocess.intake import check_call, photo_list
from anyphoto_cli.preprocess.pieces import DetectPiece, MatchPiece, PackPiece
from anyphoto_cli.preprocess.redoing import forget_exclusions, forget_matches, unpack
from anyphoto_cli.preprocess.selection import Selection, ShardPlan, plan_shards, read_selection, select, write_selection
from anyphoto_cli.preprocess.stage_run import StageRun, too_many
from anyphoto_cli.preprocess.work import Work
from anyphoto_cli.runtime.executors import room
from anyphoto_cli.runtime.jobs import run_here
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.runtime.run_record import keep_options, only_one, read_record

_WRITTEN = ("shards", "bank", "work", *(f"work/{part}" for part in (*STAGES, SHUNNED)))
"""Folders below the run's own that it writes into."""


def run(
    sources: Path | str | Sequence[Path | str],
    out: Path,
    refs: Path | None = None,
    config: PreprocessConfig | None = None,
    options: RunOptions | None = None,
    *,
    stages: Sequence[str] = STAGES,
    exclude: Path | None = None,
    retry_failed: bool = False,
    listener: Listener | None = None,
) -> Preprocessed:
    """Photos and known faces in, training shards out. The same call goes on where another was cut off.

    sources: folders, tars, or lists. Raises InputError for bad input or options that a run in `out` did not begin
    with, EnvironmentFault for what the machine or a server lacks; what is finished stays.
    """
    given = [Path(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    config, options, listener = config or PreprocessConfig(), options or RunOptions(), listener or Listener()
    exclusions = check_call(given, out, refs, config, options, stages, exclude)
    with only_one(out / "work"):
        sweep(out, *_WRITTEN)
        config = _as_begun(config, out, stages)
        photos = photo_list(given, out, refs, listener)
        device, workers = room(options)
        started = StageRun(
            out, refs, config, options, exclusions, photos, Work(out / "work"), listener, device, workers
        )  # fmt: skip
        return _stages(started, [stage for stage in STAGES if stage in stages], exclude, retry_failed)


def _stages(run: StageRun, stages: Sequence[str], exclude: Path | None, retry_failed: bool) -> Preprocessed:
    do = {"detect": _detect, "match": _match, "caption": _caption, "pack": _pack}
    left_out = [stage for stage in STAGES[: STAGES.index(stages[-1])] if stage not in stages] if stages else []
    for before in left_out:
        _must_be_done(run, before, exclude)
    for stage in stages if retry_failed else ():
        _must_fit(run, stage, exclude)
    for stage in stages:
        if stage == "match":
            _exclude_anew(run, exclude)
        told = _told_to(run, stage, exclude)
        keep_options(run.out, stage, told, run.begun(stage), free=MENDED if retry_failed else ())
        do[stage](run, retry_failed)
    if "pack" not in stages:
        return Preprocessed(run.out, False, run.photos.count)
    return finish(run, _selection(run), _plan(run))


def _must_be_done(run: StageRun, before: str, exclude: Path | None) -> None:
    """An earlier stage that this call leaves out: done, and with what this call was told: later stages go by it too."""
    if left := run.left(before):
        what = f"stage {before} is not done: {left} pieces are left"
        raise InputError(what, file=run.out, field="--stages", remedy=f"Run --stages {before} first")
    told = _told(run, before, exclude)
    if before == "match":
        told = {key: value for key, value in told.items() if value or key not in ("exclude", "references")}
        _same_exclusions(run, told)
    keep_options(run.out, before, {**read_record(run.out).get(before, {}), **told})


def _must_fit(run: StageRun, stage: str, exclude: Path | None) -> None:
    """Before anything goes: a stage that has begun is told what it began with, but for what may be told anew."""
    if not run.begun(stage):
        return
    told, was = _told_to(run, stage, exclude), read_record(run.out).get(stage, {})
    if stage == "match" and exclude is None and was.get("exclude"):
        remedy = "Give its --exclude again; a file without lines leaves nobody out"
        raise InputError("this run leaves people or photos out, now none are named", file=run.out, remedy=remedy)
    keep_options(run.out, stage, {**told, **{key: was[key] for key in ("exclude", *MENDED) if key in was}})


def _exclude_anew(run: StageRun, exclude: Path | None) -> None:
    """Where --exclude says something else than the run has gone by, what rests on it goes, once all else fits."""
    told, was = _told(run, "match", exclude), read_record(run.out).get("match", {})
    if not run.begun("match") or was.get("exclude", told["exclude"]) == told["exclude"]:
        return
    _must_fit(run, "match", exclude)
    forget_exclusions(run)
    keep_options(run.out, "match", told, begun=False)


def _same_exclusions(run: StageRun, told: Mapping[str, Any]) -> None:
    """Of a call that leaves stage match out: it decides who is left out."""
    if told.get("exclude") not in (None, read_record(run.out).get("match", {}).get("exclude")):
        remedy = "Add stage match (--stages match,caption,pack)"
        raise InputError("names others than stage match went by", file=run.out, field="--exclude", remedy=remedy)


PLACES = ("caption_url", "caption_file", "caption_prompt")
"""Keys that say where something is: a server may move, and its captions are the same; of files the sha256 is kept."""
MENDED = ("caption_file_sha256",)
"""Rows that were missing may be added to a file of captions, for those that failed to be tried again."""


def _told(run: StageRun, stage: str, exclude: Path | None) -> dict[str, Any]:
    """What the results of a stage rest on besides those of the stages before it."""
    told = {key: value for key, value in run.config.of_stage(stage).items() if key not in PLACES}
    if stage == "match":
        told["exclude"] = hashlib.sha256(exclude.read_bytes()).hexdigest() if exclude else ""
        told["references"] = references_digest(run.refs) if run.refs else ""
    return told


def _told_to(run: StageRun, stage: str, exclude: Path | None) -> dict[str, Any]:
    """The same of a stage that this call does: where captions are left out, their files need not be there any more."""
    return _told(run, stage, exclude) | (captioning_digests(run.config) if stage == "caption" else {})


def _as_begun(config: PreprocessConfig, out: Path, stages: Sequence[str]) -> PreprocessConfig:
    """`config`, where keys of stages that this call leaves out and does not speak of are as the run in `out` has them:
    a picture's size and the size of patches are options of early stages, and captions and shards go by them as well.
    """
    record = read_record(out)
    begun = {
        key: value
        for stage in STAGES if stage not in stages
        for key, value in record.get(stage, {}).items()
        if key in PreprocessConfig.model_fields and key not in config.model_fields_set
    }  # fmt: skip
    given = {**config.model_dump(mode="json", exclude_unset=True), **begun}
    return PreprocessConfig.model_validate_json(json.dumps(given))


# detect


def _detect(run: StageRun, retry_failed: bool) -> None:
    failed_before = _failed(run) if retry_failed else []
    todo = sorted([*run.work.missing("detect", len(run.photos)), *failed_before])
    if not todo:
        return
    # Opened here first: a wrong option is one line before any worker starts, and a download happens once.
    run.listener.stage("Loading the person and face models")
    models = open_detectors(run.config, "cpu", threads=1)
    hashes = {"persons": models.persons.sha256, "faces": models.faces.sha256}
    keep_options(run.out, "models", hashes, run.begun("detect"))
    del models
    if failed_before:
        forget_matches(run, failed_before)
    before = run.photos.count - sum(len(run.photos.numbers(chunk)) for chunk in todo)
    run.listener.work("Persons and faces", run.photos.count, before)
    job = DetectPiece(run.photos, run.work, run.config, run.device, run.options.batch)
    failed = faces = 0
    seen = before if retry_failed else 0  # chunks that failed are often side by side: the share is that of the run
    try:
        for _, (photos, bad, found) in run.do(job, todo):
            seen, failed, faces = seen + photos, failed + bad, faces + found
            run.listener.done(photos, f"{faces} faces, {failed} unreadable")
            _not_too_many(failed, seen, run)
    finally:
        run.listener.end()


def _not_too_many(failed: int, seen: int, run: StageRun) -> None:
    if too_many(failed, seen, run.photos.count, run.options.max_failed):
        what = f"{failed} of the first {seen} photos could not be read (limit {run.options.max_failed:.0%})"
        remedy = f"{'; '.join(_unreadable(run))}. Look at what is wrong with them, or raise --max-failed"
        raise EnvironmentFault(what, file=run.out, remedy=remedy)


def _unreadable(run: StageRun, most: int = 3) -> list[str]:
    """The first photos that could not be read, and why."""
    told: list[str] = []
    for chunk in range(len(run.photos)):
        if run.work.has("detect", chunk) and len(told) < most:
            rows = run.work.read("detect", chunk)[0]
            told += [
                f"{photo.id} {row['problem']}"
                for photo, row in zip(run.photos.photos(chunk), rows, strict=True) if row["problem"]
            ]  # fmt: skip
    return told[:most]


def _failed(run: StageRun) -> list[int]:
    """Chunks with a photo that could not be read."""
    done = [chunk for chunk in range(len(run.photos)) if run.work.has("detect", chunk)]
    return [chunk for chunk in done if any(row["problem"] for row in run.work.read("detect", chunk)[0])]


# match


def _match(run: StageRun, retry_failed: bool) -> None:
    todo = run.work.missing("match", len(run.photos))
    if todo:
        make_bank(run)
        _say_unused(run)
        run.listener.work("Identities", run.photos.count)
        shunned = run.work.folder / SHUNNED
        job = MatchPiece(run.photos, run.work, run.bank, shunned, run.exclusions, run.config)
        stay = 0
        try:
            # The product with the bank takes all cores of a machine already.
            for _, (photos, some) in run.do(job, todo) if run.options.executor == "ray" else run_here(job, todo):
                stay += some
                run.listener.done(photos, f"{stay} stay")
        finally:
            run.listener.end()
    if read_selection(run.work.folder) is None:
        run.listener.stage("Comparing photos with each other")
        write_selection(run.work.folder, select(run.photos, run.work, run.config.near_duplicates))


def _say_unused(run: StageRun) -> None:
    """Lines of --exclude that fit nobody and nothing: mostly a name that is spelled another way."""
    shunned = run.work.folder / SHUNNED
    names = {name for bank in (run.bank, shunned) if (bank / INDEX).is_file() for name in read_index(bank)[0]}
    for line in unused_lines(run.exclusions, run.photos, run.work, names):
        run.listener.caution(f"--exclude: {line} fits nothing")


# caption


def _caption(run: StageRun, retry_failed: bool) -> None:
    selection = _selection(run)
    forget_answers(run.photos, run.work, selection, retry_failed)
    journalled = (run.work.folder / "caption" / JOURNAL).is_file()
    if not (journalled or run.left("caption") or open_again(run.photos, run.work, selection, retry_failed)):
        return
    captioner = open_captioner(run.config, run.options)
    if captioner.looks:
        run.listener.stage(f"Captioning by {captioner.name}")  # a model in this process is loaded first, for minutes
    try:
        caption_photos(
            run.photos, run.work, selection, captioner, run.config, run.listener, run.options.max_failed, retry_failed,
            anew=lambda: unpack(run),
        )  # fmt: skip
    finally:
        run.listener.end()


def _selection(run: StageRun) -> Selection:
    selection = read_selection(run.work.folder)
    if selection is None:
        raise InputError("stage match is not done", file=run.out, field="--stages", remedy="Run --stages match first")
    return selection


# pack


def _pack(run: StageRun, retry_failed: bool) -> None:
    if unasked := open_again(run.photos, run.work, _selection(run), False):
        what = f"stage caption is not done: photos of {len(unasked)} pieces stay that have no caption yet"
        raise InputError(what, file=run.out, field="--stages", remedy="Run --stages caption,pack")
    plan = _plan(run)
    todo = [k for k in range(len(plan)) if not _packed(run, k)]
    run.listener.work("Shards", len(plan), len(plan) - len(todo))
    try:
        for _ in run.do(PackPiece(run.photos, run.work, run.out / "shards", plan, run.config), todo):
            run.listener.done(1)
    finally:
        run.listener.end()


def _plan(run: StageRun) -> ShardPlan:
    return plan_shards(run.photos, run.work, _selection(run), run.config.shard_size)


def _packed(run: StageRun, number: int) -> bool:
    """Whether a shard is there as it was written; its sha256 is a reader's to check."""
    file = run.out / "shards" / shard_name(run.config.split, number)
    if not run.work.has("pack", number) or not file.is_file():
        return False
    return bool(file.stat().st_size == run.work.read("pack", number)[0][0]["bytes"])
