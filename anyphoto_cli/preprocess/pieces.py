"""The stages as pieces of work: each opens what it needs once a worker, and writes one result file a piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.bank import ReferenceFolder, read_identity, read_index, write_identity
from anyphoto_cli.preprocess.detecting import Detectors, detect_failed, detect_photos, open_detectors
from anyphoto_cli.preprocess.exclusions import Exclusions
from anyphoto_cli.preprocess.identity_matching import known_identities
from anyphoto_cli.preprocess.matching import Bank, match_photos
from anyphoto_cli.preprocess.packing import KeptPhoto, pack_shard
from anyphoto_cli.preprocess.references import read_references
from anyphoto_cli.preprocess.selection import ShardPlan
from anyphoto_cli.preprocess.work import PhotoList, Work
from anyphoto_cli.runtime.local_executor import one_thread
from anyphoto_cli.seams import FaceAnalyzer

Starting = Callable[[int], None]
_NOBODY: frozenset[int] = frozenset()


def device_of(device: str, worker: int) -> str:
    """cuda -> cuda:k, so that the workers of a machine share its cards evenly."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{worker % max(torch.cuda.device_count(), 1)}"


@dataclass(frozen=True)
class DetectPiece:
    """A chunk of photos through `detect_photos`; of one that is done, those that failed once more."""

    photos: PhotoList
    work: Work
    config: PreprocessConfig
    device: str
    batch: int

    def open(self, worker: int) -> Detectors:
        """The models."""
        one_thread()
        return open_detectors(self.config, device_of(self.device, worker), threads=1)

    def run(self, opened: Detectors, number: int, starting: Starting, skip: frozenset[int] = _NOBODY) -> Any:
        """-> (photos, photos that could not be read, faces)."""
        photos = self.photos.photos(number)
        if self.work.has("detect", number):
            before, arrays = self.work.read("detect", number)
            rows, embeddings = detect_failed(
                photos, before, arrays["embeddings"], opened, self.config, self.batch, starting, skip
            )
        else:
            rows, embeddings = detect_photos(photos, opened, self.config, self.batch, starting, skip)
        self.work.write("detect", number, rows, embeddings=embeddings)
        return len(rows), sum(bool(row["problem"]) for row in rows), len(embeddings)


@dataclass(frozen=True)
class BankPiece:
    """One identity's reference photos through `read_references`."""

    references: tuple[ReferenceFolder, ...]
    folder: Path
    config: PreprocessConfig
    device: str

    def open(self, worker: int) -> FaceAnalyzer:
        """The face models."""
        from anyphoto_cli.faces.packs import open_faces

        one_thread()
        return open_faces(self.config.face_pack, device_of(self.device, worker), threads=1)

    def run(self, opened: FaceAnalyzer, number: int, starting: Starting, skip: frozenset[int] = _NOBODY) -> Any:
        """-> photos used."""
        identity = read_references(self.references[number], opened, self.config, starting, skip)
        write_identity(self.folder, number, identity)
        return len(identity.patches)


@dataclass(frozen=True)
class MatchPiece:
    """A chunk of photos through `match_photos`."""

    photos: PhotoList
    work: Work
    bank: Path
    shunned: Path | None
    exclusions: Exclusions
    config: PreprocessConfig

    def open(self, worker: int) -> Bank:
        """The bank's embeddings."""
        return load_bank(self.bank, self.shunned)

    def run(self, opened: Bank, number: int, starting: Starting, skip: frozenset[int] = _NOBODY) -> Any:
        """-> (photos, photos that stay)."""
        detected, arrays = self.work.read("detect", number)
        rows = match_photos(
            self.photos.photos(number), detected, arrays["embeddings"], opened, self.exclusions, self.config
        )
        self.work.write("match", number, rows)
        stay = sum(not row["reason"] and not seen["problem"] for row, seen in zip(rows, detected, strict=True))
        return len(rows), stay


def load_bank(folder: Path, shunned: Path | None = None) -> Bank:
    """The identities of a bank; `shunned`: those that are known only so that their pictures can be left out."""
    references: dict[str, Any] = {}
    centres: dict[str, Any] = {}
    for home in (folder, shunned):
        if home is not None and (home / "identities.json").is_file():
            for name, file in read_index(home)[0].items():
                identity = read_identity(file, with_patches=False)
                if np.any(identity.centre):
                    references[name], centres[name] = identity.embeddings, identity.centre
    usable = frozenset(name for name, rows in references.items() if len(rows))
    return Bank(known_identities(references, centres), usable)


@dataclass(frozen=True)
class PackPiece:
    """One shard of kept photos."""

    photos: PhotoList
    work: Work
    folder: Path
    plan: ShardPlan
    config: PreprocessConfig

    def open(self, worker: int) -> None:
        """Nothing but quiet libraries."""
        one_thread()

    def run(self, opened: None, number: int, starting: Starting, skip: frozenset[int] = _NOBODY) -> Any:
        """-> samples written."""
        record = pack_shard(self.folder, number, self._kept(self.plan.of_shard(number)), self.config)
        self.work.write("pack", number, [record.to_json()])
        return record.samples

    def _kept(self, numbers: Sequence[int]) -> Iterator[KeptPhoto]:
        chunk = -1
        for number in numbers:
            if number // self.photos.chunk != chunk:
                chunk = number // self.photos.chunk
                photos = self.photos.photos(chunk)
                detected, arrays = self.work.read("detect", chunk)
                matched, captions = self.work.read("match", chunk)[0], self.work.read("caption", chunk)[0]
                ends = np.cumsum([0, *(len(row.get("faces", ())) for row in detected)])
            place = number - self.photos.numbers(chunk).start
            yield KeptPhoto(
                number, photos[place], detected[place], matched[place], captions[place]["text"],
                captions[place]["captioner"], arrays["embeddings"][ends[place] : ends[place + 1]],
            )  # fmt: skip
