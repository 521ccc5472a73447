"""AnyPhoto itself, through `anyphoto generate`: a layout for each case, rendered with one opened model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.placing import write_layout
from anyphoto_cli.bench.systems import device_of, side_on
from anyphoto_cli.config.bench import RunConfig
from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.generate import find_models, render
from anyphoto_cli.generate.weights import find_weights
from anyphoto_cli.model.bases import local_revision
from anyphoto_cli.runtime.progress import Listener


class AnyPhoto:
    """config.model, config.adapter as `generate` takes them. What is finished already is kept: `render` knows it."""

    def __init__(self, config: RunConfig, worker: int = 0) -> None:
        self._config, self._generate = config, _as_generate(config, worker)
        self._models = find_models(self._generate)
        if told := self._models.weights.left_out:  # scores of an adapter that was not there would mislead
            remedy = "Leave --model-face-pack out, or --adapter none"
            raise InputError(told, field="--model-face-pack", remedy=remedy)
        # Opened here and not for the first picture: a damaged adapter ends the run, and is no case's fault.
        self._models.renderer(Listener())
        self._side = config.side or side_on(self._models.weights.base)

    @staticmethod
    def settings(config: RunConfig) -> dict[str, Any]:
        """As `settings_of` says. Raises as `find_weights`."""
        weights = find_weights(_as_generate(config, 0))
        adapter = weights.adapter.sha256 if weights.adapter else None
        made_by = {"adapter": adapter, "base": local_revision(weights.base)}
        return {"side_used": config.side or side_on(weights.base), "weights": made_by}

    def make(self, case: Case, out: Path) -> None:
        """As `System` says; the name is <id>_seed<seed>.png, as `generate` names it."""
        analyzer = self._models.analyzer
        layout = write_layout(case, out / "layouts", analyzer, self._config, self._side)
        render([layout], out / "pictures", self._generate, models=self._models)


def _as_generate(config: RunConfig, worker: int) -> GenerateConfig:
    asked = {
        "adapter": config.adapter, "steps": config.steps, "model": config.model, "face_pack": config.model_face_pack,
    }  # fmt: skip
    return GenerateConfig.model_validate(
        {key: value for key, value in asked.items() if value is not None}
        | {"device": device_of(config, worker), "memory": config.memory, "dtype": config.dtype}
    )
