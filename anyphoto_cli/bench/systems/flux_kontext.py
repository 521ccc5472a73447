"""FLUX.1 Kontext. It takes one picture: several references stand side by side in it. FLUX.1-dev's licence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from anyphoto_cli.bench.systems.editing import EditingSystem, side_by_side


class FluxKontext(EditingSystem):
    """diffusers' FluxKontextPipeline."""

    source: ClassVar[str] = "black-forest-labs/FLUX.1-Kontext-dev"
    pipelines: ClassVar[tuple[str, ...]] = ("FluxKontextPipeline",)
    steps: int = 28
    guidance: ClassVar[float] = 3.5

    def arguments(self, prompt: str, references: Sequence[Any], steps: int, guidance: float) -> dict[str, Any]:
        """As `EditingSystem` says. It resizes its input to one of the sizes it was trained on."""
        return {
            "image": side_by_side(references), "prompt": prompt, "num_inference_steps": steps,
            "guidance_scale": guidance,
        }  # fmt: skip

    def size(self, width: int, height: int) -> dict[str, Any]:
        """It scales what it is asked for to an area."""
        return {"width": width, "height": height, "max_area": width * height}
