"""FLUX.1 from the prompt alone: it never sees a reference, so whatever it scores is chance. The floor of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from anyphoto_cli.bench.systems import side_on
from anyphoto_cli.bench.systems.editing import EditingSystem
from anyphoto_cli.config.bench import RunConfig
from anyphoto_cli.model import bases


class Flux(EditingSystem):
    """diffusers' FluxPipeline on a base as `--model` of `generate` names it, at the size that anyphoto would take."""

    source: ClassVar[str] = "flux-dev"
    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    guidance: ClassVar[float] = 3.5

    def weights(self, named: str) -> str:
        """As `generate` finds them; the steps are the base's own."""
        base = bases.resolve_base(named)
        self.steps = base.steps
        return str(bases.base_folder(base))

    @classmethod
    def side_for(cls, config: RunConfig) -> int:
        """The base's, as anyphoto takes it."""
        return side_on(bases.resolve_base(config.model or cls.source))

    def arguments(self, prompt: str, references: Sequence[Any], steps: int, guidance: float) -> dict[str, Any]:
        """As `EditingSystem` says; no reference is used."""
        length = min(512, int(self._pipeline.tokenizer_2.model_max_length))
        return {"prompt": prompt, "num_inference_steps": steps, "guidance_scale": guidance,
                "max_sequence_length": length}  # fmt: skip
