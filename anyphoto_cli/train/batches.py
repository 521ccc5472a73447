"""From the plan to examples: which samples a rank gets at a step, made by worker processes, in order.

A pure function of (seed, step, rank): how many workers there are, and whether the run was cut off, leaves no trace.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.data.samples import decode_sample
from anyphoto_cli.data.shard_index import AGAIN, ShardIndex, index_shard
from anyphoto_cli.data.shards import read_manifest
from anyphoto_cli.errors import InputError
from anyphoto_cli.runtime.signals import children_deaf, deaf_to_interrupts
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.examples import Bank, Example, make_example
from anyphoto_cli.train.indexing import Shard, index_together
from anyphoto_cli.train.replacement import replacement_probability
from anyphoto_cli.train.sampler import Plan
from anyphoto_cli.train.token_counts import ROUNDING, Resolution

INDEX_FOLDER = "index"
"""Of a run: where its shards' indices are kept."""
TRIES = 64
"""So many samples in a row may have nobody in their crop before the data is said to be unfit."""


class ShardedSamples:
    """All samples of preprocessed folders that show somebody of their folder's bank, by number.

    folders: one or several, with manifest.json, shards/ and bank/ each. cache: where indices are kept. bad_shards: the
    share of missing or damaged shards that is borne; complaints: what is wrong with those, a line each; left_out: their
    names. ranks: who share the work of hashing. lazily: a shard is hashed when the first sample of it is read.
    resolution: what location tokens are counted for, None: what preprocess counted them for.
    Raises InputError for more of them, where no sample shows anybody, and for a folder that is named twice.
    """

    def __init__(
        self, folders: Path | Sequence[Path], cache: Path | None = None, bad_shards: float = 0.0,
        ranks: Ranks | None = None, lazily: bool = False, resolution: Resolution | None = None,
    ) -> None:  # fmt: skip
        self.folders = [folders] if isinstance(folders, Path) else list(folders)
        _refuse_one_twice(self.folders)
        shards = [shard for folder in self.folders for shard in _shards_of(folder, resolution)]
        self.indices: list[ShardIndex] = []
        self.complaints: list[str] = []
        self.left_out: list[str] = []
        self._cache, self._shards = cache, {shard.folder / shard.record.name: shard for shard in shards}
        outcomes = index_together(shards, cache, ranks or Ranks(), bad_shards * len(shards), hashed=not lazily)
        for shard, outcome in zip(shards, outcomes, strict=True):
            if isinstance(outcome, InputError):
                name, folder = shard.record.name, shard.folder.parent.name
                self.left_out.append(name if len(self.folders) == 1 else f"{folder}/{name}")
                self.complaints.append(f"{outcome}; left out, with its {shard.record.samples} samples")
            else:
                self.indices.append(outcome)
        usable = [np.flatnonzero(index.faces > 0) for index in self.indices]
        self._shard = np.repeat(np.arange(len(usable)), [len(places) for places in usable])
        self._place = np.concatenate([np.zeros(0, np.int64), *usable]).astype(np.int64)
        if not len(self._place):
            remedy = "Look at report.html of preprocess: nobody was recognised"
            what = "holds no sample with a known face"
            if not any(map(len, self.indices)):
                what, remedy = "holds no sample", "Look at report.html of preprocess: why was no photo kept?"
            raise InputError(what, file=self.folders[0], field="data.shards", remedy=remedy)

    def __len__(self) -> int:
        """Samples."""
        return len(self._place)

    @cached_property
    def costs(self) -> NDArray[np.int32]:
        """[samples] location tokens."""
        found: NDArray[np.int32] = np.array(
            [self.indices[s].tokens[p] for s, p in zip(self._shard, self._place, strict=True)], np.int32
        )
        return found

    @property
    def recounted(self) -> str:
        """A sentence where tokens are not as many as preprocess counted; else ""."""
        now, before = (sum(int(counts.sum()) for counts in part) for part in (
            [index.tokens for index in self.indices], [index.packed for index in self.indices]
        ))  # fmt: skip
        if abs(now - before) <= ROUNDING * before:
            return ""
        each, was = now / len(self), before / len(self)
        told = f"counted anew, {each:.0f} a sample, which the shards say are {was:.0f}"
        return f"data.resolution is not what preprocess counted location tokens for (--train-size): {told}"

    def captions(self) -> Iterator[str]:
        """Of all samples, with repetitions."""
        for shard, place in zip(self._shard, self._place, strict=True):
            yield str(json.loads(self.indices[int(shard)].read_json(int(place))).get("caption", ""))

    def file_of(self, number: int) -> Path:
        """The shard that a sample lies in."""
        return self.indices[int(self._shard[number])].file

    def folder_of(self, number: int) -> Path:
        """The preprocessed folder that a sample is of, whose bank knows its people."""
        return self.file_of(number).parent.parent

    def read(self, number: int) -> tuple[Any, bytes, Any]:
        """(record, jpeg, embeddings) of one. Raises InputError for a shard that is damaged, or was since."""
        place = int(self._shard[number])
        index = self.indices[place]
        if not index.hashed:
            shard = self._shards[index.file]
            index = index_shard(shard.folder, shard.record, self._cache, count=shard.count)
            self.indices[place] = index
        return decode_sample(index.read(int(self._place[number])), index.file.name)


