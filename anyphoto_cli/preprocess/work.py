"""What a run has done so far: the list of its photos, and one file a stage and chunk.

Each file appears whole or not at all, and holds nothing of the clock or the machine: a run that was killed and one
that was not leave the same bytes. State kept in memory grows with the number of chunks, never with that of photos.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.data.sources import PhotoInput
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed

LEAST_CHUNK, MOST_CHUNK = 8, 256
"""Photos in a chunk: few in a small run, so that all workers have some; many in a large one."""

Row = dict[str, Any]


@dataclass(frozen=True)
class PhotoList:
    """The photos of a run. sha256: of the list without the places of the files: a dataset may be moved. offsets: where
    each chunk's lines begin in the file.
    """

    file: Path
    count: int
    sha256: str
    chunk: int
    offsets: tuple[int, ...]

    def __len__(self) -> int:
        """Chunks."""
        return len(self.offsets)

    def numbers(self, chunk: int) -> range:
        """The photos of a chunk by number."""
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, self.count))

    def photos(self, chunk: int) -> list[PhotoInput]:
        """The photos of a chunk."""
        with self.file.open("rb") as lines:
            lines.seek(self.offsets[chunk])
            return [_parsed(next(lines)) for _ in self.numbers(chunk)]

    def photo(self, number: int) -> PhotoInput:
        """One of them; the lines before it in its chunk are passed over unread."""
        chunk, place = divmod(number, self.chunk)
        with self.file.open("rb") as lines:
            lines.seek(self.offsets[chunk])
            return _parsed(next(islice(lines, place, None)))


def write_photo_list(file: Path, photos: Iterable[PhotoInput]) -> PhotoList:
    """Write the list in one pass; memory does not grow with it."""
    with committed(file) as out:
        for photo in photos:
            told = photo.to_json()
            place = told.pop("file")
            parts = [json.dumps(part, ensure_ascii=True, separators=(",", ":")) for part in (told, place)]
            out.write(("\t".join(parts) + "\n").encode())
    return open_photo_list(file)


def _parsed(line: bytes) -> PhotoInput:
    told, place = line.split(b"\t")
    return PhotoInput.from_json({**json.loads(told), "file": json.loads(place)})


def open_photo_list(file: Path) -> PhotoList:
    """Read a list once, to know where its chunks begin."""
    digest, count, at = hashlib.sha256(), 0, 0
    ends = array("q")
    with file.open("rb") as lines:
        for line in lines:
            digest.update(line[: line.rindex(b"\t")])
            at += len(line)
            count += 1
            ends.append(at)
    chunk = min(max(count // 64, LEAST_CHUNK), MOST_CHUNK)
    starts = [0, *ends[chunk - 1 :: chunk]]
    return PhotoList(file, count, digest.hexdigest(), chunk, tuple(starts[: -(-count // chunk)]))


class Work:
    """The files of the stages under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, stage: str, chunk: int) -> Path:
        """work/detect/000012.npz."""
        return self.folder / stage / f"{chunk:06d}.npz"

    def has(self, stage: str, chunk: int) -> bool:
        """Whether that chunk of the stage is done."""
        return self.file(stage, chunk).is_file()

    def missing(self, stage: str, chunks: int) -> list[int]:
        """The chunks of a stage that are not done."""
        return [chunk for chunk in range(chunks) if not self.has(stage, chunk)]

    def write(self, stage: str, chunk: int, rows: Sequence[Row], **arrays: NDArray[Any]) -> None:
        """rows: JSON; arrays: beside them."""
        text = json.dumps(list(rows), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        with committed(self.file(stage, chunk)) as out:
            members: dict[str, Any] = {"rows": np.frombuffer(text.encode(), np.uint8), **arrays}
            np.savez(out, **members)

    def read(self, stage: str, chunk: int) -> tuple[list[Row], dict[str, NDArray[Any]]]:
        """Rows and arrays. Raises InputError when the file is broken."""
        file = self.file(stage, chunk)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                rows = json.loads(arrays["rows"].tobytes())
                return rows, {name: arrays[name] for name in arrays.files if name != "rows"}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            remedy = "Delete it and run the same command again"
            raise InputError(f"is broken ({type(error).__name__})", file=file, remedy=remedy) from error

    def rows(self, stage: str, chunks: int) -> Iterator[list[Row]]:
        """The rows of all chunks, chunk by chunk."""
        for chunk in range(chunks):
            yield self.read(stage, chunk)[0]
