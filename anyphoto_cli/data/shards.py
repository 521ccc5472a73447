"""Webdataset shards: USTAR tars of the same bytes on every machine, and a manifest that says what is whole.

A shard's members are `<key>.<extension>`, sorted, those of one sample side by side. A reader trusts only what the
manifest names: a tar that was cut off or changed by one bit is otherwise mostly read without any error.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed, sha256_of

MEMBERS = ("jpg", "json", "npz")
MANIFEST = "manifest.json"
MAX_MEMBER_BYTES = 256 * 2**20


@dataclass(frozen=True)
class ShardRecord:
    """One line of the manifest. name: file name. bytes, samples: counts. sha256: of the whole file."""

    name: str
    sha256: str
    bytes: int
    samples: int

    def to_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        return asdict(self)


@dataclass(frozen=True)
class Sample:
    """One entry of a shard. key: nine digits. members: extension -> bytes."""

    key: str
    members: Mapping[str, bytes]


def shard_name(split: str, number: int) -> str:
    """train-000000.tar."""
    return f"{split}-{number:06d}.tar"


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardRecord:
    """Write samples in the order given; the file appears when it is whole. Raises ValueError for keys that repeat or
    hold a dot, and for samples without exactly the members jpg, json and npz: readers take the first for all.
    """
    count, last = 0, ""
    with committed(path) as out:
        hashing: Any = _Hashing(out)
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.USTAR_FORMAT, bufsize=2**20) as tar:
            for sample in samples:
                if sample.key <= last or "." in sample.key or set(sample.members) != set(MEMBERS):
                    raise ValueError(f"sample {sample.key!r} after {last!r} with {sorted(sample.members)}")
                for extension in MEMBERS:
                    _add(tar, f"{sample.key}.{extension}", sample.members[extension])
                count, last = count + 1, sample.key
    return ShardRecord(path.name, hashing.digest.hexdigest(), hashing.bytes, count)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Time 0, owner 0, mode 644: nothing of the machine or the clock."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), 0, 0o644
    tar.addfile(member, io.BytesIO(data))


class _Hashing:
    """A write-only file that hashes what goes through it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self.digest, self.bytes = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """All of it."""
        self.digest.update(data)
        self.bytes += len(data)
        self._out.write(data)
        return len(data)


def read_shard(path: Path) -> Iterator[Sample]:
    """Whole samples, in order. Raises InputError at the first that is not: a missing, doubled or foreign member, a
    broken header, an early end.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            yield from _grouped(tar, path)
    except (tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"is a broken shard ({type(error).__name__})", file=path, remedy=_AGAIN) from error


_AGAIN = "Copy it again, or run preprocess again"


def _grouped(tar: tarfile.TarFile, path: Path) -> Iterator[Sample]:
    key, members = "", dict[str, bytes]()
    for member in tar:
        found, _, extension = member.name.partition(".")
        if not member.isreg() or extension not in MEMBERS or member.size > MAX_MEMBER_BYTES:
            raise InputError(f"holds a foreign member ({member.name[:60]!r})", file=path, remedy=_AGAIN)
        if found != key:
            if members:
                yield _whole(key, members, path)
            key, members = found, {}
        if extension in members:
            raise InputError(f"holds {member.name!r} twice", file=path, remedy=_AGAIN)
        source = tar.extractfile(member)
        data = source.read() if source else b""
        if len(data) != member.size:
            raise InputError(f"ends inside {member.name!r}", file=path, remedy=_AGAIN)
        members[extension] = data
    if members:
        yield _whole(key, members, path)


def _whole(key: str, members: dict[str, bytes], path: Path) -> Sample:
    if missing := [extension for extension in MEMBERS if extension not in members]:
        raise InputError(f"sample {key} has no {missing[0]}", file=path, remedy=_AGAIN)
    return Sample(key, members)


@dataclass(frozen=True)
class Manifest:
    """What a finished run wrote. facts: package version, hashes of configuration and inputs, counts."""

    shards: tuple[ShardRecord, ...]
    facts: Mapping[str, Any]

    @property
    def samples(self) -> int:
        """In all shards."""
        return sum(shard.samples for shard in self.shards)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The last file of a run: what it names is whole."""
    document = {**manifest.facts, "samples": manifest.samples, "shards": [shard.to_json() for shard in manifest.shards]}
    with committed(folder / MANIFEST) as out:
        out.write((json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Raises InputError when there is none or it is not one of ours."""
    file = folder / MANIFEST
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        shards = tuple(ShardRecord(**shard) for shard in document.pop("shards"))
    except FileNotFoundError as error:
        remedy = "Run preprocess to its end: the manifest is written last"
        raise InputError("has no manifest.json", file=folder, remedy=remedy) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("is not a manifest of anyphoto preprocess", file=file) from error
    if any(Path(shard.name).name != shard.name for shard in shards):
        raise InputError("names shards outside its folder", file=file)
    return Manifest(shards, document)


def verify_shard(folder: Path, record: ShardRecord, hashed: bool = True) -> None:
    """Compare size and, unless `hashed` is False, sha256 with the manifest. Raises InputError naming the shard."""
    file = folder / record.name
    if not file.is_file():
        raise InputError("is missing", file=file, remedy=_AGAIN)
    if file.stat().st_size != record.bytes:
        raise InputError(f"has {file.stat().st_size} bytes instead of {record.bytes}", file=file, remedy=_AGAIN)
    if hashed and sha256_of(file) != record.sha256:
        raise InputError("is damaged: its sha256 is not the manifest's", file=file, remedy=_AGAIN)
