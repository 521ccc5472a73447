"""The reference bank of a run: from photos of known people, or from groups of faces that look alike. Paper A.2."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from anyphoto_cli import __version__
from anyphoto_cli.data.bank import (
    INDEX,
    identity_file,
    identity_name,
    list_references,
    loose_photos,
    read_identity,
    write_identity,
    write_index,
)
from anyphoto_cli.preprocess.discovery import cluster, discovered_identity, good_faces, same_person
from anyphoto_cli.preprocess.pieces import BankPiece
from anyphoto_cli.preprocess.stage_run import StageRun
from anyphoto_cli.runtime.run_record import read_record

SHUNNED = "shunned"
"""In work/: people who are known only so that pictures of them can be left out."""


def references_digest(folder: Path) -> str:
    """Of the names and sizes of all reference photos and centres, whatever folder they lie in. A bank's files have
    numbers: other people in the folder, and a number would be someone else's.
    """
    digest = hashlib.sha256()
    for one in list_references(folder):
        files = [*one.photos, *([one.centre] if one.centre else [])]
        told = [os.fsencode(one.name), *(os.fsencode(f"{file.name} {_size(file)}") for file in files)]
        digest.update(b"\0".join(told) + b"\n")
    return digest.hexdigest()


def _size(file: Path) -> int:
    """-1 for a link that leads nowhere: it is told and left out when it is opened."""
    try:
        return file.stat().st_size
    except OSError:
        return -1


def make_bank(run: StageRun) -> None:
    """The bank, and beside it (in work/, without their use for training) the people who must not be in the data."""
    if run.config.discover:
        return _discovered_bank(run)
    references = list_references(run.refs) if run.refs else []
    for loose in loose_photos(run.refs) if run.refs else []:
        run.listener.caution(f"reference {loose.name} lies in no person's folder: left out")
    everybody, excluded = tuple(references), run.exclusions.identities
    homes = {
        run.bank: [k for k, one in enumerate(everybody) if one.name not in excluded],
        run.work.folder / SHUNNED: [k for k, one in enumerate(everybody) if one.name in excluded],
    }
    if not (run.bank / INDEX).is_file():
        _sort(
            {identity_file(k): (home / identity_file(k), everybody[k].name) for home in homes for k in homes[home]},
            homes,
        )
    for folder, wanted in homes.items():
        if (folder / INDEX).is_file() or not (wanted or folder == run.bank):
            continue
        todo = [k for k in wanted if not (folder / identity_file(k)).is_file()]
        run.listener.work("Reference bank", len(wanted), len(wanted) - len(todo))
        try:
            for _ in run.do(BankPiece(everybody, folder, run.config, run.device), todo):
                run.listener.done(1)
        finally:
            run.listener.end()
        _index(run, folder, {everybody[k].name: identity_file(k) for k in wanted})


def _sort(places: Mapping[str, tuple[Path, str]], homes: Iterable[Path]) -> None:
    """Each person's file where it belongs. places: file name -> the file, and whose it is. Others go: earlier versions
    numbered a bank without those who were left out of it, and a number would be someone else's.
    """
    for file in [file for home in homes for file in sorted(home.glob("*.npz"))]:
        place, name = places.get(file.name, (file, ""))
        if not name or identity_name(file) != name:
            file.unlink()
        elif place != file:
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)


def _discovered_bank(run: StageRun) -> None:
    if (run.bank / INDEX).is_file():
        return
    run.listener.stage("Grouping faces into identities")
    faces = good_faces(run.photos, run.work, run.config, run.exclusions)
    groups = cluster(faces, run.config.discover_least, same_person(run.config))
    named = [(f"person_{k + 1:03d}", group) for k, group in enumerate(groups)]
    run.listener.work("Reference bank", len(groups))
    excluded = run.exclusions.identities
    for folder, wanted in (
        (run.work.folder / SHUNNED, [one for one in named if one[0] in excluded]),
        (run.bank, [one for one in named if one[0] not in excluded]),
    ):
        for k, (name, group) in enumerate(wanted):
            write_identity(folder, k, discovered_identity(name, group, faces, run.photos, run.work, run.config))
            run.listener.done(1)
        if wanted or folder == run.bank:
            _index(run, folder, {name: identity_file(k) for k, (name, _) in enumerate(wanted)})
    run.listener.end()


def _index(run: StageRun, folder: Path, files: Mapping[str, str]) -> None:
    counts, left_out, remarks = {}, [], []
    for name, file in files.items():
        identity = read_identity(folder / file, with_patches=False)
        counts[name] = len(identity.sources)
        left_out += [list(entry) for entry in identity.left_out]
        remarks += [list(entry) for entry in identity.remarks]
    for source, reason in left_out[:20]:
        run.listener.caution(f"reference {source} {reason}: left out")
    for source, remark in remarks[:20]:
        run.listener.caution(f"reference {source} {remark}")
    facts = {"patch_size": run.config.patch_size, "faces_sha256": read_record(run.out)["models"]["faces"],
             "anyphoto": __version__, "left_out": left_out, "remarks": remarks}  # fmt: skip
    write_index(folder, files, counts, facts)
