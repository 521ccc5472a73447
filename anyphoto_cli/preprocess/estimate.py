"""What a run would take: a hundred of its photos go through the first stages, nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.data.bank import list_references
from anyphoto_cli.data.sources import PhotoInput, list_photos
from anyphoto_cli.errors import InputError
from anyphoto_cli.preprocess.detecting import detect_photos, open_detectors
from anyphoto_cli.preprocess.loading import Unreadable, load_photo
from anyphoto_cli.preprocess.packing import as_jpeg
from anyphoto_cli.runtime.executors import room
from anyphoto_cli.runtime.local_executor import one_thread
from anyphoto_cli.runtime.progress import Listener

PROBE = 100
CAPTIONS_PER_S = 1.0
"""Of a 72B model on 4 GPUs (vLLM's own figure for 128 photos: 0.96 pictures a second and GPU)."""


@dataclass(frozen=True)
class Estimate:
    """photos, references: found. probed, readable, with_faces: of the probe. seconds: of one photo and worker.
    hours: of detection with that many workers. gigabytes: shards and work folder together, if all photos are kept.
    """

    photos: int
    references: int
    probed: int
    readable: int
    with_faces: int
    seconds: float
    workers: int
    hours: float
    gigabytes: float

    def lines(self) -> list[str]:
        """For people."""
        caption_hours = self.photos / CAPTIONS_PER_S / 3600
        return [
            f"{self.photos} photos, {self.references} references (not written: dry run)",
            f"of {self.probed} looked at: {self.readable} readable, {self.with_faces} with faces",
            f"persons and faces: {self.hours:.2f} hours with {self.workers} workers ({self.seconds:.3f} s a photo)",
            f"disk: up to {self.gigabytes:.2f} GB",
            f"captions by a 72B model: about {caption_hours:.1f} GPU hours (not measured here)",
        ]


def estimate(
    sources: Path | Sequence[Path], refs: Path | None, config: PreprocessConfig, options: RunOptions, *,
    exclude: Path | None = None, listener: Listener | None = None,
) -> Estimate:  # fmt: skip
    """Time and disk from a probe at equal steps through the photos. Raises as `run` does."""
    listener = listener or Listener()
    one_thread()
    listener.stage("Listing photos")
    count, probe = _probe([sources] if isinstance(sources, Path) else list(sources))
    references = sum(len(one.photos) for one in list_references(refs)) if refs else 0
    device, workers = room(options)
    listener.stage("Loading the person and face models")
    models = open_detectors(config, device, threads=1)
    detect_photos(probe[:1], models, config)  # the first run of a model is slow
    listener.stage(f"Looking at {len(probe)} photos")
    began = time.perf_counter()
    rows, _ = detect_photos(probe, models, config, options.batch)
    seconds = (time.perf_counter() - began) / len(probe)
    readable = sum(not row["problem"] for row in rows)
    return Estimate(
        count, references, len(probe), readable, sum(bool(row.get("faces")) for row in rows), seconds, workers,
        count * seconds / workers / 3600, count * _bytes(probe, config) / 1e9,
    )  # fmt: skip


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


def _bytes(photos: Sequence[PhotoInput], config: PreprocessConfig) -> float:
    """Mean size of a stored picture and all that is noted of it."""
    sizes = []
    for photo in photos[:20]:
        loaded = load_photo(photo, config.max_side)
        if not isinstance(loaded, Unreadable):
            sizes.append(len(as_jpeg(loaded.pixels, config.jpeg_quality)) + 12_000)
    return sum(sizes) / max(len(sizes), 1)
