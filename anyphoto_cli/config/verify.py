"""What `anyphoto verify`, and `generate --verify`, hold a picture to."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class VerifyConfig(BaseModel):
    """Thresholds. The cosine's has no default of ours: it is the face pack's own affair, see `faces calibrate`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    threshold: float | None = Field(
        default=None, ge=-1, le=1,
        description="Least cosine to the reference. Default: the face pack's calibration; without one no judgement.",
    )  # fmt: skip
    off_by: float = Field(
        default=0.25, gt=0, le=1, description="How far a face may lie from its place, in heights of the face asked for."
    )
    least_score: float = Field(default=0.5, ge=0, le=1, description="Detection score from which something is a face.")
