"""A template photo -> a layout with as many people at the same places: known ones by name, others to be filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from anyphoto_cli.data.bank import list_references
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.calibration import calibrated, find_calibration
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.generate.known_people import Known, known_people
from anyphoto_cli.geometry import fitting_size
from anyphoto_cli.layout.check import check_layout
from anyphoto_cli.layout.head_count import counted
from anyphoto_cli.layout.schema import Layout
from anyphoto_cli.layout.write import Placed, check_target, write_layout
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Face, Picture

LEAST_SCORE = 0.5
SIDE, DRAWN_SIDE = 1024, 256
"""Layouts have about SIDE x SIDE pixels; photos of at most DRAWN_SIDE px keep their size: they are drawn ones."""


def check_asked(
    photo: Path, out: Path, refs: Path | None = None, overwrite: bool = False, threshold: float | None = None
) -> None:  # fmt: skip
    """What can be told without a face model, which may have to be fetched first. Raises InputError."""
    if threshold is not None and refs is None:
        raise InputError("is for known people", field="--threshold", remedy="Name them with --refs")
    read_picture(photo)
    check_target(out, overwrite)
    if refs is not None:
        list_references(refs)


def layout_from_photo(
    photo: Path,
    out: Path,
    analyzer: FaceAnalyzer,
    *,
    refs: Path | None = None,
    prompt: str | None = None,
    caption: Callable[[Picture], str] | None = None,
    size: tuple[int, int] | None = None,
    threshold: float | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> tuple[Layout, int]:
    """Write the layout `out`; returns it and how many of its places are still to be filled.

    refs: a folder a person; who is in it is matched one to one, from `threshold` on (None: the pack's calibration, else
    the bank's own where it has pairs enough; else nobody is matched, which is told). prompt: None: what `caption` says,
    else how many people there are. What `layout check` warns of is told. Raises InputError without faces, and before
    anything is written for places that it refuses.
    """
    listener, picture = listener or Listener(), read_picture(photo)
    faces = [face for face in analyzer.detect([picture])[0] if face.score >= LEAST_SCORE]
    if not faces:
        raise InputError(f"{analyzer.name} found no face", file=photo, remedy="Take a photo with clear faces")
    faces.sort(key=lambda face: float(face.landmarks[:, 0].mean()))
    known = known_people(refs, analyzer, listener) if refs is not None else {}
    names = _matched(picture, faces, known, analyzer, threshold, listener)
    drawn = max(picture.shape[:2]) <= DRAWN_SIDE
    side = (picture.shape[0] * picture.shape[1]) ** 0.5 if drawn else SIDE
    width, height = size or fitting_size(picture.shape[1], picture.shape[0], side)
    scale = np.array([width / picture.shape[1], height / picture.shape[0]])
    people = [
        Placed(name, known[name].photo if name is not None else None, face.landmarks * scale)
        for face, name in zip(faces, names, strict=True)
    ]
    said = prompt or (caption(picture) if caption else "") or counted(len(faces))
    try:
        layout = write_layout(out, people, said, (width, height), overwrite=overwrite)
    except InputError as error:
        if not error.field.startswith("faces["):
            raise
        remedy = f"Take a larger --size than {width}x{height}, or another photo"
        raise InputError(f"{error.field}: {error.what}", file=photo, remedy=remedy) from error
    for caution in check_layout(layout, references=False).cautions:
        listener.caution(f"{layout.shown_name}: {caution}")
    return layout, names.count(None)


def _matched(
    picture: Picture, faces: Sequence[Face], known: Mapping[str, Known], analyzer: FaceAnalyzer,
    threshold: float | None, listener: Listener,
) -> list[str | None]:  # fmt: skip
    """Each face's name, one to one; None where nobody of the bank is like it enough."""
    if not known:
        return [None] * len(faces)
    least = threshold if threshold is not None else _threshold(known, analyzer)
    if least is None:
        listener.caution(
            f"{analyzer.name} is not calibrated, and the known people are too few to tell from which cosine on two "
            "faces are one person's: all places are left to be filled. Name a --threshold, or run anyphoto faces "
            "calibrate REFS over more people"
        )
        return [None] * len(faces)
    rows = analyzer.embed(np.stack([norm_crop(picture, face.landmarks) for face in faces]))
    names = list(known)
    similar = np.stack([(rows @ known[name].embeddings.T).mean(1) for name in names], 1)
    found: list[str | None] = [None] * len(faces)
    for face, who in zip(*linear_sum_assignment(-np.where(similar >= least, similar, -1.0)), strict=True):
        if similar[face, who] >= least:
            found[face] = names[who]
            listener.notice(f"{names[who]}: cosine {similar[face, who]:.2f} (from {least:.2f} on)")
    return found


def _threshold(known: Mapping[str, Known], analyzer: FaceAnalyzer) -> float | None:
    """None where neither the stored calibration nor the bank has pairs enough to go by."""
    found = find_calibration(analyzer)
    if (found is None or not found.believed) and len(known) > 1:
        found = calibrated({name: one.embeddings for name, one in known.items()}, analyzer.name, analyzer.sha256)
    return found.threshold if found is not None and found.believed else None
