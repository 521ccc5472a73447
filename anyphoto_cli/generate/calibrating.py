"""`anyphoto faces calibrate`: a folder of known people -> from which cosine on two faces are one person's."""

from __future__ import annotations

from pathlib import Path

from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.calibration import (
    FEWEST,
    Calibration,
    calibrated,
    calibration_file,
    most_alike,
    write_calibration,
)
from anyphoto_cli.generate.known_people import known_people
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.seams import FaceAnalyzer

MANY = 0.1
"""Share of one person's pairs below the threshold from which on it is told. Ours."""


def calibrate(
    refs: Path, analyzer: FaceAnalyzer, out: Path | None = None, listener: Listener | None = None, force: bool = False
) -> tuple[Calibration, Path]:  # fmt: skip
    """Measure and write; returns both. refs: a folder a person, photos in it. out: not into this machine's own file.

    force: also with fewer than FEWEST pairs of different people, and believed. Photos without a face are told and left
    out. Raises InputError with fewer than two people, and for too few pairs.
    """
    listener = listener or Listener()
    embeddings = {name: one.embeddings for name, one in known_people(refs, analyzer, listener).items()}
    found = calibrated(embeddings, Path(analyzer.name).name, analyzer.sha256)
    if found.different_pairs < FEWEST:
        few = "only 1 pair" if found.different_pairs == 1 else f"only {found.different_pairs} pairs"
        if not force:
            remedy = f"{FEWEST} are needed (15 people with a photo each): add people, or take the guess with --force"
            raise InputError(f"{few} of different people", file=refs, field="REFS", remedy=remedy)
        listener.caution(f"{few} of different people: one in a hundred of them is a guess")
        found = found.model_copy(update={"forced": True})
    if not found.same_pairs:
        listener.caution("nobody has two photos: how often one person is taken for two is not known")
    if (found.false_reject or 0) > MANY:
        one, other, cosine = most_alike(embeddings)
        listener.caution(
            f"{found.false_reject:.0%} of the pairs of one person are below the threshold: verify would not know them. "
            f"The two most alike are {one} and {other} ({cosine:.2f}): is that one person?"
        )
    file = out or calibration_file(analyzer)
    write_calibration(found, file)
    return found, file
