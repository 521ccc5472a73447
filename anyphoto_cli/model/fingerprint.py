"""Which weights made a picture: sha256 over a model folder, remembered until a file changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from anyphoto_cli.config.home import anyphoto_home
from anyphoto_cli.files.commit import committed, sha256_of

_KINDS = (".safetensors", ".json", ".txt", ".model", ".bin")


def folder_sha256(folder: Path) -> str:
    """One hash over the names and bytes of a model folder's weights, configs and vocabularies.

    34 GB take about a minute; each file's hash is remembered under its path, size and time of change.
    """
    memory_file = anyphoto_home() / "sha256.json"
    memory = _read(memory_file)
    known = dict(memory)
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.suffix in _KINDS and p.is_file()):
        status = file.stat()
        key = f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        known[key] = known.get(key) or sha256_of(file)
        digest.update(f"{file.relative_to(folder).as_posix()}\0{known[key]}\n".encode())
    if known != memory:
        with committed(memory_file) as out:
            out.write(json.dumps(known, indent=0).encode())
    return digest.hexdigest()


def _read(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
