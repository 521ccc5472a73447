"""What `anyphoto preprocess` can be told. A key belongs to a stage: once that stage has begun, a run keeps it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

STAGES = ("detect", "match", "caption", "pack")
"""In their order. Each can be run alone, later, or elsewhere, when those before it are done."""


def _key(stage: str, default: Any, description: str, **rules: Any) -> Any:
    return Field(default=default, description=description, json_schema_extra={"stage": stage}, **rules)


class PreprocessConfig(BaseModel):
    """Paper, appendix A.2. Thresholds the paper does not give are ours."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    # 1. persons and faces
    person_model: str = _key(
        "detect", "yolo11x.pt", "YOLO weights (.pt, through ultralytics), a YOLO .onnx, or mini. Paper A.2: YOLO11x.",
        min_length=1,
    )  # fmt: skip
    face_pack: str = _key("detect", "antelopev2", "Face models: an insightface pack by name or folder. Paper A.2.",
                          min_length=1)  # fmt: skip
    person_score: float = _key("detect", 0.35, "Least score of a person.", ge=0.01, le=1)
    face_score: float = _key("detect", 0.5, "Least score of a face.", ge=0.01, le=1)
    sure_face: float = _key("detect", 0.65, "Faces with a lower score are flagged unsure.", ge=0, le=1)
    min_face: float = _key("detect", 40.0, "Faces with a shorter side than this, px, are flagged small.", ge=0)
    min_sharpness: float = _key(
        "detect", 20.0, "Variance of the Laplacian at 112 px below which a face is flagged blurred.", ge=0
    )
    max_yaw: float = _key("detect", 65.0, "Degrees from the front beyond which a face is flagged turned.", ge=0, le=180)
    person_margin: float = _key("detect", 0.15, "A person's box grows by this share before faces are looked for in it.",
                                ge=0, le=2)  # fmt: skip
    masks: bool = _key("detect", False, "Store person masks (COCO RLE); needs a segmentation model.")
    max_side: int = _key("detect", 2048, "Pictures with a longer side, px, are made smaller.", ge=64, le=16384)
    min_side: int = _key("detect", 256, "Pictures with a shorter side below this, px, are dropped.", ge=1)
    # 2. identities and what is kept
    match_threshold: float = _key("match", 0.4, "Least score of an identity. Paper A.2 and WithAnyone: 0.4-0.5.",
                                  ge=-1, le=1)  # fmt: skip
    overlap_weight: float = _key("match", 0.4, "Share of the box overlap where the source names boxes.", ge=0, le=1)
    centre_weight: float = _key(
        "match", 0.5, "Share of the cosine to an identity's centre; the rest is its best reference.", ge=0, le=1
    )
    discover: bool = _key("match", False, "No bank: group the faces of the photos into identities.")
    discover_least: int = _key("match", 3, "Photos an identity must be in to be discovered.", ge=2)
    reference_outlier: float = _key(
        "match", 0.2, "A reference whose cosine to the others of its identity is lower is left out.", ge=-1, le=1
    )
    reference_min: float = _key("match", 40.0, "References with a smaller face, px, are left out.", ge=0)
    max_references: int = _key(
        "match", 32, "References of an identity that are used, at equal steps through their names.", ge=1, le=1000
    )
    min_identified: int = _key("match", 1, "Pictures with fewer identified faces are dropped.", ge=0)
    max_people: int = _key("match", 16, "Pictures with more faces are dropped.", ge=1)
    drop_flags: tuple[Literal["small", "blurred", "turned", "unsure"], ...] = _key(
        "match", ("small", "blurred"), "A face with one of these flags is no identified face.", strict=False
    )
    near_duplicates: int = _key(
        "match", 4, "Pictures whose perceptual hashes (64 bit) differ in at most so many bits are one. -1: keep all.",
        ge=-1, le=6,
    )  # fmt: skip
    min_aesthetic: float | None = _key("match", None, "Least aesthetic score, where the source gives one.")
    max_nsfw: float | None = _key("match", None, "Highest NSFW score, where the source gives one.")
    patch_size: int = _key("match", 448, "Side of the bank's norm-cropped patches, px: the training's patch_size.",
                           ge=112, le=1120, multiple_of=112)  # fmt: skip
    train_size: int = _key("match", 512, "Side of the training crops, px: location tokens are counted for it.",
                           ge=64, le=4096, multiple_of=16)  # fmt: skip
    # 3. captions
    captioner: str = _key("caption", "vllm", "vllm (in process), openai (a server, --caption-url), template, file, or "
                          "none.", min_length=1)  # fmt: skip
    caption_model: str = _key("caption", "Qwen/Qwen2.5-VL-72B-Instruct", "The VLM's id or folder. Paper A.2.",
                              min_length=1)  # fmt: skip
    caption_url: str | None = _key("caption", None, "An OpenAI-compatible endpoint: http://127.0.0.1:8000/v1.")
    caption_file: str | None = _key("caption", None, "For captioner file: JSONL or parquet rows of id (or path) and "
                                    "caption.")  # fmt: skip
    caption_prompt: str | None = _key("caption", None, "A text file with the prompt; default: the package's own.")
    caption_words: int = _key("caption", 120, "Longer captions are cut answers or chatter: flagged.", ge=5, le=2000)
    # 4. shards
    shard_size: int = _key("pack", 1000, "Samples in a shard.", ge=1, le=100_000)
    jpeg_quality: int = _key("pack", 95, "Of the stored pictures.", ge=50, le=100)
    split: str = _key("pack", "train", "First part of the shards' names.", pattern=r"^[A-Za-z0-9_]+$")

    def of_stage(self, stage: str) -> dict[str, Any]:
        """The keys of one stage and their values, as JSON has them."""
        values = self.model_dump(mode="json")
        extra = {name: field.json_schema_extra for name, field in type(self).model_fields.items()}
        return {name: values[name] for name, told in extra.items() if isinstance(told, dict) and told["stage"] == stage}


class RunOptions(BaseModel):
    """How a run is carried out: none of it changes the bytes that come out, but for last digits by a GPU."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    executor: Literal["local", "ray", "here"] = Field(
        default="local", description="local: processes on this machine; ray: a Ray cluster; here: this very process."
    )
    workers: int = Field(default=0, ge=0, le=1024, description="Worker processes; 0: one a core, or one a GPU.")
    device: str = Field(default="auto", description="auto, cpu, cuda.")
    batch: int = Field(default=8, ge=1, le=256, description="Pictures a model sees at once.")
    ray_address: str | None = Field(default=None, description="A running Ray cluster; default: one is started here.")
    caption_concurrency: int = Field(default=32, ge=1, le=4096, description="Requests to the caption server at a time.")
    caption_deadline: float = Field(default=300.0, gt=0, description="Seconds a caption may take, retries included.")
    max_failed: float = Field(
        default=0.5, ge=0, le=1, description="Stop when more than this share of the photos fails."
    )
