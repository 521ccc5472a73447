"""The models that judge: opened once, and what could not be opened told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli.bench.faces import Eyes
from anyphoto_cli.config.bench import SAME_PERSON, BenchConfig
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.model.memory import pick_device


@dataclass(frozen=True, eq=False)
class Models:
    """faces: name -> a face model with a memory. clip, aesthetic: None where missing; why: metric -> reason."""

    faces: Mapping[str, Eyes]
    clip: Any
    aesthetic: Any
    why: Mapping[str, str]

    @property
    def sha256(self) -> dict[str, str]:
        """Name -> the face model's."""
        return {name: eyes.analyzer.sha256 for name, eyes in self.faces.items()}

    @property
    def missing(self) -> list[str]:
        """What is n/a."""
        return sorted(self.why)

    def same_person(self, config: BenchConfig) -> float:
        """The cosine that was asked for, else the calibrated one of the pack whose detector says who stands where.

        A calibration over too few people is none. Raises InputError for a damaged one.
        """
        if config.same_person is not None:
            return config.same_person
        from anyphoto_cli.faces.calibration import find_calibration

        known = find_calibration(next(iter(self.faces.values())).analyzer)
        return known.threshold if known is not None and known.believed else SAME_PERSON

    def settings(self, config: BenchConfig) -> dict[str, Any]:
        """What a folder's scores depend on."""
        kept = config.model_dump(mode="json", exclude={"device", "batch"})
        told = {"same_person": self.same_person(config), "sha256": self.sha256, "not_available": self.missing}
        return kept | told


def open_models(config: BenchConfig, cache: Path | None = None, threads: int = 0) -> Models:
    """Raises as `open_faces` for the face models, InputError for a device or a head that is not there; what else cannot
    be had is told in `why`.

    cache: where the models remember what they saw; None: nowhere. threads: of each face model on a CPU, 0: one a core.
    """
    from anyphoto_cli.faces.packs import open_faces

    picked = pick_device(config.device)
    device = str(picked) if picked.type == "cuda" else "cpu"
    faces: dict[str, Eyes] = {}
    why: dict[str, str] = {}
    for name in config.face_packs:
        try:
            analyzer = open_faces(name, device, threads, any_crop=True, least=config.least_score)
        except EnvironmentFault as error:
            if len(config.face_packs) == 1:
                raise
            why[name] = str(error)
            continue
        if not analyzer.detects:
            raise InputError(f"{analyzer.name} cannot find faces", field="--face-pack")
        if analyzer.name in faces:
            remedy = "Numbers are told apart by it: rename a folder, or give another pack"
            raise InputError(f"{name} is the second one called {analyzer.name}", field="--face-pack", remedy=remedy)
        faces[analyzer.name] = Eyes(analyzer, cache, config.least_score)
    if not faces:
        raise EnvironmentFault("none of the face models can be had", remedy="; ".join(why.values()))
    return Models(faces, _clip(config, device, cache, why), _aesthetic(config, device, cache, why), why)


def _clip(config: BenchConfig, device: str, cache: Path | None, why: dict[str, str]) -> Any:
    from anyphoto_cli.bench.clip_scores import Clip

    if config.clip is None:
        why |= {"clip_i": "not asked for", "clip_t": "not asked for"}
        return None
    try:
        return Clip(config.clip, device, cache=cache, precision=config.precision)
    except EnvironmentFault as error:
        why |= {"clip_i": str(error), "clip_t": str(error)}
        return None


def _aesthetic(config: BenchConfig, device: str, cache: Path | None, why: dict[str, str]) -> Any:
    from anyphoto_cli.bench.aesthetics import Aesthetics

    if config.aesthetic_head is None:
        why["aesthetic"] = "no head's file was given"
        return None
    if not Path(config.aesthetic_head).is_file():
        raise InputError("no such file", file=config.aesthetic_head, field="--aesthetic-head")
    try:
        return Aesthetics(
            Path(config.aesthetic_head), config.aesthetic, config.aesthetic_encoder, device, cache=cache,
            precision=config.precision,
        )  # fmt: skip
    except EnvironmentFault as error:
        why["aesthetic"] = str(error)
        return None
