"""FLUX's transformer with location tokens: diffusers' class, its weights, its parameter names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.utils import apply_lora_scale
from torch import Tensor
from torch._dynamo import config as dynamo_config
from torch._dynamo.exc import TorchDynamoException
from torch.fx.experimental import _config as fx_config

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.model.blocks import AnyPhotoSingleTransformerBlock, AnyPhotoTransformerBlock
from anyphoto_cli.model.compiled_attention import mask_of
from anyphoto_cli.model.first_block_cache import FirstBlockCache
from anyphoto_cli.model.fused import usable
from anyphoto_cli.model.hoisted_modulation import StepModulation
from anyphoto_cli.model.identity_modulation import IdentityProjector, Rows, identity_rows, told_to_identities
from anyphoto_cli.model.isolated_attention import OPEN, choose_kernel
from anyphoto_cli.model.location_lora import ADAPTER, add_location_lora, split_lora
from anyphoto_cli.model.token_pruning import LocationTokens, Spans


class AnyPhotoTransformer(FluxTransformer2DModel):
    """A FLUX transformer that also takes location tokens.

    Without faces it is stock FLUX, number for number. `from_pretrained` opens any FLUX.1 transformer folder;
    `from_flux` re-types one that is loaded already, quantised or not. `method`: the choices its weights were trained
    with. `id_projector`: Δ of Eq. 16, None until an adapter is added. `card`: of a loaded adapter. `attention`: auto,
    split, merged or masked. `fused`: whether what lies between matrix products is one kernel each, where there are
    location tokens; None: on a card that can. `kept_blocks`: so many, counted from the last, are not computed again
    under gradient checkpointing: each costs its memory and saves its forward pass.
    """

    _no_split_modules = ["AnyPhotoTransformerBlock", "AnyPhotoSingleTransformerBlock"]
    _repeated_blocks = ["AnyPhotoTransformerBlock", "AnyPhotoSingleTransformerBlock"]

    # The adapter is small and exact: 8-bit storage is for the base alone.
    _skip_layerwise_casting_patterns = [
        *FluxTransformer2DModel._skip_layerwise_casting_patterns,
        "id_projector",
        "lora_",
    ]

    method: MethodConfig
    attention: str
    fused: bool | None
    card: Any
    compiled_blocks: bool
    kept_blocks: int
    id_projector: IdentityProjector | None

    @register_to_config
    def __init__(
        self,
        patch_size: int = 1,
        in_channels: int = 64,
        out_channels: int | None = None,
        num_layers: int = 19,
        num_single_layers: int = 38,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
    ) -> None:
        # Spelt out, because diffusers reads a model's config keys off this signature.
        super().__init__(
            patch_size, in_channels, out_channels, num_layers, num_single_layers, attention_head_dim,
            num_attention_heads, joint_attention_dim, pooled_projection_dim, guidance_embeds, axes_dims_rope,
        )  # fmt: skip
        self._become_anyphoto()

    @classmethod
    def from_flux(cls, transformer: FluxTransformer2DModel) -> AnyPhotoTransformer:
        """Re-type a loaded transformer in place; its weights are not touched. Idempotent.

        Raises ValueError when offloading hooks hang on it already: they hold on to the old forward.
        """
        if not isinstance(transformer, cls):
            blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
            if any("forward" in vars(module) for module in (transformer, *blocks)):
                raise ValueError(
                    "this transformer is being offloaded: make it an AnyPhoto model first, then offload it"
                )
            transformer.__class__ = cls
            transformer._become_anyphoto()
        return cast(AnyPhotoTransformer, transformer)

    def _become_anyphoto(self) -> None:
        for block in self.transformer_blocks:
            block.__class__ = AnyPhotoTransformerBlock
        for block in self.single_transformer_blocks:
            block.__class__ = AnyPhotoSingleTransformerBlock
        self.method, self.attention, self.id_projector, self.card = MethodConfig(), "auto", None, None
        self.compiled_blocks, self.kept_blocks, self.fused = False, 0, None

    def add_anyphoto(self, method: MethodConfig, embedding: int = 512) -> None:
        """Add a fresh, untrained adapter: LoRA with B = 0 and a projector with Δ = 0, both in float32.

        embedding: width of the recogniser's vectors. Raises ValueError when there already is one.
        """
        if self.id_projector is not None:
            raise ValueError("this transformer already has an AnyPhoto adapter")
        add_location_lora(self, method)
        self.id_projector = IdentityProjector(embedding, method.projector_hidden or self.inner_dim, self.inner_dim)
        self.id_projector.to(self.device)
        self.method = method

    def remove_anyphoto(self) -> None:
        """Take the adapter out again; other LoRAs stay. Without any the layers are FLUX's own, as before it came."""
        self.delete_adapters(ADAPTER)
        if not getattr(self, "peft_config", None):
            self.unload_lora()
        self.method, self.id_projector, self.card = MethodConfig(), None, None

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers; refused while AnyPhoto weights are in it, whose layers no FLUX transformer has."""
        if self.id_projector is not None:
            raise ValueError("AnyPhoto weights are not part of a base: unload_anyphoto() before it is saved")
        super().save_pretrained(*args, **kwargs)

    def compile_blocks(self, **options: Any) -> None:
        """torch.compile of the two kinds of blocks, once each for all layouts: face sizes and numbers of people do not
        make new graphs. options: torch.compile's. Call it after the adapter is there.
        """
        self.compiled_blocks = True
        self.compile_repeated_blocks(dynamic=True, **options)

    def fuse_qkv_projections(self) -> None:
        """Refused: fused projections would bypass the adapter."""
        raise NotImplementedError("AnyPhoto needs the separate query, key and value projections")

    @apply_lora_scale("joint_attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
        faces: Sequence[LocationTokens] = (),
        joint_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        hoisted: StepModulation | None = None,
        cache: FirstBlockCache | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity of the noise tokens.

        hidden_states: [B, |X|, 64]. encoder_hidden_states: [B, |T|, 4096]. pooled_projections: [B, 768].
        timestep: [B] in 0-1, its own number format is kept. img_ids: [|X|, 3], txt_ids: [|T|, 3]. guidance: [B].
        faces: one `LocationTokens` a sample, or none. joint_attention_kwargs: only "scale", for LoRA. hoisted: what
        `hoist_modulation` made for this very step; the modulation layers are then not touched. cache: of this render
        and branch; the result is then only nearly right.
        Returns `sample` [B, |X|, 64].
        """
        if joint_attention_kwargs:
            raise ValueError(f"not supported beside location tokens: {', '.join(joint_attention_kwargs)}")
        batch, noise = hidden_states.shape[:2]
        longest = encoder_hidden_states.shape[1] + noise + max((len(face.tokens) for face in faces), default=0)
        kernel = OPEN
        if self.method.isolation:
            asked = hidden_states.device, longest, hidden_states.dtype, self.config.attention_head_dim
            kernel = choose_kernel(self.attention, *asked)
        spans = Spans.of(batch, encoder_hidden_states.shape[1], noise, faces, kernel)
        if self.compiled_blocks:
            device, dtype = hidden_states.device, hidden_states.dtype
            spans = spans.indexed(device, mask_of(spans, device, dtype) if torch.is_grad_enabled() else None)
        elif faces:
            spans = replace(spans, fused=self._fuses(hidden_states))
        by_block: Iterator[Any]
        if hoisted is None:
            rows = self.modulation_inputs(timestep, guidance, pooled_projections, faces, hidden_states.dtype)
            y, by_block = rows.y, itertools.repeat(rows)
        else:
            y, by_block = hoisted.y, iter(hoisted.blocks)
        rope = self.pos_embed(self._ids(txt_ids, img_ids, faces, batch))
        image = torch.cat([hidden_states.flatten(0, 1), *(face.tokens.to(hidden_states.dtype) for face in faces)])
        image = split_lora(self.x_embedder, image, spans.located)
        text = self.context_embedder(encoder_hidden_states.flatten(0, 1))

        with self._compiler_settings():
            read = self._through_blocks(text, image, by_block, rope, spans, cache)
        sample = self.proj_out(self.norm_out(read.unflatten(0, (batch, noise)), y))
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _through_blocks(
        self, text: Tensor, image: Tensor, by_block: Iterator[Any], rope: Any, spans: Spans,
        cache: FirstBlockCache | None,
    ) -> Tensor:  # fmt: skip
        """Text [B|T|, dim] and image stream through all blocks -> the noise tokens [B|X|, dim]."""
        own, before, after_first, rest = slice(0, spans.batch * spans.noise), image, None, None
        for number, block in enumerate(self.transformer_blocks):
            text, image = self._run(number, block, image, text, next(by_block), rope, spans)
            if cache is not None and after_first is None:
                after_first = image[own]
                rest = cache.rest_for(after_first - before[own])
                if rest is not None:
                    return after_first + rest
        read = self._single_blocks(torch.cat([text, image]), by_block, rope, spans)
        if cache is not None and after_first is not None:
            cache.keep(read - after_first)
        return read

    def _single_blocks(self, joint: Tensor, by_block: Iterator[Any], rope: Any, spans: Spans) -> Tensor:
        """The joint stream through the single blocks -> the noise tokens [B|X|, dim]."""
        last, located, before = (
            len(self.single_transformer_blocks) - 1,
            bool(spans.located),
            len(self.transformer_blocks),
        )
        for i, block in enumerate(self.single_transformer_blocks):
            # Without faces nothing is left out, so that every number is stock FLUX's own.
            joint = self._run(before + i, block, joint, next(by_block), rope, spans, i == last and located)
        if located and last >= 0:
            return joint
        return joint[spans.batch * spans.text : spans.batch * (spans.text + spans.noise)]

    def _run(self, number: int, block: Any, *args: Any) -> Any:
        again = number < len(self.transformer_blocks) + len(self.single_transformer_blocks) - self.kept_blocks
        if torch.is_grad_enabled() and self.gradient_checkpointing and again:
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    def _fuses(self, x: Tensor) -> bool:
        """Whether this pass takes fused kernels."""
        if self.fused is not None:
            return self.fused
        heads = self.config.num_attention_heads, self.config.attention_head_dim
        return usable(x.device, x.dtype, *heads, torch.is_grad_enabled())

    @contextmanager
    def _compiler_settings(self) -> Iterator[None]:
        """Where two lengths happen to be the same, say of text and location tokens, the compiler would take them for
        one, and make another graph for the next layout. Of one code it keeps eight graphs, and leaves what comes after
        them uncompiled: rendering and training, masked and merged, one sample and several are more.

        Raises EnvironmentFault where torch cannot compile: without a C++ compiler, say.
        """
        if not self.compiled_blocks:
            yield
            return
        apart, room = fx_config.patch(use_duck_shape=False), dynamo_config.patch(recompile_limit=32)  # type: ignore[attr-defined]
        with apart, room:
            try:
                yield
            except TorchDynamoException as error:
                cause = getattr(error, "inner_exception", error)
                line = f"{type(cause).__name__}: {cause}".splitlines()[0][:200]
                remedy = "Mend that, or render without --compile (train: compile: false)"
                raise EnvironmentFault(f"torch cannot compile here ({line})", remedy=remedy) from error

    def modulation_inputs(
        self,
        timestep: Tensor,
        guidance: Tensor | None,
        pooled: Tensor,
        faces: Sequence[LocationTokens],
        dtype: torch.dtype,
    ) -> Rows:
        """The rows of Eq. 17; arguments as in `forward`, dtype: of hidden_states."""

        def embed(t: Tensor, told: Tensor | None) -> Tensor:
            times = [t * 1000] if told is None else [t * 1000, told.to(dtype) * 1000]
            return cast(Tensor, self.time_text_embed(*times, pooled))

        y = embed(timestep, guidance)
        if not faces:
            return Rows(y, y[:0])
        y_identity = embed(*told_to_identities(self.method, timestep, guidance))
        embeddings = torch.cat([face.embeddings for face in faces])
        silent = self.id_projector is None or not self.method.modulation
        delta = None if silent else cast(IdentityProjector, self.id_projector)(embeddings)
        rows = identity_rows(y, y_identity, delta, [len(face.lengths) for face in faces])
        if self.compiled_blocks and len(rows.own) == 1:
            # A second row that no token has: to the compiler a length of one is a block of its own.
            return Rows(rows.y, torch.cat([rows.own, rows.own]))
        return rows

    @staticmethod
    def _ids(txt_ids: Tensor, img_ids: Tensor, faces: Sequence[LocationTokens], batch: int) -> Tensor:
        """[S, 3] float32 ids of the joint stream."""
        return torch.cat([txt_ids.float().repeat(batch, 1), img_ids.float().repeat(batch, 1), *(f.ids for f in faces)])
