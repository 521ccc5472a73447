"""The weights of a run: base, adapter, precision; found and named first, opened only when a picture is to be made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import PictureFault
from anyphoto_cli.generate.not_finite import finer, not_finite
from anyphoto_cli.layout.schema import Layout
from anyphoto_cli.model import bases, memory
from anyphoto_cli.model.adapter_card import AdapterCard, adapter_folder, check_files, left_out, read_card
from anyphoto_cli.model.style_lora import StyleLora, find_style_lora, load_style_loras
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.seams import Base

if TYPE_CHECKING:
    from PIL import Image

    from anyphoto_cli.generate.conditions import Conditions

NO_IDENTITY = (
    "No adapter: the picture carries no trained identity. There is no public AnyPhoto checkpoint; "
    "train one, then give --adapter DIR."
)


@dataclass
class Weights:
    """Which base, adapter, device and precision. `locate` finds or downloads the base and names its revision."""

    config: GenerateConfig
    base: Base
    adapter: AdapterCard | None
    adapter_folder: Path | None
    device: torch.device
    dtype: torch.dtype
    folder: Path = field(default_factory=Path)
    revision: str = ""
    mode: str = ""
    memory_reason: str = ""
    loras: tuple[StyleLora, ...] = ()
    left_out: str = ""
    """Why the base's own adapter is not used, a sentence."""

    @property
    def method(self) -> MethodConfig:
        """The adapter's choices, or the defaults."""
        return self.adapter.method if self.adapter else MethodConfig()

    @property
    def face_pack(self) -> str:
        """The pack used when none is named."""
        return self.adapter.face_pack.name if self.adapter else self.base.face_pack

    @property
    def face_device(self) -> str:
        """Where face models run."""
        return str(self.device) if self.device.type == "cuda" else "cpu"

    def precision(self, pixels: int) -> str:
        """The number format that makes a picture of so many pixels, and whether it is decoded in tiles."""
        dtype = str(self.dtype).removeprefix("torch.")
        tiled = ", tiled" if self.device.type != "cpu" and memory.decodes_in_tiles(self.mode, pixels) else ""
        more = [tiled, ", compiled" if self.config.compile else ""]
        more += [f", cache {self.config.cache:g}" if self.config.cache else ""]
        return (dtype if self.mode in memory.EXACT else f"{self.mode}/{dtype}") + "".join(more)

    @property
    def precision_was_asked(self) -> bool:
        """False when it may follow from the memory that is free."""
        return (
            self.config.memory != "auto"
            or self.config.dtype != "auto"
            or self.config.compile
            or bool(self.config.cache)
        )

    @property
    def model_record(self) -> dict[str, str]:
        """Name and content of the base."""
        return {"name": self.base.name, "revision": self.revision}

    @property
    def adapter_record(self) -> dict[str, Any] | None:
        """Content of the adapter."""
        return {"sha256": self.adapter.sha256, "train_step": self.adapter.train_step} if self.adapter else None

    @property
    def lora_records(self) -> list[dict[str, Any]]:
        """Content and scale of the LoRAs beside the adapter."""
        return [lora.record for lora in self.loras]

    def asked(self) -> dict[str, Any]:
        """What `generate --from` needs to ask for again; what was automatic is written as it came out."""
        kept = self.config.model_dump(
            exclude={"seed", "steps", "num_images", "strength", "memory", "dtype"}, exclude_none=True
        )
        return kept | {"memory": self.mode, "dtype": str(self.dtype).removeprefix("torch.")}

    def notices(self) -> list[str]:
        """What users must read: terms, and what is told of the weights."""
        lines = [f"Model {self.base.name}: {self.base.licence}"]
        lines += [self.base.note] if self.base.note else []
        if self.loras:
            lines.append("LoRAs beside AnyPhoto weights are experimental; their terms are their own.")
        return lines

    def cautions(self) -> list[str]:
        """Where the picture is going to carry no trained identity: why."""
        if self.left_out:
            return [self.left_out]
        if self.adapter is None:
            return [NO_IDENTITY]
        if self.adapter.train_step == 0:
            return ["The adapter is untrained (train_step 0): the picture carries no trained identity."]
        return []

    def other_base(self) -> str:
        """One sentence where the adapter was trained on other weights than these, once they are located; else "".

        A hub's commit and the hash of a folder tell nothing of each other.
        """
        was = self.adapter.base_revision if self.adapter else ""
        if not was or len(was) != len(self.revision) or was == self.revision:
            return ""
        known = self.adapter.base_model if self.adapter else ""
        return (
            f"the adapter was trained on {known} of revision {was[:12]}, this is {self.base.source} of revision "
            f"{self.revision[:12]}: people may come out less alike"
        )

    def with_faces(self, pack: str, sha256: str) -> Weights:
        """These, or without the base's own adapter where that was trained on another recogniser's embeddings.

        Raises InputError where such an adapter was named.
        """
        told = left_out(self.adapter, self.config.adapter, self.base, pack, sha256)
        return replace(self, adapter=None, adapter_folder=None, left_out=told) if told else self

    def finer(self) -> str:
        """What to do where numbers overflow, a sentence."""
        if self.mode not in memory.EXACT:
            return "Try --memory full or hoisted"
        return finer(self.dtype, "Weights of the model, its adapter or a LoRA")

    @property
    def located(self) -> bool:
        """Whether the base's revision is known."""
        return bool(self.revision)

    def locate(self, fetch: bool = True) -> bool:
        """Find the base's folder, or download it; hash it; settle the memory mode. fetch: False: only where it lies on
        this machine. Returns whether it was found.
        """
        if self.located:
            return True
        folder = bases.base_folder(self.base) if fetch else bases.folder_here(self.base)
        if folder is None:
            return False
        self.folder = folder
        self.revision = bases.revision_of(self.folder)
        plan = memory.plan_memory(
            self.config.memory, self.device, bases.relative_size(self.folder, self.dtype.itemsize)
        )
        self.mode, self.memory_reason = plan.mode, plan.reason
        return True

    def check_adapter(self) -> None:
        """Raises InputError where files of the adapter are missing or not those of its card."""
        if self.adapter is not None and self.adapter_folder is not None:
            check_files(self.adapter_folder, self.adapter)


