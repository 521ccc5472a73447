"""The two FLUX blocks, re-typed: same parameters under the same names, location tokens carried along.

Both work on flat streams (`Spans`): linears and norms do not care about samples, attention does. With no location
tokens each computes exactly what its diffusers parent computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor

from anyphoto_cli.model import fused
from anyphoto_cli.model.compiled_attention import isolated_attention, noise_attention
from anyphoto_cli.model.identity_modulation import Rows, gated, modulate, modulation_rows, per_token
from anyphoto_cli.model.location_lora import Weights, cast_together, kept_tail, split_lora
from anyphoto_cli.model.token_pruning import IMAGE, JOINT, NOISE, TEXT, Spans

Rope = tuple[Tensor, Tensor]
Modulation = tuple[Rows, ...]
"""What a block's modulation layers give for one step."""


class AnyPhotoTransformerBlock(FluxTransformerBlock):
    """Double block: text and image streams with weights of their own, one attention."""

    def modulation(self, rows: Rows, weights: Weights | None = None) -> Modulation:
        """Eq. 18 for the rows of Eq. 17: six of the image stream, and six of the text, in one each."""
        text = Rows(rows.y, rows.own[:0])
        return modulation_rows(self.norm1.linear, rows, weights), modulation_rows(self.norm1_context.linear, text)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Rows | Modulation,
        image_rotary_emb: Rope,
        spans: Spans,
    ) -> tuple[Tensor, Tensor]:
        """One block.

        hidden_states: [B|X| + ΣL, dim]. encoder_hidden_states: [B|T|, dim]. temb: rows of Eq. 17, or what `modulation`
        made of them. image_rotary_emb: cos and sin, [S, head_dim] over the joint stream. Returns (text,
        image), as diffusers does.
        """
        image, text, spans = hidden_states, encoder_hidden_states, self._with_weights(hidden_states, spans)
        by_image, by_text = self.modulation(temb, spans.weights) if isinstance(temb, Rows) else temb
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = per_token(by_image, 6, spans)
        c_shift, c_scale, c_gate, c_shift_mlp, c_scale_mlp, c_gate_mlp = by_text.parts(6)
        of_image, of_text = (spans, IMAGE), (spans, TEXT)

        image_out, text_out = self._attend(
            _modulated(self.norm1.norm, image, scale, shift, *of_image),
            _modulated(self.norm1_context.norm, text, c_scale, c_shift, *of_text),
            image_rotary_emb,
            spans,
        )
        image = _gated(image, gate, image_out, *of_image)
        image_mlp = _modulated(self.norm2, image, scale_mlp, shift_mlp, *of_image)
        image = _gated(image, gate_mlp, self._feed_forward(image_mlp, spans), *of_image)
        text = _gated(text, c_gate, text_out, *of_text)
        text_mlp = _modulated(self.norm2_context, text, c_scale_mlp, c_shift_mlp, *of_text)
        text = _gated(text, c_gate_mlp, self.ff_context(text_mlp), *of_text)
        return _within_half(text), image

    def _with_weights(self, x: Tensor, spans: Spans) -> Spans:
        attn, ff = self.attn, self.ff.net
        own = (self.norm1.linear, attn.to_q, attn.to_k, attn.to_v, attn.to_out[0], ff[0].proj, ff[2])
        return _with_weights(own, x, spans)

    def _attend(self, image: Tensor, text: Tensor, rope: Rope, spans: Spans) -> tuple[Tensor, Tensor]:
        attn, tail = self.attn, spans.located
        own = kept_tail(image, tail)
        q, k, v = (split_lora(layer, image, tail, own, spans.weights) for layer in (attn.to_q, attn.to_k, attn.to_v))
        tq, tk, tv = (layer(text) for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
        q = _joint([(attn.norm_added_q, _heads(tq, attn)), (attn.norm_q, _heads(q, attn))], rope, spans)
        k = _joint([(attn.norm_added_k, _heads(tk, attn)), (attn.norm_k, _heads(k, attn))], rope, spans)
        v = torch.cat([_heads(tv, attn), _heads(v, attn)])
        out = isolated_attention(q, k, v, spans).flatten(1).to(q.dtype)
        text_out, image_out = out.split([text.shape[0], image.shape[0]])
        return split_lora(attn.to_out[0], image_out, tail, weights=spans.weights), attn.to_add_out(text_out)

    def _feed_forward(self, x: Tensor, spans: Spans) -> Tensor:
        """The three layers of diffusers' FeedForward; the first is GELU(proj x)."""
        gelu, dropout, project = self.ff.net
        inner = dropout(gelu.gelu(split_lora(gelu.proj, x, spans.located, weights=spans.weights)))
        return split_lora(project, inner, spans.located, weights=spans.weights)


class AnyPhotoSingleTransformerBlock(FluxSingleTransformerBlock):
    """Single block: one joint stream, attention and MLP side by side."""

    def modulation(self, rows: Rows, weights: Weights | None = None) -> Modulation:
        """Eq. 18 for the rows of Eq. 17: three in one."""
        return (modulation_rows(self.norm.linear, rows, weights),)

    def forward(
        self,
        hidden_states: Tensor,
        temb: Rows | Modulation,
        image_rotary_emb: Rope,
        spans: Spans,
        noise_only: bool = False,
    ) -> Tensor:
        """One block over the joint stream.

        hidden_states: [S, dim], S = B|T| + B|X| + ΣL. temb, image_rotary_emb: as in the double block. noise_only: for
        the last block, of which only noise tokens are read: text and location give keys and values alone, and
        [B|X|, dim] comes back. The same numbers for less work.
        """
        attn = self.attn
        own_layers = (self.norm.linear, self.proj_mlp, self.proj_out, attn.to_q, attn.to_k, attn.to_v)
        spans = _with_weights(own_layers, hidden_states, spans)
        [rows] = self.modulation(temb, spans.weights) if isinstance(temb, Rows) else temb
        shift, scale, gate = per_token(rows, 3, spans)
        normed = _modulated(self.norm.norm, hidden_states, scale, shift, spans, JOINT)
        own = kept_tail(normed, spans.located)
        k = self._project(attn.to_k, normed, spans.located, attn.norm_k, image_rotary_emb, own, spans)
        v = _heads(split_lora(attn.to_v, normed, spans.located, own, spans.weights), attn)

        tail, asked = spans.located, JOINT
        if noise_only:
            where = 0, spans.batch * spans.text, spans.batch * spans.noise
            hidden_states, normed, tail, asked = hidden_states.narrow(*where), normed.narrow(*where), 0, NOISE
            image_rotary_emb = (image_rotary_emb[0].narrow(*where), image_rotary_emb[1].narrow(*where))
        q = self._project(attn.to_q, normed, tail, attn.norm_q, image_rotary_emb, own, spans)
        attended = (noise_attention if noise_only else isolated_attention)(q, k, v, spans).flatten(1).to(q.dtype)
        mlp = split_lora(self.proj_mlp, normed, tail, own, spans.weights)
        both = fused.gelu_beside(attended, mlp) if spans.fused else torch.cat([attended, self.act_mlp(mlp)], -1)
        out = split_lora(self.proj_out, both, tail, weights=spans.weights)
        return _within_half(_gated(hidden_states, gate, out, spans, asked))

    def _project(
        self, layer: Any, x: Tensor, tail: int, norm: Any, rope: Rope, own: Tensor | None, spans: Spans
    ) -> Tensor:  # fmt: skip
        return _joint([(norm, _heads(split_lora(layer, x, tail, own, spans.weights), self.attn))], rope, spans)


def _with_weights(layers: Sequence[Any], x: Tensor, spans: Spans) -> Spans:
    weights = cast_together(layers, x.dtype) if spans.located else None
    return spans if weights is None else replace(spans, weights=weights)


def _modulated(norm: Any, x: Tensor, scale: Rows, shift: Rows, spans: Spans, stream: str) -> Tensor:
    if spans.fused:
        return fused.modulated_norm(norm, x, scale, shift, spans, stream)
    return modulate(norm(x), scale, shift, spans, stream)


def _gated(residual: Tensor, gate: Rows, x: Tensor, spans: Spans, stream: str) -> Tensor:
    return (fused.gated if spans.fused else gated)(residual, gate, x, spans, stream)


def _joint(parts: list[tuple[Any, Tensor]], rope: Rope, spans: Spans) -> Tensor:
    """Heads of one or two streams, each by its own norm, one after another and turned: [S, heads, head_dim]."""
    if fused.fits(spans, *(norm for norm, _ in parts)):
        return fused.normed_rotated(parts, rope)
    normed = [norm(x) for norm, x in parts]
    return _rotate(normed[0] if len(normed) == 1 else torch.cat(normed), rope)


def _heads(x: Tensor, attn: Any) -> Tensor:
    """[S, heads * head_dim] -> [S, heads, head_dim]."""
    return cast(Tensor, x.unflatten(-1, (-1, attn.head_dim)))


def _rotate(x: Tensor, rope: Rope) -> Tensor:
    """RoPE by diffusers' own function, which wants a batch axis. x: [S, heads, head_dim]."""
    # Not [0], whose gradient is a tensor of zeros to copy into.
    return cast(Tensor, apply_rotary_emb(x[None], rope, sequence_dim=1).squeeze(0))


def _within_half(x: Tensor) -> Tensor:
    """float16 has no room for FLUX's largest activations; diffusers clips them, so do we."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
