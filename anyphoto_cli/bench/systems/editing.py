"""What the baselines of diffusers share: opened by from_pretrained, one picture a case, written with its settings."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.placing import frame_of
from anyphoto_cli.bench.sources import picture_of
from anyphoto_cli.bench.systems import device_of
from anyphoto_cli.bench.systems.finite import only_finite
from anyphoto_cli.config.bench import RunConfig
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.geometry import fitting_size


class EditingSystem:
    """A pipeline that takes reference pictures and a prompt. Subclasses say how theirs is called."""

    source: ClassVar[str]
    """Hub id of the weights used when none are named."""
    pipelines: ClassVar[tuple[str, ...]]
    """Classes of diffusers, one of which its folder must be of."""
    side: ClassVar[int] = 1024
    """About side x side pixels when no other is asked for: what these models were trained on."""
    steps: int
    guidance: ClassVar[float]
    needs_torchvision: ClassVar[bool] = False

    def __init__(self, config: RunConfig, worker: int = 0) -> None:
        if config.strength is not None:
            raise InputError("is for AnyPhoto alone", field="--strength")
        if config.adapter is not None:
            raise InputError(f"{config.system} takes no AnyPhoto weights", field="--adapter")
        if config.memory in ("nf4", "fp8"):
            remedy = "Use full or offload"
            raise InputError(f"{config.memory} is for AnyPhoto alone", field="--memory", remedy=remedy)
        if self.needs_torchvision and find_spec("torchvision") is None:
            remedy = "Install the torchvision that belongs to your torch"
            raise EnvironmentFault(f"{config.system} needs torchvision", field="--system", remedy=remedy)
        self._config = config
        self._pipeline = _opened(config, self.weights(config.model or self.source), self.pipelines, worker)

    @classmethod
    def side_for(cls, config: RunConfig) -> int:
        """Its own when none is named."""
        return cls.side

    @classmethod
    def settings(cls, config: RunConfig) -> dict[str, Any]:
        """As `settings_of` says."""
        return {"side_used": config.side or cls.side_for(config)}

    def weights(self, named: str) -> str:
        """The hub id or folder that a name stands for."""
        return named

    def arguments(self, prompt: str, references: Sequence[Any], steps: int, guidance: float) -> dict[str, Any]:
        """The pipeline's own, but size and generator. references: PIL pictures, RGB."""
        raise NotImplementedError

    def size(self, width: int, height: int) -> dict[str, Any]:
        """The pipeline's arguments for a picture of that size."""
        return {"width": width, "height": height}

    def make(self, case: Case, out: Path) -> None:
        """As `System` says."""
        import torch
        from PIL import Image

        from anyphoto_cli.model.memory import ran_out

        file = out / "pictures" / f"{case.id}.png"
        if file.is_file():
            return
        config = self._config
        original = picture_of(case.gt) if case.gt is not None and case.size is None else None
        width, height = fitting_size(*frame_of(case, original), config.side or self.side_for(config))
        references = [Image.fromarray(picture_of(source)) for source in case.references]
        guidance = self.guidance if config.guidance_scale is None else config.guidance_scale
        told = self.arguments(case.prompt, references, config.steps or self.steps, guidance)
        try:
            generator = torch.Generator("cpu").manual_seed(config.seed)
            with only_finite(self._pipeline, case.id):
                image = self._pipeline(**told, **self.size(width, height), generator=generator).images[0]
        except RuntimeError as error:
            if not ran_out(error):
                raise
            raise EnvironmentFault("the device ran out of memory", remedy="Use --memory offload, or --side") from error
        record = {"system": config.system, "model": config.model or self.source, "seed": config.seed}
        _write(image, file, record | {"prompt": case.prompt, "guidance": guidance, "width": width, "height": height})


def side_by_side(references: Sequence[Any]) -> Any:
    """PIL pictures of one height in a row, for a model that takes one picture."""
    from PIL import Image

    height = max(picture.height for picture in references)
    scaled = [
        picture.resize((max(round(picture.width * height / picture.height), 1), height), Image.Resampling.BICUBIC)
        for picture in references
    ]
    row = Image.new("RGB", (sum(picture.width for picture in scaled), height))
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def _opened(config: RunConfig, source: str, pipelines: Sequence[str], worker: int) -> Any:
    import diffusers

    from anyphoto_cli.model import memory

    device = memory.pick_device(device_of(config, worker))
    dtype = memory.pick_dtype(config.dtype, device)
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(source, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        line = str(error).strip().splitlines()[0][:200]
        remedy = "Give a folder with --model, or download it first"
        raise EnvironmentFault(f"{source} cannot be opened ({line})", field="--model", remedy=remedy) from error
    if type(pipeline).__name__ not in pipelines:
        raise InputError(f"{source} is a {type(pipeline).__name__}, not a {pipelines[0]}", field="--model")
    memory.place(pipeline, device, "full" if config.memory == "full" else "offload")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _write(image: Any, file: Path, record: dict[str, Any]) -> None:
    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("anyphoto-bench", json.dumps(record))
    image.convert("RGB").save(buffer, "PNG", pnginfo=info)
    with committed(file) as out:
        out.write(buffer.getvalue())
