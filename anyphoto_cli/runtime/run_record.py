"""One process a folder, and the options it began with: run.json and a lock that dies with its holder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed

RECORD, LOCK = "run.json", ".lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder. Raises InputError naming who holds it, EnvironmentFault where nothing can be written there. A
    killed holder's lock is gone with it.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        holder = ""
        with suppress(OSError):
            holder = (folder / f"{LOCK}.holder").read_text(encoding="utf-8").strip()
        raise InputError(f"is in use by another run{f' ({holder})' if holder else ''}", file=folder) from error
    except OSError as error:
        raise EnvironmentFault(f"cannot be written to ({error.strerror})", file=folder) from error
    try:
        (folder / f"{LOCK}.holder").write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            (folder / f"{LOCK}.holder").unlink()
        lock.release()


def read_record(folder: Path, name: str = RECORD) -> dict[str, Any]:
    """What a folder's run.json, or the file of that name, holds; {} where there is none. Raises InputError for another
    form.
    """
    file = folder / name
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file) from error
    if not isinstance(value, dict):
        raise InputError("is no record of a run", file=file)
    return value


def keep_options(folder: Path, part: str, options: Mapping[str, Any], begun: bool = True,
                 remedy: str = "Go on with what it began with, or give a new folder with -o",
                 free: Collection[str] = ()) -> None:  # fmt: skip
    """Write the options of one part of a run, or compare them with those it began with.

    begun: whether anything was made with those; if not, they may still change, as those in `free` always may. Raises
    InputError naming the first that differs: half of the output would be made another way. What an earlier version did
    not write down is so from now on.
    """
    record = read_record(folder)
    known: Mapping[str, Any] = record.get(part, {}) if begun else {}
    for name in sorted(known):
        # What is no option any more, or not one that anything rests on, was written by an earlier version.
        if name in options and name not in free and known[name] != options[name]:
            raise InputError(
                f"this run began with {known[name]!r}, now it is {options[name]!r}", file=folder, field=name,
                remedy=remedy,
            )  # fmt: skip
    if record.get(part) != dict(options):
        with committed(folder / RECORD) as out:
            text = json.dumps({**record, part: dict(options)}, indent=2, sort_keys=True, ensure_ascii=False)
            out.write((text + "\n").encode("utf-8", "backslashreplace"))
