"""Which weights made a picture: sha256 over a model folder, remembered until a file changes."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from anyphoto_cli.config.home import anyphoto_home, one_at_a_time
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.commit import committed, sha256_of

_KINDS = (".safetensors", ".json", ".txt", ".model", ".bin")


def folder_sha256(folder: Path) -> str:
    """One hash over the names and bytes of a model folder's weights, configs and vocabularies.

    34 GB take about a minute; each file's hash is remembered under its path, size and time of change. Of ranks that
    start at once one reads the files.
    """
    files = [(_key(file), file) for file in sorted(folder.rglob("*")) if file.suffix in _KINDS and file.is_file()]
    known = _read(_memory_file())
    if any(key not in known for key, _ in files):
        with one_at_a_time("sha256"):
            known = _remember(files)
    digest = hashlib.sha256()
    for key, file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{known[key]}\n".encode())
    return digest.hexdigest()


def _key(file: Path) -> str:
    """Changes when the file does."""
    status = file.stat()
    return f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def _remember(files: list[tuple[str, Path]]) -> dict[str, str]:
    """All hashes known, those of the files among them."""
    memory = _read(_memory_file())
    known = memory | {key: sha256_of(file) for key, file in files if key not in memory}
    if known != memory:
        # Hashed again next time, where nothing can be written.
        with suppress(EnvironmentFault), committed(_memory_file()) as out:
            out.write(json.dumps(known, indent=0).encode())
    return known


def _memory_file() -> Path:
    return anyphoto_home() / "sha256.json"


def _read(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
