"""Where each sample of a shard lies, and what it costs: training reads any sample by itself, in any order.

One walk through a shard's headers and json, after its size and sha256 were compared with the manifest; kept as one npz.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.data.shards import MEMBERS, Sample, ShardRecord, verify_shard
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.types import Points

AGAIN = "Copy it again, or run preprocess again"


@dataclass(frozen=True)
class TokenCount:
    """Another way to count location tokens than the shards' own. name: of the way, no two of one name. of: (landmarks
    [5, 2] px, width and height of the picture) -> tokens of a face.
    """

    name: str
    of: Callable[[Points, int, int], int]


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """file: the shard. keys: [n]. offsets, sizes: [n, 3] bytes of jpg, json and npz. tokens: [n] location tokens of all
    identified faces, as `counted` tells: by a `TokenCount` of that name; "": as packed, [n], which the shard says.
    faces: [n] how many those are. hashed: whether its sha256 was compared.
    """

    file: Path
    keys: tuple[str, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    tokens: NDArray[np.int32]
    faces: NDArray[np.int32]
    packed: NDArray[np.int32]
    counted: str = ""
    hashed: bool = True

    def __len__(self) -> int:
        """Samples."""
        return len(self.keys)

    def read(self, place: int) -> Sample:
        """One sample. Raises InputError when the file is shorter than it was."""
        return Sample(self.keys[place], self._members(place, MEMBERS))

    def read_json(self, place: int) -> bytes:
        """One sample's record alone. Raises as `read`."""
        return self._members(place, ("json",))["json"]

    def _members(self, place: int, wanted: Sequence[str]) -> dict[str, bytes]:
        members = {}
        try:
            with self.file.open("rb") as shard:
                for extension, offset, size in zip(MEMBERS, self.offsets[place], self.sizes[place], strict=True):
                    if extension in wanted:
                        shard.seek(int(offset))
                        members[extension] = shard.read(int(size))
                        if len(members[extension]) != size:
                            what = f"ends inside sample {self.keys[place]}"
                            raise InputError(what, file=self.file, remedy=AGAIN)
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", file=self.file, remedy=AGAIN) from error
        return members


def kept_index(
    folder: Path, record: ShardRecord, cache: Path | None, count: TokenCount | None = None
) -> ShardIndex | None:  # fmt: skip
    """The index of a shard that was indexed before, with tokens counted as asked, and not touched since; else None.
    cache, count: as for `index_shard`.
    """
    index = _known(folder, record, cache)
    return index if index is not None and index.counted == _name_of(count) else None


def _known(folder: Path, record: ShardRecord, cache: Path | None) -> ShardIndex | None:
    """Also with tokens counted in another way."""
    file, kept = folder / record.name, _kept(record, cache)
    with suppress(OSError):  # `index_shard` says what is wrong with it
        if kept and kept.is_file() and file.is_file() and file.stat().st_size == record.bytes:
            return _read(kept, file)
    return None


def _name_of(count: TokenCount | None) -> str:
    return count.name if count else ""


def index_shard(
    folder: Path, record: ShardRecord, cache: Path | None = None, hashed: bool = True, count: TokenCount | None = None
) -> ShardIndex:  # fmt: skip
    """The index of one shard. cache: a folder for it, or None. hashed: whether its sha256 is looked at; else its size
    alone is, and nothing is kept. count: how tokens are counted; None: as the shard says.

    Raises InputError when the shard is missing, cannot be read or is not what the manifest says. A shard that was
    indexed before and was not touched since is not hashed again. A cache that cannot be written to costs the next one
    who asks that time.
    """
    file, known = folder / record.name, _known(folder, record, cache)
    if known is not None and known.counted == _name_of(count):
        return known
    try:
        if known is None:
            verify_shard(folder, record, hashed)
        index = _walk(file, count)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", file=file, remedy=AGAIN) from error
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "Was it made by anyphoto preprocess?"
        raise InputError(f"is no shard of ours ({type(error).__name__})", file=file, remedy=remedy) from error
    if len(index) != record.samples:
        raise InputError(f"holds {len(index)} samples instead of {record.samples}", file=file, remedy=AGAIN)
    whole = hashed or known is not None
    if whole and (kept := _kept(record, cache)):
        with suppress(EnvironmentFault):
            _write(kept, index)
    return replace(index, hashed=whole)


def _kept(record: ShardRecord, cache: Path | None) -> Path | None:
    return cache / f"{record.name}.{record.sha256[:16]}.npz" if cache else None


def _walk(file: Path, count: TokenCount | None) -> ShardIndex:
    keys: list[str] = []
    offsets: list[list[int]] = []
    sizes: list[list[int]] = []
    tokens, packed, faces = [], [], []
    with tarfile.open(file, "r:") as tar:
        for number, member in enumerate(tar):
            key, _, extension = member.name.partition(".")
            if extension != MEMBERS[number % len(MEMBERS)] or (extension != MEMBERS[0] and key != keys[-1]):
                raise InputError(f"holds {member.name!r} where none is expected", file=file, remedy=AGAIN)
            if extension == MEMBERS[0]:
                keys.append(key)
                offsets.append([])
                sizes.append([])
            offsets[-1].append(member.offset_data)
            sizes[-1].append(member.size)
            if extension == "json":
                source = tar.extractfile(member)
                record = json.loads(source.read() if source else b"{}")
                known = [person for person in record.get("people", []) if person["identity"]]
                packed.append(int(sum(person["tokens"] for person in known)))
                tokens.append(_counted(known, record, count) if count else packed[-1])
                faces.append(len(known))
    if len(offsets) and len(offsets[-1]) != len(MEMBERS):
        raise InputError(f"ends inside sample {keys[-1]}", file=file, remedy=AGAIN)
    shape = (-1, len(MEMBERS))
    return ShardIndex(
        file, tuple(keys), np.array(offsets, np.int64).reshape(shape), np.array(sizes, np.int64).reshape(shape),
        np.array(tokens, np.int32), np.array(faces, np.int32), np.array(packed, np.int32), _name_of(count),
    )  # fmt: skip


def _counted(people: Sequence[Mapping[str, Any]], record: Mapping[str, Any], count: TokenCount) -> int:
    size = int(record["width"]), int(record["height"])
    return sum(count.of(np.asarray(person["landmarks"], np.float64).reshape(5, 2), *size) for person in people)


def _write(kept: Path, index: ShardIndex) -> None:
    with committed(kept) as out:
        np.savez(
            out, touched=index.file.stat().st_mtime_ns, keys=np.array(index.keys, "S"), offsets=index.offsets,
            sizes=index.sizes, tokens=index.tokens, faces=index.faces, packed=index.packed, counted=index.counted,
        )  # fmt: skip


def _read(kept: Path, file: Path) -> ShardIndex | None:
    """None for what is no index of ours: it is only a cache."""
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            if int(arrays["touched"]) != file.stat().st_mtime_ns:
                return None
            keys = tuple(key.decode("ascii") for key in arrays["keys"].tolist())
            counted = str(arrays["counted"]) if "counted" in arrays.files else ""  # earlier versions
            packed = arrays["packed"] if "packed" in arrays.files else arrays["tokens"]
            return ShardIndex(
                file, keys, arrays["offsets"], arrays["sizes"], arrays["tokens"], arrays["faces"], packed, counted
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
