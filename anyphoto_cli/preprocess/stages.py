"""`anyphoto preprocess` from end to end. Paper, appendix A.2: detect, match, caption, pack; each stage can wait."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyphoto_cli import __version__
from anyphoto_cli.config.preprocess import STAGES, PreprocessConfig, RunOptions
from anyphoto_cli.data.bank import INDEX, list_references, read_identity, write_identity, write_index
from anyphoto_cli.data.shards import MANIFEST, Manifest, ShardRecord, shard_name, write_manifest
from anyphoto_cli.data.sources import PhotoInput, list_photos
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed, sweep
from anyphoto_cli.preprocess.captioning import caption_photos
from anyphoto_cli.preprocess.card import shards_card
from anyphoto_cli.preprocess.detecting import open_detectors
from anyphoto_cli.preprocess.discovery import cluster, discovered_identity, good_faces
from anyphoto_cli.preprocess.exclusions import Exclusions, read_exclusions
from anyphoto_cli.preprocess.outcome import Tally, most_first, outcomes, write_outcomes, write_page
from anyphoto_cli.preprocess.pieces import BankPiece, DetectPiece, MatchPiece, PackPiece
from anyphoto_cli.preprocess.selection import (
    FILE,
    Selection,
    ShardPlan,
    plan_shards,
    read_selection,
    select,
    write_selection,
)
from anyphoto_cli.preprocess.work import PhotoList, Work, open_photo_list, write_photo_list
from anyphoto_cli.registry import find, names
from anyphoto_cli.runtime.devices import free_workers, resolve_device
from anyphoto_cli.runtime.executors import run_through
from anyphoto_cli.runtime.jobs import Job, run_here
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.runtime.run_record import keep_options, only_one, read_record
from anyphoto_cli.seams import Captioner

LIST = "photos.jsonl"


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


@dataclass(frozen=True, eq=False)
class _Run:
    """What every stage of one call needs."""

    out: Path
    refs: Path | None
    config: PreprocessConfig
    options: RunOptions
    exclusions: Exclusions
    photos: PhotoList
    work: Work
    listener: Listener
    device: str
    workers: int

    @property
    def bank(self) -> Path:
        return self.out / "bank"

    def do(self, job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Through the executor that was asked for."""
        return run_through(
            self.options.executor, job, numbers, self.workers, address=self.options.ray_address,
            gpus=1.0 if self.device.startswith("cuda") else 0.0,
        )  # fmt: skip


