"""AnyPhoto itself, through `anyphoto generate`: a layout for each case, rendered with one opened model."""

from __future__ import annotations

from pathlib import Path

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.placing import write_layout
from anyphoto_cli.bench.systems import device_of
from anyphoto_cli.config.bench import RunConfig
from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.generate import find_models, render
from anyphoto_cli.runtime.progress import Listener


class AnyPhoto:
    """config.model, config.adapter as `generate` takes them. What is finished already is kept: `render` knows it."""

    def __init__(self, config: RunConfig, worker: int = 0) -> None:
        self._config = config
        asked = {
            "adapter": config.adapter, "steps": config.steps, "model": config.model,
            "face_pack": config.model_face_pack,
        }  # fmt: skip
        self._generate = GenerateConfig.model_validate(
            {key: value for key, value in asked.items() if value is not None}
            | {"device": device_of(config, worker), "memory": config.memory, "dtype": config.dtype}
        )
        self._models = find_models(self._generate)
        # Opened here and not for the first picture: a damaged adapter ends the run, and is no case's fault.
        self._models.renderer(Listener())
        sides = self._models.weights.base.sides
        self._side = config.side or (512 if sides[1] >= 512 else sides[0])

    def make(self, case: Case, out: Path) -> None:
        """As `System` says; the name is <id>_seed<seed>.png, as `generate` names it."""
        analyzer = self._models.analyzer
        layout = write_layout(case, out / "layouts", analyzer, self._config, self._side)
        render([layout], out / "pictures", self._generate, models=self._models)
