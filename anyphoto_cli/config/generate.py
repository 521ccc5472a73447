"""What `anyphoto generate` can be told beside the layout."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Memory = Literal["auto", "full", "offload", "hoisted", "fp8", "nf4", "group"]
Attention = Literal["auto", "split", "merged", "masked"]
MAX_STRENGTH = 4
"""Of a face: how much the picture may look at it, at most; 1 is what was trained."""


class GenerateConfig(BaseModel):
    """Where a layout is silent, the layout's own defaults hold; what is given here wins over the layout."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    model: str = Field(
        default="mini",
        min_length=1,
        description="Base model: a name (mini, flux-dev, flux-schnell, tiny-random), a hub id, or a diffusers folder.",
    )
    adapter: str | None = Field(
        default=None,
        min_length=1,
        description="AnyPhoto weights: a folder or a hub id; none: no trained identity. Default: the base's own, "
        "where it has some.",
    )
    face_pack: str | None = Field(
        default=None,
        description="Face models: an insightface pack by name or folder. Default: the one the base model asks for.",
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Seed of the first picture; the k-th has seed + k."
    )
    steps: int | None = Field(default=None, ge=1, le=1000, description="Denoising steps.")
    num_images: int | None = Field(default=None, ge=1, le=10_000, description="Pictures per layout.")
    strength: float | None = Field(
        default=None,
        ge=0,
        le=MAX_STRENGTH,
        strict=False,
        description="How much the picture looks at each face, in place of the layout's: below 1 leaves more to the "
        "prompt.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Number format of the weights. auto: bfloat16 on a GPU, float32 on a CPU."
    )
    memory: Memory = Field(
        default="auto",
        description="How to fit the model: full, offload, hoisted, fp8, nf4, group; auto picks by free memory.",
    )
    attention: Attention = Field(
        default="auto",
        description="Forms of the same attention. split: a call for everybody and one for each person; merged: parts "
        "joined by their log-sum-exp; masked: the dense reference. auto: masked for few tokens, merged from 1,024 "
        "on, on a GPU from 2,560 on (there split in float32).",
    )
    compile: bool = Field(
        default=False,
        description="torch.compile of the blocks: minutes for the first picture, then faster; for many pictures.",
    )
    batch: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Pictures rendered at once; more than 1 is faster, and changes them by rounding alone.",
    )
    cache: float | None = Field(
        default=None, gt=0, le=1, strict=False,
        description="First-block cache, inexact: skip a step's other blocks where its first changes by less than this "
        "(.05 to .15). Default: never.",
    )  # fmt: skip
    lora: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Another LoRA on all tokens, a style or a turbo; FILE@0.8: at that strength. Experimental.",
    )