def run(
    sources: Path | Sequence[Path],
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
    given = [sources] if isinstance(sources, Path) else list(sources)
    config, options, listener = config or PreprocessConfig(), options or RunOptions(), listener or Listener()
    _check(given, out, refs, config, stages)
    exclusions = read_exclusions(exclude) if exclude else Exclusions()
    if "caption" in stages:
        _captioner(config, options)
    with only_one(out / "work"):
        sweep(out)
        photos = _photo_list(given, out, refs, listener)
        device = resolve_device(options.device)
        started = _Run(
            out, refs, config, options, exclusions, photos, Work(out / "work"), listener, device,
            options.workers or free_workers(device),
        )  # fmt: skip
        return _stages(started, [stage for stage in STAGES if stage in stages], exclude, retry_failed)


def _check(
    sources: Sequence[Path], out: Path, refs: Path | None, config: PreprocessConfig, stages: Sequence[str]
) -> None:
    _need_packages(config)
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise InputError(f"{unknown[0]!r} is no stage", field="--stages", remedy=f"Stages: {', '.join(STAGES)}")
    if not sources:
        raise InputError("name a folder of photos, a tar, or a list", field="SOURCE")
    for source in [*sources, *([refs] if refs else [])]:
        if not source.exists():
            raise InputError("no such file or folder", file=source)
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise InputError("lies inside the photos", file=out, field="--out", remedy="Choose a folder beside them")
    if refs and config.discover:
        raise InputError("takes no --refs beside it", field="--discover")
    if not refs and not config.discover and config.min_identified and "match" in stages:
        remedy = "Give --refs DIR (refs/NAME/*.jpg) or --discover"
        raise InputError("nobody is known", field="--refs", remedy=remedy)
    # What a later stage would refuse is refused before hours of work.
    if refs and "match" in stages:
        list_references(refs)


def _need_packages(config: PreprocessConfig) -> None:
    """Raises EnvironmentFault for a package that only a later stage would miss."""
    wanted = [
        "imagehash",
        "jinja2",
        *(["sklearn"] if config.discover else []),
        *(["pycocotools"] if config.masks else []),
    ]
    if missing := [name for name in wanted if find_spec(name) is None]:
        raise EnvironmentFault(f"preprocess needs {missing[0]}", remedy='Run: pip install "anyphoto[preprocess]"')


def _photo_list(sources: Sequence[Path], out: Path, refs: Path | None, listener: Listener) -> PhotoList:
    """Listed anew each time: a run must go on with the photos it began with."""
    listener.stage("Listing photos")
    record = {"sources": [str(source.resolve()) for source in sources], "refs": str(refs.resolve()) if refs else ""}
    begun = (out / "work" / "detect").is_dir()
    keep_options(out, "input", record, begun)
    file = out / "work" / LIST
    if not (begun and file.is_file()):
        photos = write_photo_list(file, _all_photos(sources))
    else:
        photos = open_photo_list(file)
        again = write_photo_list(out / "work" / "again.jsonl", _all_photos(sources))
        again.file.unlink()
        if again.sha256 != photos.sha256:
            what = f"the photos are no longer those it began with ({photos.count} then, {again.count} now)"
            raise InputError(what, file=out, remedy="Give a new folder with -o")
    if not photos.count:
        file.unlink()
        raise InputError("holds no files", file=sources[0])
    return photos


def _all_photos(sources: Sequence[Path]) -> Iterator[PhotoInput]:
    """Several sources: their ids begin with the source's name, which must differ then."""
    for source in sources:
        for photo in list_photos(source):
            if len(sources) == 1:
                yield photo
            else:
                yield PhotoInput.from_json({**photo.to_json(), "id": f"{source.name}/{photo.id}"})


def _stages(run: _Run, stages: Sequence[str], exclude: Path | None, retry_failed: bool) -> Preprocessed:
    do = {"detect": _detect, "match": _match, "caption": _caption, "pack": _pack}
    for stage in stages:
        for before in STAGES[: STAGES.index(stage)]:
            if before not in stages and (left := _left(run, before)):
                what = f"stage {before} is not done: {left} pieces are left"
                raise InputError(what, file=run.out, field="--stages", remedy=f"Run --stages {before} first")
        told = run.config.of_stage(stage)
        if stage == "match":
            told["exclude"] = _sha256(exclude) if exclude else ""
        keep_options(run.out, stage, told, _begun(run, stage))
        do[stage](run, retry_failed)
    if "pack" not in stages:
        return Preprocessed(run.out, False, run.photos.count)
    return _finish(run)


def _begun(run: _Run, stage: str) -> bool:
    """Whether anything was made with the options of a stage: until then a mistake in them costs nothing."""
    made = next(run.work.folder.glob(f"{stage}/*"), None) is not None
    return made or (stage == "match" and run.bank.is_dir())


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _left(run: _Run, stage: str) -> int:
    return len(run.work.missing(stage, len(run.photos)))


# 1


def _detect(run: _Run, retry_failed: bool) -> None:
    if retry_failed:
        _forget(run, "detect", "problem")
    todo = run.work.missing("detect", len(run.photos))
    if not todo:
        return
    # Opened here first: a wrong option is one line before any worker starts, and a download happens once.
    run.listener.stage("Loading the person and face models")
    models = open_detectors(run.config, "cpu", threads=1)
    hashes = {"persons": models.persons.sha256, "faces": models.faces.sha256}
    keep_options(run.out, "models", hashes, _begun(run, "detect"))
    del models
    before = run.photos.count - sum(len(run.photos.numbers(chunk)) for chunk in todo)
    run.listener.work("Persons and faces", run.photos.count, before)
    job = DetectPiece(run.photos, run.work, run.config, run.device, run.options.batch)
    seen = failed = faces = 0
    try:
        for _, (photos, bad, found) in run.do(job, todo):
            seen, failed, faces = seen + photos, failed + bad, faces + found
            run.listener.done(photos, f"{faces} faces, {failed} unreadable")
            _not_too_many(failed, seen, run)
    finally:
        run.listener.end()


def _not_too_many(failed: int, seen: int, run: _Run) -> None:
    if seen >= min(50, run.photos.count) and failed > run.options.max_failed * seen:
        what = f"{failed} of the first {seen} photos could not be read (limit {run.options.max_failed:.0%})"
        remedy = "Look at what is wrong with them, or raise --max-failed"
        raise EnvironmentFault(what, file=run.out, remedy=remedy)


def _forget(run: _Run, stage: str, key: str) -> None:
    """Chunks with a failure are done again; what was made of them goes first."""
    for chunk in range(len(run.photos)):
        if run.work.has(stage, chunk) and any(row[key] for row in run.work.read(stage, chunk)[0]):
            for later in reversed(STAGES[STAGES.index(stage) :]):
                run.work.file(later, chunk).unlink(missing_ok=True)
            _unpack(run)


def _unpack(run: _Run) -> None:
    """The selection and the shards depend on every photo."""
    (run.work.folder / FILE).unlink(missing_ok=True)
    for file in [run.out / MANIFEST, *sorted((run.work.folder / "pack").glob("*.npz")), *_shard_files(run)]:
        file.unlink(missing_ok=True)


def _shard_files(run: _Run) -> list[Path]:
    return sorted((run.out / "shards").glob(f"{run.config.split}-*.tar"))


# 2


def _match(run: _Run, retry_failed: bool) -> None:
    todo = run.work.missing("match", len(run.photos))
    if todo:
        _bank(run)
        run.listener.work("Identities", run.photos.count)
        shunned = run.work.folder / "shunned"
        job = MatchPiece(run.photos, run.work, run.bank, shunned, run.exclusions, run.config)
        stay = 0
        try:
            for _, (photos, some) in run_here(job, todo):
                stay += some
                run.listener.done(photos, f"{stay} stay")
        finally:
            run.listener.end()
    if read_selection(run.work.folder) is None:
        run.listener.stage("Comparing photos with each other")
        write_selection(run.work.folder, select(run.photos, run.work, run.config.near_duplicates))


def _bank(run: _Run) -> None:
    """The bank, and beside it (in work/, without their use for training) the people who must not be in the data."""
    if run.config.discover:
        return _discovered_bank(run)
    references = list_references(run.refs) if run.refs else []
    excluded = run.exclusions.identities
    for folder, wanted in (
        (run.bank, tuple(r for r in references if r.name not in excluded)),
        (run.work.folder / "shunned", tuple(r for r in references if r.name in excluded)),
    ):
        if (folder / INDEX).is_file() or not (wanted or folder == run.bank):
            continue
        todo = [k for k in range(len(wanted)) if not (folder / f"{k:06d}.npz").is_file()]
        run.listener.work("Reference bank", len(wanted), len(wanted) - len(todo))
        try:
            for _ in run.do(BankPiece(wanted, folder, run.config, run.device), todo):
                run.listener.done(1)
        finally:
            run.listener.end()
        _index(run, folder, [one.name for one in wanted])


def _discovered_bank(run: _Run) -> None:
    if (run.bank / INDEX).is_file():
        return
    run.listener.stage("Grouping faces into identities")
    faces = good_faces(run.photos, run.work, run.config)
    groups = cluster(faces, run.config.discover_least)
    names = [f"person_{k + 1:03d}" for k in range(len(groups))]
    run.listener.work("Reference bank", len(groups))
    for k, (name, group) in enumerate(zip(names, groups, strict=True)):
        write_identity(run.bank, k, discovered_identity(name, group, faces, run.photos, run.work, run.config))
        run.listener.done(1)
    run.listener.end()
    _index(run, run.bank, names)


def _index(run: _Run, folder: Path, names: Sequence[str]) -> None:
    files = {name: f"{k:06d}.npz" for k, name in enumerate(names)}
    counts, left_out = {}, []
    for name, file in files.items():
        identity = read_identity(folder / file)
        counts[name] = len(identity.patches)
        left_out += [list(entry) for entry in identity.left_out]
    for source, reason in left_out[:20]:
        run.listener.caution(f"reference {source} {reason}: left out")
    facts = {"patch_size": run.config.patch_size, "faces_sha256": read_record(run.out)["models"]["faces"],
             "anyphoto": __version__, "left_out": left_out}  # fmt: skip
    write_index(folder, files, counts, facts)


# 3


def _caption(run: _Run, retry_failed: bool) -> None:
    if retry_failed:
        _forget(run, "caption", "problem")
    if not _left(run, "caption"):
        return
    captioner = _captioner(run.config, run.options)
    selection = _selection(run)
    try:
        caption_photos(run.photos, run.work, selection, captioner, run.config, run.listener)
    finally:
        run.listener.end()


def _captioner(config: PreprocessConfig, options: RunOptions) -> Captioner:
    if config.captioner not in (known := names("captioners")):
        remedy = f"Captioners: {', '.join(known)}"
        raise InputError(f"{config.captioner!r} is no captioner", field="--captioner", remedy=remedy)
    opened: Captioner = find("captioners", config.captioner)(config, options)
    return opened


def _selection(run: _Run) -> Selection:
    selection = read_selection(run.work.folder)
    if selection is None:
        raise InputError("stage match is not done", file=run.out, field="--stages", remedy="Run --stages match first")
    return selection


# 4


def _pack(run: _Run, retry_failed: bool) -> None:
    plan = _plan(run)
    todo = [k for k in range(len(plan)) if not _packed(run, k)]
    run.listener.work("Shards", len(plan), len(plan) - len(todo))
    try:
        for _ in run.do(PackPiece(run.photos, run.work, run.out / "shards", plan, run.config), todo):
            run.listener.done(1)
    finally:
        run.listener.end()


def _plan(run: _Run) -> ShardPlan:
    return plan_shards(run.photos, run.work, _selection(run), run.config.shard_size)


def _packed(run: _Run, number: int) -> bool:
    """Whether a shard is there as it was written; its sha256 is a reader's to check."""
    file = run.out / "shards" / shard_name(run.config.split, number)
    if not run.work.has("pack", number) or not file.is_file():
        return False
    return bool(file.stat().st_size == run.work.read("pack", number)[0][0]["bytes"])


def _finish(run: _Run) -> Preprocessed:
    """Card, report and, last of all, the manifest."""
    selection, plan = _selection(run), _plan(run)
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


def _facts(run: _Run, tally: Tally) -> dict[str, Any]:
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
