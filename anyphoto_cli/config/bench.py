"""What `anyphoto bench` can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from anyphoto_cli.config.generate import MAX_STRENGTH, Memory

SAME_PERSON = 0.4
"""Cosine, for packs that nobody calibrated."""
PROTOCOLS: dict[str, dict[str, object]] = {
    "anyphoto": {},
    "withanyone": {
        "face_packs": ("buffalo_l", "facenet", "adaface"),
        "pad_references": "always",
        "least_score": 0.45,
        "clip": "openai/clip-vit-base-patch16",
        "aesthetic": "v2.5",
    },
}
"""Settings by name. withanyone: that paper's evaluator, three face models pooled, references padded; the published rows
were made so. anyphoto: the defaults here, one face model.
"""


class BenchConfig(BaseModel):
    """How pictures are scored. Numbers of two face models, or of two settings here, never mix."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    face_packs: tuple[str, ...] = Field(
        default=("buffalo_l",),
        min_length=1,
        strict=False,
        description="Face models, as insightface packs: names or folders. The first one's detector says who stands "
        "where; values of all are pooled. Not the pack a model was trained with: that flatters it.",
    )
    least_score: float = Field(default=0.45, ge=0, le=1, description="Lowest detection score of a face. WithAnyone's.")
    same_person: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Cosine from which two faces are one person's, to count who is swapped, a stranger or doubled. "
        f"null: the first face pack's calibration, {SAME_PERSON} without one. Ours.",
    )
    pad_references: Literal["needed", "always"] = Field(
        default="needed",
        description="References in the middle of a black square before faces are looked for: where none is "
        "found otherwise, or always, as WithAnyone's evaluator does.",
    )
    clip: str | None = Field(
        default="openai/clip-vit-base-patch16", description="CLIP by hub id or folder; null: no CLIP-I and CLIP-T."
    )
    aesthetic: Literal["v2.5", "laion"] = Field(default="v2.5", description="Which aesthetic predictor.")
    aesthetic_head: str | None = Field(default=None, description="File of its head; null: no Aes.")
    aesthetic_encoder: str | None = Field(
        default=None, description="Its picture encoder by hub id or folder; null: its own."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Number format of CLIP and of the aesthetic encoder. bfloat16: faster on GPUs and on "
        "CPUs that know it, features off by some thousandths.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1.")
    batch: int = Field(default=16, ge=1, le=1024, description="Cases that are read and scored together.")


class RunConfig(BaseModel):
    """How the benchmark's pictures are made. Pictures of two settings never lie in one folder."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    system: str = Field(
        default="anyphoto",
        description="Who makes them: anyphoto, or a baseline: flux (by the prompt alone), flux-kontext, "
        "qwen-image-edit, omnigen.",
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        description="Its weights: a name, hub id or folder; null: mini, or the baseline's own.",
    )
    adapter: str | None = Field(
        default=None, min_length=1, description="AnyPhoto weights, as for generate: a folder, a hub id, or none."
    )
    model_face_pack: str | None = Field(
        default=None, description="Face models that find people for the layouts and embed them; null: the model's own."
    )
    layout_from: Literal["gt", "reference"] = Field(
        default="gt", description="Where the faces go: as in the real photo, or each as its reference has it."
    )
    side: int | None = Field(
        default=None,
        ge=64,
        le=2048,
        description="About side x side pixels; null: 512, or the base's own where that is less; for "
        "baselines but flux 1024, what they were trained on.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Of every picture.")
    steps: int | None = Field(default=None, ge=1, le=1000, description="Denoising steps; null: the base's own.")
    guidance_scale: float | None = Field(
        default=None, ge=0, le=100, strict=False, description="Guidance, as the system defines it; null: its own."
    )
    strength: float | None = Field(
        default=None,
        ge=0,
        le=MAX_STRENGTH,
        strict=False,
        description="How much pictures look at each face (anyphoto alone); null: 1.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Number format of the weights."
    )
    memory: Memory = Field(default="auto", description="How to fit the model.")
