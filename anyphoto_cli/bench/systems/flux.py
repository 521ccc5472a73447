"""FLUX.1 from the prompt alone: it never sees a reference, so whatever it scores is chance. The floor of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from anyphoto_cli.bench.systems.editing import EditingSystem
from anyphoto_cli.model import bases


class Flux(EditingSystem):
    """diffusers' FluxPipeline on a base as `--model` of `generate` names it, at the size that anyphoto would take."""

    source: ClassVar[str] = "flux-dev"
    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    guidance: ClassVar[float] = 3.5

    def weights(self, named: str) -> str:
        """As `generate` finds them; steps and size are the base's own."""
        base = bases.resolve_base(named)
        self.steps, self.side = base.steps, 512 if base.sides[1] >= 512 else base.sides[0]
        return str(bases.base_folder(base))

    def arguments(self, prompt: str, references: Sequence[Any], steps: int, guidance: float) -> dict[str, Any]:
        """As `EditingSystem` says; no reference is used."""
        length = min(512, int(self._pipeline.tokenizer_2.model_max_length))
        return {"prompt": prompt, "num_inference_steps": steps, "guidance_scale": guidance,
                "max_sequence_length": length}  # fmt: skip
