"""What `anyphoto train` can be told. Names that diffusers' own training scripts have are spelt as they are there.

Every key says where its default comes from: the paper, or ours where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from anyphoto_cli.config.method import MethodConfig

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
DEGRADATION_RATES: dict[str, float] = {
    "color_jitter": 0.3,
    "grayscale": 0.1,
    "blur": 0.2,
    "sharpness": 0.1,
    "autocontrast": 0.1,
    "horizontal_flip": 0.3,
    "salt_and_pepper": 0.05,
    "gaussian_noise": 0.15,
    "occlusion": 0.1,
    "illumination": 0.2,
    "jpeg": 0.2,
    "resolution_loss": 0.3,
    "face_ageing": 0.05,
}


def folders_of(shards: str | Sequence[str]) -> tuple[Path, ...]:
    """`data.shards` as a run's config.json has it, too: one, or a list."""
    return tuple(map(Path, (shards,) if isinstance(shards, str) else shards))


class DataConfig(BaseModel):
    """What is trained on. Paper 4.1, A.2."""

    model_config = _STRICT

    shards: str | tuple[str, ...] = Field(
        min_length=1,
        description="Folder that preprocess wrote: manifest.json, shards/, bank/. Or a list of such folders.",
    )
    resolution: int = Field(
        default=512, ge=64, le=4096, multiple_of=16, description="Side of the training crops, px. Ours."
    )
    max_faces: int = Field(
        default=8, ge=1, le=64, description="Of more identified faces as many are taken by chance. Ours."
    )
    replacement: Literal["curriculum", "fixed"] = Field(
        default="curriculum",
        description="How often another photo is pasted: rising at milestones, or fixed. Paper 3.5, Table B.",
    )
    replacement_max: float = Field(
        default=0.5, ge=0, le=1, description="Highest probability of another photo. Paper 4.1."
    )
    degradations: dict[str, float] = Field(
        default=DEGRADATION_RATES,
        description="Probability of each degradation of the pasted patch. Paper A.2; rates ours.",
    )
    identity_drop: float = Field(
        default=0.15, ge=0, le=1, description="Samples without identity: tokens and embeddings zero. Paper 4.1."
    )
    text_drop: float = Field(
        default=0.1, ge=0, le=1, description="Samples with an empty caption. Ours (OminiControl's)."
    )
    bad_shards: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of the shards that may be missing or damaged: they are named and left out. 0: none may.",
    )
    workers: int = Field(
        default=2, ge=0, le=256, description="Processes that prepare samples; 0: the training process itself."
    )

    @property
    def folders(self) -> tuple[Path, ...]:
        """Of the shards: one or several."""
        return folders_of(self.shards)

    @field_validator("degradations")
    @classmethod
    def _known(cls, rates: dict[str, float]) -> dict[str, float]:
        for name, rate in rates.items():
            if name not in DEGRADATION_RATES:
                raise ValueError(f"{name!r} is no degradation; known: {', '.join(DEGRADATION_RATES)}")
            if not 0 <= rate <= 1:
                raise ValueError(f"the probability of {name} is not between 0 and 1")
        return rates


class LossConfig(BaseModel):
    """Paper 3.5, Eq. 20-25."""

    model_config = _STRICT

    face_weight: float = Field(
        default=0.1, ge=0, description="Lambda of Eq. 25; 0: no identity loss. Ours (WithAnyone's)."
    )
    face_t_max: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="The identity loss counts where t is at most this. 1: "
        "always, as in the paper's text; WithAnyone: 0.6.",
    )
    face_target: Literal["reference", "picture"] = Field(
        default="reference",
        description="Whom a face must resemble: the pasted reference (Eq. 24), or the picture's own face.",
    )
    face_decode: Literal["crop", "full"] = Field(
        default="crop", description="Decode a window around each face, or the whole picture (the literal form). Ours."
    )
    face_on_dropped: bool = Field(
        default=True,
        description="Whether the identity loss also counts samples whose identity was dropped, as Eq. 24 has it to "
        "the letter; false: only faces that the model was told of.",
    )
    face_vae: str | None = Field(
        default=None,
        min_length=1,
        description="A tiny VAE of the same latents that decodes the "
        "faces (id or folder): madebyollin/taef1 saves memory. null: its own.",
    )
    face_margin: int = Field(default=4, ge=0, le=64, description="Latent pixels decoded around a face's window. Ours.")
    face_least_eyes: float = Field(
        default=12.0,
        ge=0,
        le=112,
        description="Faces whose eyes are fewer px apart, in the training crop, do not count in the identity loss: "
        "such photos show nobody. Ours.",
    )
    time_mean: float = Field(default=0.0, description="Mean of the normal whose logistic is t. Ours.")
    time_std: float = Field(default=1.0, gt=0, description="Its standard deviation. Ours.")


