"""Pictures of fixed layouts while training, with the training transformer itself, and how much of whom is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.placement import at_their_places
from anyphoto_cli.files.commit import committed
from anyphoto_cli.generate.conditions import Conditions, prepare_faces
from anyphoto_cli.layout.schema import Layout, load_layout
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.types import Picture


@dataclass(frozen=True, eq=False)
class Validation:
    """The layouts, their people made ready once, and who looks at the pictures."""

    layouts: tuple[Layout, ...]
    conditions: tuple[Conditions, ...]
    analyzer: FaceAnalyzer


@dataclass(frozen=True)
class FaceScore:
    """One asked-for face. cosine: to its reference, nan where nobody was found. error: of its middle, in face sizes."""

    layout: str
    name: str
    cosine: float
    error: float

    @property
    def state(self) -> str:
        """found, or missing."""
        return "found" if np.isfinite(self.cosine) else "missing"


SCORES = "scores.json"
"""What `write_scores` writes, beside the pictures."""


def read_layouts(config: TrainConfig) -> tuple[Layout, ...]:
    """Those that are to be rendered, none where `validation_steps` is 0. Raises InputError for files that are no
    layouts, and for two of one name: the picture of the second would replace the first one's.
    """
    layouts = tuple(load_layout(Path(file)) for file in config.validation_layouts) if config.validation_steps else ()
    first: dict[str, Layout] = {}
    for number, layout in enumerate(layouts):
        if (other := first.setdefault(_name(layout), layout)) is not layout:
            what = f"{layout.file} has the name of {other.file}: both would be {_name(layout)}.png"
            raise InputError(what, field=f"validation_layouts[{number}]", remedy="Rename one")
    return layouts


def open_validation(config: TrainConfig, layouts: Sequence[Layout], analyzer: FaceAnalyzer) -> Validation | None:
    """Their people, found in their photos. None without layouts. Raises InputError for pictures without a face, or a
    pack without a detector.
    """
    if not layouts:
        return None
    if not analyzer.detects:
        raise InputError(f"{analyzer.name} cannot find faces", field="face_pack", remedy="Set validation_steps: 0")
    conditions = tuple(prepare_faces(layout, analyzer, config.method) for layout in layouts)
    return Validation(tuple(layouts), conditions, analyzer)


def validate(
    validation: Validation, pipeline: Any, encode_text: Any, folder: Path | None, steps: int, ranks: Ranks | None = None
) -> list[FaceScore]:
    """Render every layout into `folder`/<name>.png and score its faces. steps: denoising, where a layout is silent.

    encode_text: as training reads captions. folder: None keeps no picture. ranks: who share the layouts, one each at a
    time, so that nobody waits longer than a picture takes; all get all scores, in the layouts' order. None: this rank
    renders all of them.

    Draws from no shared source of chance: training goes on as if this had not been.
    """
    ranks = ranks or Ranks()
    scores: list[FaceScore] = []
    pipeline.set_progress_bar_config(disable=True)
    for first in range(0, len(validation.layouts), ranks.world):
        mine, own = first + ranks.rank, []
        if mine < len(validation.layouts):
            layout, conditions = validation.layouts[mine], validation.conditions[mine]
            picture = _rendered(layout, conditions, pipeline, encode_text, folder, steps)
            own = score_faces(picture, layout, conditions, validation.analyzer)
        scores += [score for part in ranks.gather(own) for score in part]
    return scores


def _rendered(
    layout: Layout, conditions: Conditions, pipeline: Any, encode_text: Any, folder: Path | None, steps: int
) -> Picture:
    states, pooled = encode_text([layout.prompt])
    image = pipeline(
        prompt_embeds=states, pooled_prompt_embeds=pooled, faces=conditions.faces,
        height=layout.height, width=layout.width,
        num_inference_steps=layout.steps or steps, guidance_scale=layout.guidance_scale,
        generator=torch.Generator().manual_seed(layout.seed or 0),
    ).images[0]  # fmt: skip
    if folder is not None:
        with committed(folder / f"{_name(layout)}.png") as out:
            image.save(out, format="PNG")
    return np.asarray(image.convert("RGB"))


def _name(layout: Layout) -> str:
    return layout.file.stem if layout.file else "layout"


def score_faces(picture: Picture, layout: Layout, conditions: Conditions, analyzer: FaceAnalyzer) -> list[FaceScore]:
    """Each asked-for face against the one found at its place, one to one."""
    from anyphoto_cli.faces.norm_crop import norm_crop

    found = analyzer.detect([picture])[0]
    places = np.array([face.place for face in layout.faces]).reshape(-1, 5, 2)
    points = np.array([face.landmarks for face in found]).reshape(-1, 5, 2)
    pairs = {place: (face, away) for face, place, away in at_their_places(points, places)}
    name, scores = _name(layout), []
    for place, (face, wanted) in enumerate(zip(layout.faces, conditions.embeddings, strict=True)):
        if place not in pairs:
            scores.append(FaceScore(name, face.name, float("nan"), float("nan")))
            continue
        nearest, away = pairs[place]
        embedding = analyzer.embed(norm_crop(picture, found[nearest].landmarks)[None])[0]
        scores.append(FaceScore(name, face.name, float(embedding @ wanted), away))
    return scores


def write_scores(folder: Path, scores: Sequence[FaceScore]) -> None:
    """`folder`/scores.json: every face of every layout; null where there was nobody to measure."""
    told = [
        {"layout": layout, "faces": [{
            "name": s.name, "state": s.state,
            "cosine": round(s.cosine, 4) if s.state == "found" else None,
            "error": round(s.error, 4) if s.state == "found" else None,
        } for s in own]}
        for layout, own in groupby(scores, lambda score: score.layout)
    ]  # fmt: skip
    with committed(folder / SCORES) as out:
        out.write((json.dumps({"layouts": told}, ensure_ascii=False, indent=1) + "\n").encode())


def summary(scores: Sequence[FaceScore]) -> dict[str, float]:
    """For the log: share of faces found, mean cosine and place error of those."""
    seen = [score for score in scores if score.state == "found"]
    mean = {"cosine": [s.cosine for s in seen], "error": [s.error for s in seen]}
    return {
        "validation_found": len(seen) / max(len(scores), 1),
        **{f"validation_{key}": float(np.mean(values)) if values else float("nan") for key, values in mean.items()},
    }
