"""What a run would take: a hundred of its photos go through the first stages, nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.preprocess import STAGES, PreprocessConfig, RunOptions
from anyphoto_cli.data.bank import ReferenceFolder, as_png, list_references
from anyphoto_cli.data.sources import PhotoInput, list_photos
from anyphoto_cli.errors import InputError
from anyphoto_cli.preprocess.captioning import open_captioner
from anyphoto_cli.preprocess.detecting import detect_photos, open_detectors
from anyphoto_cli.preprocess.exclusions import Exclusions
from anyphoto_cli.preprocess.identity_matching import known_identities
from anyphoto_cli.preprocess.intake import check_call
from anyphoto_cli.preprocess.loading import Unreadable, load_photo
from anyphoto_cli.preprocess.matching import Bank, match_photos
from anyphoto_cli.preprocess.packing import as_jpeg
from anyphoto_cli.preprocess.references import read_references
from anyphoto_cli.runtime.executors import room
from anyphoto_cli.runtime.local_executor import one_thread
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Embeddings

PROBE = 100
_PATCHES, _PICTURES, _MOST_REFERENCES = 8, 20, 50_000
"""Of the probe: references made into patches, pictures stored, references compared with at most."""
_EMBEDDING_BYTES, _IDENTITY_BYTES = 1024, 4000
CAPTION_S = {"72B": 0.73, "7B": 0.13}
"""Of an H100, a caption of a Qwen2.5-VL of that size: computed from published rates, see docs/scale.md."""


@dataclass(frozen=True)
class Estimate:
    """photos, references: found. probed, readable, with_faces: of the probe. seconds: of one photo and worker.

    hours, bank_hours, pack_hours: of detection, references and shards with that many workers; match_hours: of one
    process. gigabytes: shards, work folder and bank together, if all photos are kept; bank_gigabytes: of it the bank.
    What is told of bank and matching is None with --discover. captions: what they take, in words.
    """

    photos: int
    references: int
    probed: int
    readable: int
    with_faces: int
    seconds: float
    workers: int
    hours: float
    bank_hours: float | None
    match_hours: float | None
    pack_hours: float
    gigabytes: float
    bank_gigabytes: float | None
    captions: str

    def lines(self) -> list[str]:
        """For people."""
        people, disk = ["reference bank, matching: not known before the people are (--discover)"], " without the bank"
        if self.bank_gigabytes is not None:
            bank, match = f"reference bank: {self.bank_hours:.2f} hours", f"matching: {self.match_hours:.2f} hours"
            people, disk = [bank, f"{match} in one process"], f", {self.bank_gigabytes:.2f} of it the bank"
        return [
            f"{self.photos} photos, {self.references} references (not written: dry run)",
            f"of {self.probed} looked at: {self.readable} readable, {self.with_faces} with faces",
            f"persons and faces: {self.hours:.2f} hours with {self.workers} workers ({self.seconds:.3f} s a photo)",
            *people,
            f"shards: {self.pack_hours:.2f} hours",
            f"disk: up to {self.gigabytes:.2f} GB{disk}",
            self.captions,
        ]


def estimate(
    sources: Path | Sequence[Path], refs: Path | None, config: PreprocessConfig, options: RunOptions, *, out: Path,
    stages: Sequence[str] = STAGES, exclude: Path | None = None, listener: Listener | None = None,
) -> Estimate:  # fmt: skip
    """Time and disk from a probe at equal steps through the photos. out: where the run would write. Raises as `run`
    does.
    """
    given = [sources] if isinstance(sources, Path) else list(sources)
    exclusions = check_call(given, out, refs, config, options, stages, exclude)
    listener = listener or Listener()
    one_thread()
    listener.stage("Listing photos")
    count, probe = _probe(given)
    references = list_references(refs) if refs else []
    device, workers = room(options)
    listener.stage("Loading the person and face models")
    models = open_detectors(config, device, threads=1)
    detect_photos(probe[:1], models, config)  # the first run of a model is slow
    listener.stage(f"Looking at {len(probe)} photos")
    began = time.perf_counter()
    rows, embeddings = detect_photos(probe, models, config, options.batch)
    seconds = (time.perf_counter() - began) / len(probe)
    used = sum(min(len(one.photos), config.max_references) for one in references)
    match_s = _matching(probe, rows, embeddings, len(references), used, config, exclusions)
    stored_s, stored = _stored(probe, config)
    patch_s, patch = _patches(references, models.faces, config)
    bank = None if config.discover else (used * patch + len(references) * _IDENTITY_BYTES) / 1e9
    return Estimate(
        count, sum(len(one.photos) for one in references), len(probe), sum(not row["problem"] for row in rows),
        sum(bool(row.get("faces")) for row in rows), seconds, workers, count * seconds / workers / 3600,
        None if config.discover else used * patch_s / workers / 3600,
        None if config.discover else count * match_s / 3600, count * stored_s / workers / 3600,
        count * stored / 1e9 + (bank or 0.0), bank, _captions(count, config, options, stages),
    )  # fmt: skip


def _captions(photos: int, config: PreprocessConfig, options: RunOptions, stages: Sequence[str]) -> str:
    if "caption" not in stages:
        return "captions: none in these stages"
    if not open_captioner(config, options).looks:
        return f"captions by {config.captioner}: no model looks at the photos"
    hours = {size: f"{photos * seconds / 3600:.1f}" for size, seconds in CAPTION_S.items()}
    for size, told in hours.items():
        if f"-{size}" in config.caption_model:
            return f"captions by {config.caption_model}: about {told} H100 hours (computed, not measured here)"
    others = ", ".join(f"{told} H100 hours by a {size} model" for size, told in hours.items())
    return f"captions by {config.caption_model}: not known; about {others} (computed, not measured here)"


def _matching(
    photos: Sequence[PhotoInput], rows: list[dict[str, Any]], embeddings: Embeddings, identities: int, references: int,
    config: PreprocessConfig, exclusions: Exclusions,
) -> float:  # fmt: skip
    """Seconds a photo, with strangers for a bank of that size."""
    if not references:
        return 0.0
    some = min(references, _MOST_REFERENCES)
    people = max(identities * some // references, 1)
    strangers = np.random.default_rng(0).standard_normal((some, 512), np.float32)
    strangers /= np.linalg.norm(strangers, axis=1, keepdims=True)
    known = known_identities({str(k): each for k, each in enumerate(np.array_split(strangers, people))}, {})
    began = time.perf_counter()
    match_photos(photos, rows, embeddings, Bank(known, frozenset(known.names)), exclusions, config)
    return (time.perf_counter() - began) / len(photos) * references / some


def _patches(
    references: Sequence[ReferenceFolder], faces: FaceAnalyzer, config: PreprocessConfig
) -> tuple[float, float]:
    """(seconds, bytes) of one reference, over a few at equal steps."""
    each = [ReferenceFolder(one.name, (photo,)) for one in references for photo in one.photos]
    some = each[:: max(1, -(-len(each) // _PATCHES))]
    began, size = time.perf_counter(), 0
    for one in some:
        size += sum(len(as_png(patch)) for patch in read_references(one, faces, config).patches)
    count = max(len(some), 1)
    return (time.perf_counter() - began) / count, size / count + _EMBEDDING_BYTES


def _probe(sources: Sequence[Path]) -> tuple[int, list[PhotoInput]]:
    """(how many photos, at most a hundred of them at equal steps), in one pass of flat memory."""
    kept: list[PhotoInput] = []
    step, count = 1, 0
    for source in sources:
        for photo in list_photos(source):
            if count % step == 0:
                kept.append(photo)
                if len(kept) >= 2 * PROBE:
                    kept, step = kept[::2], step * 2
            count += 1
    if not count:
        raise InputError("holds no files", file=sources[0])
    return count, kept[:: max(1, -(-len(kept) // PROBE))]


def _stored(photos: Sequence[PhotoInput], config: PreprocessConfig) -> tuple[float, float]:
    """(seconds, bytes) of one photo in a shard, and all that is noted of it."""
    sizes, began = [], time.perf_counter()
    for photo in photos[:_PICTURES]:
        loaded = load_photo(photo, config.max_side)
        if not isinstance(loaded, Unreadable):
            sizes.append(len(as_jpeg(loaded.pixels, config.jpeg_quality)) + 12_000)
    return (time.perf_counter() - began) / max(len(sizes), 1), sum(sizes) / max(len(sizes), 1)