class TrainConfig(BaseModel):
    """One run."""

    model_config = _STRICT

    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "rank": "method.lora_rank", "lora_alpha": "method.lora_alpha", "lora_dropout": "left out: there is none",
        "pretrained_model_name_or_path": "model", "resolution": "data.resolution",
        "dataloader_num_workers": "data.workers", "train_data_dir": "data.shards", "dataset_name": "data.shards",
        "instance_data_dir": "data.shards", "max_sequence_length": "method.t5_length",
        "resume_from_checkpoint": "no key: a run goes on where its output_dir stands, unless --no-resume",
        "push_to_hub": "a command afterwards: anyphoto export --to hub:org/name",
        "hub_model_id": "anyphoto export --to hub:org/name",
        "hub_token": "hf auth login", "use_8bit": "use_8bit_adam", "use_ema": "ema_decay",
        "allow_tf32": "not needed: the base is bf16 on a GPU", "optimizer": "AdamW, or use_8bit_adam",
        "weighting_scheme": "loss.time_mean and loss.time_std (logit-normal)", "logit_mean": "loss.time_mean",
        "logit_std": "loss.time_std", "num_train_epochs": "max_train_steps", "validation_epochs": "validation_steps",
        "validation_prompt": "validation_layouts", "logging_dir": "output_dir/tensorboard",
    }  # fmt: skip
    """What diffusers' training scripts call something, and what it is here."""

    model: str = Field(
        default="flux-dev", min_length=1, description="Base model: a name, a hub id, or a diffusers folder."
    )
    face_pack: str | None = Field(
        default=None,
        min_length=1,
        description="Face models; null: the base's own pack. Must be the one the shards were made with.",
    )
    adapter: str | None = Field(
        default=None,
        min_length=1,
        description="AnyPhoto weights to train on from: a folder or a hub id, of the same method; null: fresh ones.",
    )
    output_dir: str = Field(min_length=1, description="Folder of the run: checkpoint-<step>/, logs, the adapter.")
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Everything random follows from it and the step.")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps.")
    mixed_precision: Literal["auto", "no", "bf16"] = Field(
        default="auto", description="Number format of the base; auto: bf16 on a GPU."
    )
    base_storage: Literal["full", "fp8", "nf4"] = Field(
        default="full", description="How the frozen base is kept; nf4, fp8: 24 GB cards."
    )
    sharding: Literal["none", "fsdp"] = Field(
        default="none",
        description="fsdp: every rank keeps a part of the frozen base "
        "and gathers the rest block by block; slower, for bases that do not "
        "fit.",
    )
    text_embeddings: Literal["live", "cached"] = Field(
        default="live",
        description="cached: every caption is read once, before "
        "the base is loaded, into output_dir/text/<what they were "
        "read with> (4 MB a caption on FLUX.1); the encoders then need "
        "no memory.",
    )
    train_batch_size: int = Field(
        default=1, ge=1, description="Samples of one device and micro-step. Paper: 64 GPUs x 1."
    )
    gradient_accumulation_steps: int = Field(default=1, ge=1, description="Micro-steps of one optimiser step.")
    max_train_steps: int = Field(default=200_000, ge=1, description="Optimiser steps. Paper 4.1: 200k.")
    learning_rate: float = Field(default=1e-4, gt=0, description="Highest learning rate. Ours (WithAnyone's).")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        default="constant",
        description="After the warm-up: the same, or down to 0. Ours. constant_with_warmup: diffusers' name for "
        "constant.",
    )
    lr_warmup_steps: int = Field(default=500, ge=0, description="Steps to the highest learning rate. Ours.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW. Ours.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW. Ours.")
    adam_weight_decay: float = Field(default=0.01, ge=0, description="AdamW. Ours.")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="AdamW. Ours.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm. Ours.")
    use_8bit_adam: bool = Field(default=False, description="bitsandbytes' AdamW: a quarter of the optimiser's memory.")
    ema_decay: float | None = Field(default=None, gt=0, lt=1, description="Average of the weights; null: none. Ours.")
    guidance_scale: float = Field(
        default=1.0,
        ge=0,
        description="What a guidance-distilled base is told in training. Ours (OminiControl's, UNO's).",
    )
    gradient_checkpointing: bool = Field(
        default=True, description="Compute blocks again in the backward pass: less memory."
    )
    activation_memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="With gradient_checkpointing: as many blocks as fit into so many GB of a device are "
        "not computed again. null: none.",
    )
    overlap_encoding: bool = Field(
        default=False,
        description="On a GPU the next batch goes through VAE and text encoders "
        "while the transformer works on this one; its memory comes on top.",
    )
    compile: bool = Field(
        default=False, description="torch.compile of the blocks; on a GPU not compared with eager training yet."
    )
    checkpointing_steps: int = Field(default=1000, ge=1, description="Steps between checkpoints.")
    checkpoints_total_limit: int = Field(
        default=3, ge=2, description="Checkpoints that are kept; two at least, should the newest be broken."
    )
    logging_steps: int = Field(default=10, ge=1, description="Steps between log lines.")
    report_to: Literal["tensorboard", "wandb", "none"] = Field(
        default="tensorboard", description="Where curves go beside metrics.jsonl; wandb: TensorBoard, too."
    )
    validation_steps: int = Field(default=0, ge=0, description="Steps between validation pictures; 0: none.")
    validation_layouts: tuple[str, ...] = Field(
        default=(), strict=False, description="Layout files that are rendered for it."
    )
    timeout_s: float = Field(default=600.0, gt=0, description="Seconds that ranks wait for each other.")
    data: DataConfig
    loss: LossConfig = LossConfig()
    method: MethodConfig = MethodConfig()

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json")
