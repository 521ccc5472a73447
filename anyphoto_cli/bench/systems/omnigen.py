"""OmniGen. Pictures stand in the prompt as tags. Needs torchvision. MIT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from anyphoto_cli.bench.systems.editing import EditingSystem


class OmniGen(EditingSystem):
    """diffusers' OmniGenPipeline."""

    source: ClassVar[str] = "Shitao/OmniGen-v1-diffusers"
    pipelines: ClassVar[tuple[str, ...]] = ("OmniGenPipeline",)
    steps: int = 50
    guidance: ClassVar[float] = 2.5
    needs_torchvision: ClassVar[bool] = True

    def arguments(self, prompt: str, references: Sequence[Any], steps: int, guidance: float) -> dict[str, Any]:
        """As `EditingSystem` says."""
        return {
            "prompt": f"{prompt} {people_tags(len(references))}", "input_images": list(references),
            "num_inference_steps": steps, "guidance_scale": guidance, "img_guidance_scale": 1.6,
        }  # fmt: skip


def people_tags(count: int) -> str:
    """One sentence that says where each picture goes, in the words OmniGen was trained on."""
    tags = [f"the person in <img><|image_{k}|></img>" for k in range(1, count + 1)]
    shown = tags[0] if count == 1 else f"{', '.join(tags[:-1])} and {tags[-1]}"
    return f"The picture shows {shown}."
