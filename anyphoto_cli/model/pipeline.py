"""`AnyPhotoPipeline`: diffusers' FLUX pipeline with people in it, for diffusers users and `anyphoto generate`.

pipe = AnyPhotoPipeline.from_pretrained("black-forest-labs/FLUX.1-dev", dtype=torch.bfloat16)
pipe.load_anyphoto("path/or/hub-id")
picture = pipe("two friends on a beach", faces=prepared_faces).images[0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from diffusers.pipelines.flux.pipeline_output import FluxPipelineOutput
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    T5EncoderModel,
    T5Tokenizer,
)

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.model.adapter import AdapterCard, find_adapter, load_adapter
from anyphoto_cli.model.denoising import Branch, StepCallback, Text, Walk, denoised
from anyphoto_cli.model.first_block_cache import FirstBlockCache
from anyphoto_cli.model.hoisted_modulation import (
    ModulationCache,
    StepModulation,
    blocks_of,
    can_hoist,
    left_alone,
    modulation_layers,
)
from anyphoto_cli.model.location_lora import ADAPTER
from anyphoto_cli.model.token_pruning import LocationTokens, grid_ids, prune
from anyphoto_cli.model.transformer import AnyPhotoTransformer
from anyphoto_cli.model.vae import DOWN, decode, encode, tiling, to_pixels
from anyphoto_cli.model.visiting import Visitors, tensors_of
from anyphoto_cli.types import PreparedFace


def _sends_models_home(call: Any) -> Any:
    """What offloading brought to the device leaves it, also where a call is cancelled or runs out of memory: the next
    one loads the text encoders, and finds no transformer beside them.
    """

    @wraps(call)
    def called(self: Any, *given: Any, **named: Any) -> Any:
        try:
            return call(self, *given, **named)
        finally:
            self.maybe_free_model_hooks()

    return called


def _of_one_pack(faces: Sequence[PreparedFace], card: AdapterCard | None) -> None:
    for face in faces if card is not None else ():
        if face.pack and card is not None and face.pack != card.face_pack.sha256:
            what = f"{face.name} was prepared with another face pack than the adapter's, {card.face_pack.name}"
            raise ValueError(f"{what}: prepare_faces(layout, open_faces({card.face_pack.name!r}))")


def _for_each(text: Text, batch: int) -> Text:
    """States and pooled vectors as often as there are pictures of each; ids as they are."""
    states, pooled, ids = text
    return _spread(states, batch), _spread(pooled, batch), ids


def _spread(rows: Tensor, batch: int) -> Tensor:
    if len(rows) == batch:
        return rows
    if batch % len(rows):
        raise ValueError(f"{batch} pictures are asked for, with text for {len(rows)}")
    return rows.repeat_interleave(batch // len(rows), dim=0)


class AnyPhotoPipeline(FluxPipeline):
    """Several people at chosen places in one generated picture.

    Opens any FLUX.1 folder (`from_pretrained`), or takes over a loaded pipeline (`from_pipe`), whose transformer it
    re-types in place. Without `faces` it renders what FluxPipeline renders. `method`: the choices of the adapter.
    `hoist_modulation`: compute the modulation rows of all steps at once, and share them among the pictures of a layout
    (the default); the numbers are the same either way. `tiled_above`: decode larger pictures (in pixels) in tiles,
    which needs the memory of one, but blends their edges; None: never.
    """

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL | AutoencoderTiny,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: T5EncoderModel,
        tokenizer_2: T5Tokenizer,
        transformer: FluxTransformer2DModel | AnyPhotoTransformer,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
    ) -> None:
        # Spelt out, because from_pretrained and from_pipe read names and types of the components off this signature.
        super().__init__(
            scheduler, vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2, transformer, image_encoder,
            feature_extractor,
        )  # fmt: skip
        AnyPhotoTransformer.from_flux(self.transformer)
        self._visitors: Visitors | None = None
        self._rows = ModulationCache()
        self.hoist_modulation = True
        self.tiled_above: int | None = None
        self.reused_steps = 0

    def enable_hoisting(self, device: torch.device | str) -> None:
        """Keep all weights in main memory but those at work: text encoders, or the transformer without its modulation
        layers (17.3 of FLUX.1's 23.8 GB in bfloat16), which are called once a layout. The numbers stay the same.

        For 24 GB cards; to be called once, in place of `to` and of diffusers' ways to offload.
        """
        text = (self.text_encoder, self.text_encoder_2)
        self._visitors = Visitors(
            torch.device(device), {"text": lambda: tensors_of(*text), "transformer": self._without_modulation}
        )
        self.vae.to(device)

    def _without_modulation(self) -> list[Tensor]:
        layers = [layer for block in blocks_of(self.transformer) for layer in modulation_layers(block)]
        left = {id(tensor) for tensor in tensors_of(*layers)}
        return [tensor for tensor in tensors_of(self.transformer) if id(tensor) not in left]

    @property
    def _execution_device(self) -> Any:
        return self._visitors.device if self._visitors else super()._execution_device

    def encode_prompt(
        self, prompt: Any, prompt_2: Any = None, device: Any = None, num_images_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None, *more: Any, **named: Any,
    ) -> Any:  # fmt: skip
        """As in FluxPipeline. The encoders come to the device only where there is something to read."""
        if self._visitors and prompt_embeds is None:
            self._visitors.call("text")
        return super().encode_prompt(prompt, prompt_2, device, num_images_per_prompt, prompt_embeds, *more, **named)

    @property
    def method(self) -> MethodConfig:
        """The method's open choices, as the adapter was trained with."""
        return cast(MethodConfig, self.transformer.method)

    @property
    def adapter(self) -> AdapterCard | None:
        """The card of the loaded adapter; it lives with the transformer, which pipelines may share."""
        return cast(AdapterCard | None, self.transformer.card)

    def load_anyphoto(
        self,
        source: str | Path,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> AdapterCard:
        """Load AnyPhoto weights from a folder or a hub id; returns their card.

        Raises InputError when they are damaged or made for another base, EnvironmentFault when the hub fails.
        """
        folder = find_adapter(source, subfolder, revision, token)
        self._leave_the_device()
        return load_adapter(self.transformer, folder)

    def unload_anyphoto(self) -> None:
        """Take the adapter out again; other LoRAs stay."""
        self.transformer.remove_anyphoto()

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """As in FluxPipeline: acts on all tokens, beside AnyPhoto weights where these are loaded."""
        self._leave_the_device()
        super().load_lora_weights(*args, **kwargs)

    def unload_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """As in FluxPipeline, but AnyPhoto weights stay: `unload_anyphoto` takes these out."""
        if self.transformer.id_projector is None:
            super().unload_lora_weights(*args, **kwargs)
        elif others := [name for name in self.transformer.peft_config if name != ADAPTER]:
            super().delete_adapters(others)

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """As in FluxPipeline. Raises ValueError for AnyPhoto weights, of which their LoRA is a part only."""
        if ADAPTER in ([adapter_names] if isinstance(adapter_names, str) else adapter_names):
            raise ValueError("AnyPhoto weights are more than a LoRA; unload_anyphoto() takes them out")
        super().delete_adapters(adapter_names)

    def _leave_the_device(self) -> None:
        """Where models only visit it: what is added to one that is there would be at home there."""
        if self._visitors:
            self._visitors.leave()

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused while AnyPhoto weights are loaded: fused, they would act on every token."""
        if self.transformer.id_projector is not None:
            raise ValueError(
                "AnyPhoto weights act on location tokens only and cannot be fused; unload_anyphoto() first"
            )
        super().fuse_lora(*args, **kwargs)

    @torch.no_grad()
    def encode_faces(self, faces: Sequence[PreparedFace]) -> LocationTokens:
        """Canvases through the VAE and pruned to location tokens; once per layout. Source: Eq. 13.

        faces: at least one, canvases of one size. Raises ValueError when a face has no token, or was prepared with
        another face pack than the adapter was trained with: embeddings of two packs do not mix.
        """
        _of_one_pack(faces, self.adapter)
        device = self._execution_device
        # Where the method samples: by itself, whatever else has drawn from torch's generator in this process.
        chance = torch.Generator().manual_seed(0)
        latents = encode(self.vae, to_pixels([face.canvas for face in faces], device), self.method.latent, chance)
        masks = torch.from_numpy(np.stack([face.tokens for face in faces]))
        embeddings = torch.from_numpy(np.stack([face.embedding for face in faces])).float()
        tokens = prune(latents, masks, embeddings, self.method.rope_index)
        tokens = replace(tokens, strengths=tuple(face.strength for face in faces))
        return tokens if self.method.identity else tokens.dropped()

    @property
    def text_length(self) -> int:
        """T5 tokens of a prompt: what the adapter was trained with, at most what the tokenizer says it takes."""
        tokenizer = self.tokenizer_2
        return min(
            self.method.t5_length, tokenizer.model_max_length if tokenizer is not None else self.method.t5_length
        )

    @_sends_models_home
    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        prompt_2: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        true_cfg_scale: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 28,
        sigmas: list[float] | None = None,
        guidance_scale: float = 3.5,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        faces: Sequence[PreparedFace] | LocationTokens | Sequence[LocationTokens] | None = (),
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
        cache_threshold: float | None = None,
    ) -> FluxPipelineOutput | tuple[Any]:
        """Render. Everything but `faces` means what it means in FluxPipeline, of whose arguments `negative_prompt_2`,
        `joint_attention_kwargs` and those of IP-Adapters are not taken.

        faces: prepared for this width and height, or encoded already: the same people in every picture of the call, or
        `LocationTokens` for each. max_sequence_length: T5 tokens; `text_length` when None. cache_threshold: skip blocks
        where little changed (`FirstBlockCache`, inexact), .05 to .15; None: never. output_type: of "pt" infinite
        numbers are nan, which no clamping hides. With true_cfg_scale > 1 and a negative prompt, the negative branch
        sees the faces' places without their identity, as in training (15 % drop).
        Of a batch each picture has its own generator's noise, and is what it would be alone up to rounding.
        """
        height, width = height or self.default_sample_size * DOWN, width or self.default_sample_size * DOWN
        length = max_sequence_length or self.text_length
        self.check_inputs(
            prompt,
            prompt_2,
            height,
            width,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
            callback_on_step_end_tensor_inputs=list(callback_on_step_end_tensor_inputs),
            max_sequence_length=length,
        )
        self._guidance_scale, self._joint_attention_kwargs = guidance_scale, None
        self._current_timestep, self._interrupt = None, False
        device = self._execution_device
        guided = true_cfg_scale > 1 and (negative_prompt is not None or negative_prompt_embeds is not None)

        batch = len(prompt) if isinstance(prompt, list) else 1 if prompt else len(cast(Tensor, prompt_embeds))
        batch *= num_images_per_prompt

        def read(*given: Any) -> Text:
            told = self.encode_prompt(*given[:2], device, num_images_per_prompt, *given[2:], max_sequence_length=length)
            return _for_each(told, batch)

        text = read(prompt, prompt_2, prompt_embeds, pooled_prompt_embeds)
        negative = (
            read(negative_prompt, None, negative_prompt_embeds, negative_pooled_prompt_embeds) if guided else None
        )
        located = self._locate(() if faces is None else faces, len(text[0]), height, width, device, text[0].dtype)
        noise, img_ids = self.prepare_latents(
            len(text[0]), self.transformer.config.in_channels // 4, height, width, text[0].dtype, device, generator,
            latents,
        )  # fmt: skip
        timesteps = self._timesteps(num_inference_steps, sigmas, noise.shape[1], device)
        told = guidance_scale if self.transformer.config.guidance_embeds else None
        walk = Walk.of(noise, img_ids, timesteps, told)
        if self._visitors:
            self._visitors.call("transformer")
        branches = self._branches(text, negative, located, walk, cache_threshold)
        noise = denoised(
            self, noise, walk, branches, true_cfg_scale, callback_on_step_end, callback_on_step_end_tensor_inputs
        )
        self.reused_steps = sum(branch.cache.reused for branch in branches if branch.cache is not None)

        images = noise if output_type == "latent" else self._decode(noise, height, width, output_type)
        return FluxPipelineOutput(images=images) if return_dict else (images,)

    def _branches(
        self, text: Text, negative: Text | None, located: list[LocationTokens], walk: Walk,
        cache_threshold: float | None,
    ) -> list[Branch]:  # fmt: skip
        """One, or two with guidance by a negative prompt, whose branch sees the places without the identities."""
        branches = [Branch("cond", text, located)]
        if negative is not None:
            branches.append(Branch("uncond", negative, [face.dropped() for face in located]))
        else:
            self._rows.forget("uncond")
        for branch in branches:
            branch.rows = self._modulation(branch, walk.times, walk.guidance)
            branch.cache = FirstBlockCache(cache_threshold) if cache_threshold else None
        return branches

    def _modulation(
        self, branch: Branch, times: list[Tensor], guidance: Tensor | None
    ) -> list[StepModulation] | None:  # fmt: skip
        """The modulation rows of all steps at once; None where an offloading hook has to see each block called."""
        if not self.hoist_modulation or not can_hoist(self.transformer):
            return None
        hook = getattr(self.transformer, "_hf_hook", None)
        if hook is not None:  # model offload brings a model when it is called; here parts of it are, before
            hook.pre_forward(self.transformer)
        bring = self._visitors.briefly if self._visitors else left_alone
        return self._rows.of(branch.name, self.transformer, times, guidance, branch.text[1], branch.faces, bring)

    def _locate(
        self,
        faces: Sequence[PreparedFace] | LocationTokens | Sequence[LocationTokens],
        batch: int,
        height: int,
        width: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> list[LocationTokens]:
        """One entry a picture, or none at all."""
        if isinstance(faces, LocationTokens):
            return [faces.to(device, dtype)] * batch
        encoded = [face for face in faces if isinstance(face, LocationTokens)]
        if encoded:
            if not len(encoded) == len(faces) == batch:
                raise ValueError(f"{batch} pictures, but location tokens for {len(encoded)} of {len(faces)}")
            return [face.to(device, dtype) for face in encoded]
        prepared = cast(Sequence[PreparedFace], faces)
        for face in prepared:
            if face.canvas.shape[:2] != (height, width):
                raise ValueError(f"the canvas of {face.name} is not {width}x{height}")
        return [self.encode_faces(prepared).to(device, dtype)] * batch if prepared else []

    def _timesteps(self, steps: int, sigmas: list[float] | None, tokens: int, device: torch.device) -> Tensor:
        """FLUX's schedule; its shift follows the noise tokens alone, not the location tokens beside them."""
        config = self.scheduler.config
        mu = calculate_shift(
            tokens,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        wanted = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        timesteps, _ = retrieve_timesteps(
            self.scheduler, steps, device, sigmas=wanted if sigmas is None else sigmas, mu=mu
        )
        self._num_timesteps = len(timesteps)
        self.scheduler.set_begin_index(0)
        return cast(Tensor, timesteps)

    def prepare_latents(
        self, batch_size: int, num_channels_latents: int, height: int, width: int, dtype: Any, device: Any,
        generator: Any, latents: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """As in FluxPipeline, with ids that stay float32: bfloat16 is exact only up to 256 tokens a side."""
        noise, _ = super().prepare_latents(
            batch_size, num_channels_latents, height, width, dtype, device, generator, latents
        )
        side = DOWN * 2
        return noise, grid_ids(height // side, width // side).to(device)

    def _decode(self, noise: Tensor, height: int, width: int, output_type: str) -> Any:
        latents = self._unpack_latents(noise, height, width, self.vae_scale_factor)
        with tiling(self.vae, self.tiled_above is not None and height * width > self.tiled_above):
            pixels = decode(self.vae, latents)
        if output_type == "pt":  # for who looks whether numbers are finite: clamped, infinity would be white
            pixels.masked_fill_(~pixels.isfinite(), torch.nan)
        return self.image_processor.postprocess(pixels, output_type=output_type)
