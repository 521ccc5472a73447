"""In which phases the models are trained that have several: names of their checkpoints, the last phase first."""

from __future__ import annotations

from pathlib import Path

VAE = ("polished", "refined", "vae")
HEEDING = "heeding"
"""The checkpoint of the stage `heed`, of guidance as it was distilled then: distilling on makes it void."""
UNGUIDED = ("flow", "base")
BASE = (HEEDING, "guided", *UNGUIDED)
RECOGNISER = ("face-settled", "face-recogniser")


def last_begun(folder: Path, *names: str) -> str:
    """The first of these that has a checkpoint; else the one named at the end."""
    return next((name for name in names if (folder / f"{name}.pt").is_file()), names[-1])
