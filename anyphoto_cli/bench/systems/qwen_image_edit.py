"""Qwen-Image-Edit. The Plus pipeline (2509 and later) takes several pictures, the first release one. Apache-2.0.

Its processor in transformers needs torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from anyphoto_cli.bench.systems.editing import EditingSystem, side_by_side


class QwenImageEdit(EditingSystem):
    """diffusers' QwenImageEditPlusPipeline, or QwenImageEditPipeline where --model names a folder of that."""

    source: ClassVar[str] = "Qwen/Qwen-Image-Edit-2509"
    pipelines: ClassVar[tuple[str, ...]] = ("QwenImageEditPlusPipeline", "QwenImageEditPipeline")
    steps: int = 40
    guidance: ClassVar[float] = 4.0
    needs_torchvision: ClassVar[bool] = True

    def arguments(self, prompt: str, references: Sequence[Any], steps: int, guidance: float) -> dict[str, Any]:
        """As `EditingSystem` says; guidance is classifier-free, against an empty prompt."""
        several = type(self._pipeline).__name__ == "QwenImageEditPlusPipeline"
        return {
            "image": list(references) if several else side_by_side(references), "prompt": prompt,
            "negative_prompt": " ", "num_inference_steps": steps, "true_cfg_scale": guidance,
        }  # fmt: skip