def _shards_of(folder: Path, resolution: Resolution | None) -> list[Shard]:
    manifest = read_manifest(folder)
    count = resolution.count(manifest.facts) if resolution else None
    return [Shard(folder / "shards", record, count) for record in manifest.shards]


def _refuse_one_twice(folders: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError("is named twice", file=folder, field="data.shards", remedy="Its samples count once")
        seen.add(folder.resolve())


def samples_of(config: TrainConfig, ranks: Ranks | None = None, lazily: bool = False) -> ShardedSamples:
    """Of a run, whose folder keeps their indices: who asks again does not hash again. ranks: of the run itself; others
    make no folder, and keep indices where it is there already. Raises as `ShardedSamples`.
    """
    folder = Path(config.output_dir)
    cache = folder / INDEX_FOLDER if ranks is not None or folder.is_dir() else None
    resolution = Resolution(config.data.resolution, config.method)
    return ShardedSamples(config.data.folders, cache, config.data.bad_shards, ranks, lazily, resolution)


class Examples(Dataset[list[Example]]):
    """(micro-step, sample numbers) -> the examples of that batch."""

    def __init__(self, samples: ShardedSamples, config: TrainConfig) -> None:
        self._samples, self._config = samples, config

    @cached_property
    def _banks(self) -> dict[Path, Bank]:
        """By folder: a name in two of them may be two people."""
        return {folder: Bank(folder / "bank", self._config.method.patch_size) for folder in self._samples.folders}

    def __getitem__(self, asked: tuple[int, list[int]]) -> list[Example]:
        """What cannot be read is an `_Unread` in its place: a loader process would make a page of an error."""
        micro, numbers = asked
        try:
            return [self._one(micro, number) for number in numbers]
        except InputError as error:
            return _Unread(error)

    def _one(self, micro: int, number: int) -> Example:
        """Where a crop shows nobody, the next sample takes its place."""
        config, count = self._config, len(self._samples)
        data, method = config.data, config.method
        step = micro // config.gradient_accumulation_steps
        p = replacement_probability(step, config.max_train_steps, data.replacement, data.replacement_max)
        for other in range(number, number + min(TRIES, count)):
            record, jpeg, embeddings = self._samples.read(other % count)
            seed = (config.seed, micro, other % count)
            try:
                bank = self._banks[self._samples.folder_of(other % count)]
                example = make_example(record, jpeg, embeddings, bank, data, method, p=p, seed=seed)
            except OSError as error:  # Pillow's own are such
                what = f"its sample {record.key} holds no picture ({type(error).__name__})"
                raise InputError(what, file=self._samples.file_of(other % count), remedy=AGAIN) from error
            if example is not None:
                return example
        remedy = "Are the faces larger than a token at this resolution? Is the bank the shards' own?"
        what = f"{min(TRIES, count)} samples in a row show nobody of the bank in their crop"
        raise InputError(what, file=self._samples.folder_of(number), field="data.shards", remedy=remedy)


class _Unread(list[Example]):
    """No batch, and why."""

    def __init__(self, error: InputError) -> None:
        super().__init__()
        self.error = error

    def __reduce__(self) -> tuple[object, ...]:
        return _Unread, (self.error,)


class _Order(Sampler[tuple[int, list[int]]]):
    """The plan from a micro-step on."""

    def __init__(self, plan: Plan, first: int, rank: int) -> None:
        self._plan, self._first, self._rank = plan, first, rank

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for micro, numbers in self._plan.from_step(self._first, self._rank):
            yield micro, numbers.tolist()


def batches(samples: ShardedSamples, config: TrainConfig, first: int, rank: int, world: int) -> Iterator[list[Example]]:
    """Batches of a rank from micro-step `first` on, for ever. Raises InputError where the samples fill no step.

    The iterator raises InputError for a sample that cannot be read, and when TRIES in a row show nobody in their crop.
    """
    plan = Plan(samples.costs, config.train_batch_size, world, config.seed)
    if not plan.steps:
        what = f"{len(samples)} samples do not fill a step of {world} x {config.train_batch_size}"
        raise InputError(what, file=samples.folders[0], field="train_batch_size")
    loader: DataLoader[list[Example]] = DataLoader(
        Examples(samples, config), batch_size=None, sampler=_Order(plan, first, rank), collate_fn=_as_it_is,
        num_workers=config.data.workers, prefetch_factor=2 if config.data.workers else None,
        multiprocessing_context="spawn" if config.data.workers else None, worker_init_fn=_end_with_the_trainer,
    )  # fmt: skip
    if not config.data.workers:
        return _read(iter(loader))
    with children_deaf():
        return _read(iter(loader))


def _read(loaded: Iterator[list[Example]]) -> Iterator[list[Example]]:
    """Raises InputError where a batch cannot be read, or shows nobody."""
    for batch in loaded:
        if isinstance(batch, _Unread):
            raise batch.error
        yield batch


def _end_with_the_trainer(worker: int) -> None:
    """A killed trainer takes nothing out of its queue: who has something to put in would wait for ever. Ctrl-C is the
    trainer's to hear: on Windows all processes of a terminal hear it.
    """
    deaf_to_interrupts()
    trainer = multiprocessing.parent_process()

    def watch() -> None:
        if trainer is not None:
            trainer.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_it_is(examples: list[Example]) -> list[Example]:
    return examples