def find_weights(config: GenerateConfig) -> Weights:
    """Resolve names, device and number format; nothing is downloaded or loaded but an adapter's card.

    Raises InputError for unknown names and devices this machine does not have.
    """
    base = bases.resolve_base(config.model)
    if Path(base.source).is_dir():
        base = bases.known_terms(base, Path(base.source))
    folder = adapter_folder(config.adapter, base)
    device = memory.pick_device(config.device)
    if config.memory != "auto":
        memory.plan_memory(config.memory, device, 0.0)  # raises where this device has no such way
    return Weights(
        config,
        base,
        read_card(folder) if folder else None,
        folder,
        device,
        memory.pick_dtype(config.dtype, device),
        loras=tuple(find_style_lora(named) for named in config.lora),
    )


def open_weights(weights: Weights) -> Renderer:
    """Load the pipeline and its adapter. Raises InputError, EnvironmentFault as `memory.open_pipeline` does."""

    def add_adapters(pipeline: Any) -> None:
        if weights.adapter_folder is not None:
            pipeline.load_anyphoto(weights.adapter_folder)
        load_style_loras(pipeline, weights.loras)

    cls = bases.pipeline_class(weights.folder)
    pipeline = memory.open_pipeline(
        weights.folder, cls, weights.device, weights.dtype, weights.mode, add_adapters=add_adapters
    )
    pipeline.transformer.attention = weights.config.attention
    if weights.config.compile:
        pipeline.transformer.compile_blocks()
    pipeline.set_progress_bar_config(disable=True)
    return Renderer(pipeline, weights)


@dataclass(frozen=True, eq=False)
class Wanted:
    """One picture to be rendered. conditions: their canvases, which take a while, are made where they are encoded.
    name: what it is called where it fails.
    """

    layout: Layout
    conditions: Conditions
    seed: int
    name: str = ""

    def goes_with(self, other: Wanted) -> bool:
        """Whether both can be rendered in one call."""
        return self._kind() == other._kind()

    def _kind(self) -> tuple[object, ...]:
        layout = self.layout
        sizes = layout.width, layout.height, layout.steps, layout.guidance_scale, layout.true_cfg_scale
        return *sizes, _has_negative(layout), bool(layout.faces)


def _has_negative(layout: Layout) -> bool:
    """An empty one is one, as in diffusers."""
    return layout.negative_prompt is not None and layout.true_cfg_scale > 1


