"""What the paper leaves open about the method. These choices are part of the weights: `anyphoto.json` keeps them.

Where the paper is silent the default is ours, with the reason; weights trained with one choice must be run with it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class MethodConfig(BaseModel):
    """Section 3 and appendices A.1, A.3 of the paper, made definite."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    # A.3, location canvas
    patch_size: int = Field(
        default=448,
        ge=112,
        le=1120,
        multiple_of=112,
        description="Side of the norm-cropped face patch before it is pasted, px. Paper: 'canonical size'.",
    )
    scale_min_px: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="A pasted patch is never smaller than this, px: one token. Paper: s_min of Eq. 28.",
    )
    alpha_threshold: int = Field(
        default=0,
        ge=0,
        lt=255,
        description="A pixel belongs to the mask where alpha (0-255) exceeds this. Paper: tau of Eq. 30.",
    )
    mask_rule: Literal["any", "majority", "nearest"] = Field(
        default="any",
        description="A token is kept when any, at least half, or the middle of its 16x16 pixels is set. "
        "'any' never loses a tiny face. Paper: 'downsampled to token resolution'.",
    )
    # 3.2, tokens
    rope_index: int = Field(
        default=1,
        ge=0,
        le=65535,
        description="Leading RoPE index of every location token; noise and text have 0. Paper 3.2: shared by all.",
    )
    latent: Literal["mode", "sample"] = Field(
        default="mode",
        description="Canvas latents: the mode of the VAE's posterior, or a sample of it. 'mode' is deterministic.",
    )
    t5_length: int = Field(
        default=512, ge=16, le=512, description="T5 tokens of the prompt, padding included. FLUX's own default."
    )
    # 3.3, modulation
    projector_hidden: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="Hidden width of the identity projector; null: the transformer's width (3072). Paper A.1.",
    )
    identity_time: Literal["noise", "zero"] = Field(
        default="noise",
        description="Timestep in the modulation of location tokens: the noise tokens' (Eq. 17), or 0 (OminiControl).",
    )
    identity_guidance: float | None = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Guidance told to the modulation of location tokens, in training and in rendering; null: the noise "
        "tokens', as Eq. 17 has it, which costs likeness where rendering tells more (docs/train.md). Ours.",
    )
    modulation: bool = Field(
        default=True, description="Each identity modulates its own tokens. Paper 3.3; false: the ablation of Table 2 e."
    )
    identity: bool = Field(
        default=True,
        description="Location tokens carry the reference; false: zeros, places alone (row a of Table 2 as we read it).",
    )
    # 3.4, attention
    isolation: bool = Field(
        default=True,
        description="Identities never attend to each other. Paper 3.4; false: the ablation of Table A, all visible.",
    )
    # A.1, LoRA
    lora_rank: int = Field(default=128, ge=1, le=4096, description="LoRA rank. Paper A.1: 'moderate'; 128 is XVerse's.")
    lora_alpha: int | None = Field(default=None, ge=1, description="LoRA alpha; null: the rank, so that scaling is 1.")
    lora_feed_forward_in: bool = Field(
        default=False,
        description="Also adapt ff.net.0.proj of the double blocks (OminiControl's list leaves it out).",
    )

    @property
    def alpha(self) -> int:
        """LoRA alpha with the default resolved."""
        return self.lora_alpha or self.lora_rank
