"""Nothing half-written: a temporary name in the same folder, fsync, rename, fsync of the folder."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from anyphoto_cli.errors import EnvironmentFault


@contextmanager
def committed(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only once the block has ended well.

    A link stays one, and its target is the file; a pipe or a device is written to as it is. Raises EnvironmentFault
    with the path when the disk is full, read-only or gone, and with its own where the block uses another file.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not path.is_file() and not path.is_dir():
        with _straight_into(path) as file:
            yield file
        return
    # Named before it is made: a signal may arrive right after the making, and must find what to remove.
    made = path.parent / f".{path.name[:40]}.{secrets.token_hex(6)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with made.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _refused(error, path, made) from error
    finally:
        with suppress(OSError):
            made.unlink()


@contextmanager
def _straight_into(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise _refused(error, path) from error


def _refused(error: OSError, path: Path, *more: Path) -> EnvironmentFault:
    """path, more: our own names. The error of opening another file has that one's, of a write here ours or none."""
    reason = error.strerror or str(error)
    if error.filename is None or str(error.filename) in map(str, (path, *more, *path.parents)):
        return EnvironmentFault(f"cannot write here ({reason})", file=path)
    return EnvironmentFault(f"cannot be used ({reason})", file=error.filename)


_LEFT = re.compile(r"\..{0,40}\.[0-9a-f]{12}\.tmp", re.DOTALL)
"""The names that `committed` gives."""


def sweep(folder: Path, *below: str) -> None:
    """Remove the files that killed `committed` blocks left in a folder and in those `below` it that are named, in none
    other: a folder may hold what is not ours. Links are not followed. Only for the folder's sole holder.
    """
    for name in ("", *below):
        if (folder / name).resolve() == folder.resolve() / name and (folder / name).is_dir():
            for left in list(os.scandir(folder / name)):
                if _LEFT.fullmatch(left.name) and left.is_file(follow_symlinks=False):
                    Path(left.path).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """So that the rename itself survives a power cut; not every system lets a folder be opened."""
    with suppress(OSError):
        sync(folder)


def sync(path: Path) -> None:
    """A file or folder onto the disk; Windows does not do that for folders, and does for files that may be written."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """Hex digest of a file that was read."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_state(network: Any) -> str:
    """Hex digest of a torch module's numbers, in the order of its state_dict; half a second for CLIP."""
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().float().numpy())
    return found.hexdigest()
