"""What is decided about all photos together: near-duplicates, and which shard each kept photo goes to."""

from __future__ import annotations

import zipfile
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.preprocess.near_duplicates import first_of_each
from anyphoto_cli.preprocess.work import PhotoList, Work

FILE = "selection.npz"


@dataclass(frozen=True, eq=False)
class Selection:
    """keep: [photos] bool. twin: [photos] the earlier photo that one repeats, or -1."""

    keep: NDArray[np.bool_]
    twin: NDArray[np.int64]


def select(photos: PhotoList, work: Work, distance: int) -> Selection:
    """Every photo that the stages before let pass, without those that repeat an earlier one."""
    passed, hashes = array("q"), array("Q")  # 16 bytes a photo, whatever their number
    keep = np.zeros(photos.count, bool)
    twin = np.full(photos.count, -1, np.int64)
    for chunk in range(len(photos)):
        detected, matched = work.read("detect", chunk)[0], work.read("match", chunk)[0]
        for number, seen, told in zip(photos.numbers(chunk), detected, matched, strict=True):
            if not seen["problem"] and not told["reason"]:
                passed.append(number)
                hashes.append(int(seen["phash"], 16))
    places = np.frombuffer(passed, np.int64) if passed else np.zeros(0, np.int64)
    earlier = first_of_each(np.frombuffer(hashes, np.uint64) if hashes else np.zeros(0, np.uint64), distance)
    keep[places[earlier < 0]] = True
    twin[places[earlier >= 0]] = places[earlier[earlier >= 0]]
    return Selection(keep, twin)


def write_selection(folder: Path, selection: Selection) -> None:
    """Whole or not at all."""
    with committed(folder / FILE) as out:
        np.savez(out, keep=selection.keep, twin=selection.twin)


def read_selection(folder: Path) -> Selection | None:
    """None when there is none yet. Raises InputError when it is broken."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            return Selection(arrays["keep"], arrays["twin"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        remedy = "Delete it and run the same command again"
        raise InputError(f"is broken ({type(error).__name__})", file=folder / FILE, remedy=remedy) from error


@dataclass(frozen=True, eq=False)
class ShardPlan:
    """Which photo goes where: numbers, [kept] in the list's order, `size` a shard."""

    numbers: NDArray[np.int64]
    size: int

    def __len__(self) -> int:
        """Shards."""
        return -(-len(self.numbers) // self.size)

    def of_shard(self, shard: int) -> list[int]:
        """The photos of a shard."""
        photos: list[int] = self.numbers[shard * self.size : (shard + 1) * self.size].tolist()
        return photos

    def shard_of(self, number: int) -> int:
        """The shard of a photo, or -1."""
        place = int(np.searchsorted(self.numbers, number))
        return place // self.size if place < len(self.numbers) and self.numbers[place] == number else -1


def plan_shards(photos: PhotoList, work: Work, selection: Selection, size: int) -> ShardPlan:
    """All photos that are kept and have no problem with their caption."""
    numbers = array("q")
    for chunk in range(len(photos)):
        mine = photos.numbers(chunk)
        if selection.keep[mine.start : mine.stop].any():
            rows = work.read("caption", chunk)[0]
            numbers.extend(n for n, row in zip(mine, rows, strict=True) if selection.keep[n] and not row["problem"])
    return ShardPlan(np.array(numbers, np.int64), size)