class Renderer:
    """A loaded pipeline that renders a few pictures at a time; text and canvases are encoded once a layout."""

    def __init__(self, pipeline: Any, weights: Weights) -> None:
        self._pipeline, self._weights = pipeline, weights
        self._encoded: dict[int, tuple[Layout, dict[str, Any]]] = {}
        self._fitted: Any = None

    def calls(self, layout: Layout) -> int:
        """Denoising steps of one picture."""
        return layout.steps or self._weights.base.steps

    def pictures(self, wanted: Sequence[Wanted], listener: Listener) -> list[Image.Image | PictureFault]:
        """Pictures that go with each other, in one call. Noise is drawn on the CPU: the same on every device.

        In place of one whose numbers are not finite stands the fault.
        """
        layout = wanted[0].layout
        coming = self._preview() if listener.wants_preview else None

        def after_step(pipeline: Any, step: int, time: Any, state: dict[str, Any]) -> dict[str, Any]:
            for _ in wanted:
                listener.step()
            if coming is not None:
                latents = pipeline._unpack_latents(
                    state["latents"][:1], layout.height, layout.width, pipeline.vae_scale_factor
                )
                if (seen := coming.picture(latents[0], float(pipeline.scheduler.sigmas[step + 1]))) is not None:
                    listener.preview(seen)
            return state

        with _one_line_out_of_memory(self._weights):
            result = self._pipeline(
                **self._conditions(wanted),
                height=layout.height,
                width=layout.width,
                num_inference_steps=self.calls(layout),
                guidance_scale=layout.guidance_scale,
                true_cfg_scale=layout.true_cfg_scale,
                generator=[torch.Generator("cpu").manual_seed(one.seed) for one in wanted],
                callback_on_step_end=after_step,
                cache_threshold=self._weights.config.cache,
                output_type="pt",
            )
        return [self._checked(values, one) for values, one in zip(result.images, wanted, strict=True)]

    def _checked(self, pixels: torch.Tensor, one: Wanted) -> Image.Image | PictureFault:
        """[3, H, W] in 0..1 as a picture."""
        if not torch.isfinite(pixels).all():
            return not_finite(one.name, self._weights.finer())
        processor = self._pipeline.image_processor
        [image] = processor.numpy_to_pil(processor.pt_to_numpy(pixels[None]))
        return cast("Image.Image", image)

    def prepare(self, one: Wanted) -> dict[str, Any]:
        """Text and faces of its layout, encoded. Raises InputError for a reference that was changed meanwhile."""
        key = id(one.layout)
        if key not in self._encoded:
            self._encoded[key] = (one.layout, self._encode(one))  # holds the layout, so that no other takes its id
        return self._encoded[key][1]

    def _conditions(self, wanted: Sequence[Wanted]) -> dict[str, Any]:
        """Embeddings [b, ..] and location tokens of a batch. What the last batch needed is kept, as seeds share it."""
        parts = [self.prepare(one) for one in wanted]
        needed = {id(one.layout) for one in wanted}
        self._encoded = {key: value for key, value in self._encoded.items() if key in needed}
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "faces"}
        return joined | {"faces": [part["faces"] for part in parts] if wanted[0].layout.faces else ()}

    def _encode(self, one: Wanted) -> dict[str, Any]:
        """Text and canvases of a layout."""
        layout, faces = one.layout, one.conditions.faces
        pipeline, length = self._pipeline, self._pipeline.text_length
        with torch.no_grad(), _one_line_out_of_memory(self._weights), _sent_home_after_errors(pipeline):
            device = pipeline._execution_device
            embeds, pooled, _ = pipeline.encode_prompt(layout.prompt, None, device, max_sequence_length=length)
            encoded = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
            if _has_negative(layout):
                embeds, pooled, _ = pipeline.encode_prompt(
                    layout.negative_prompt, None, device, max_sequence_length=length
                )
                encoded |= {"negative_prompt_embeds": embeds, "negative_pooled_prompt_embeds": pooled}
            if faces:
                encoded["faces"] = pipeline.encode_faces(faces)
        return encoded

    def _preview(self) -> Any:
        """A fresh one a picture; its map is fitted once."""
        from copy import copy

        from anyphoto_cli.model.latent_preview import LatentPreview

        if self._fitted is None:
            with torch.no_grad():
                device = self._pipeline._execution_device
                self._fitted = LatentPreview(self._pipeline.vae, device, self._pipeline.method.latent)
        return copy(self._fitted)


@contextmanager
def _sent_home_after_errors(pipeline: Any) -> Iterator[None]:
    """Else the text encoders would lie beside whatever the next render brings to the device."""
    try:
        yield
    except BaseException:
        pipeline.maybe_free_model_hooks()
        raise


@contextmanager
def _one_line_out_of_memory(weights: Weights) -> Iterator[None]:
    """torch's page-long complaint becomes an EnvironmentFault that names the next smaller mode."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        raise memory.out_of_memory(weights.mode, weights.device) from error
