"""The two FLUX blocks, re-typed: same parameters under the same names, location tokens carried along.

Both work on flat streams (`Spans`): linears and norms do not care about samples, attention does. With no location
tokens each computes exactly what its diffusers parent computes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor

from anyphoto_cli.model.identity_modulation import modulation_rows, over_image, over_joint, over_text
from anyphoto_cli.model.isolated_attention import isolated_attention, noise_attention
from anyphoto_cli.model.location_lora import split_lora
from anyphoto_cli.model.token_pruning import Spans

Rope = tuple[Tensor, Tensor]
Modulation = tuple[Tensor, ...]
"""What a block's modulation layers give for one step."""


class AnyPhotoTransformerBlock(FluxTransformerBlock):
    """Double block: text and image streams with weights of their own, one attention."""

    def modulation(self, rows: Tensor, batch: int, identities: int) -> Modulation:
        """Eq. 18 for rows [B + ΣN, dim] of Eq. 17: ([B + ΣN, 6 dim] of the image stream, [B, 6 dim] of the text)."""
        image = modulation_rows(self.norm1.linear, rows, identities)
        return image, modulation_rows(self.norm1_context.linear, rows[:batch], 0)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor | Modulation,
        image_rotary_emb: Rope,
        spans: Spans,
    ) -> tuple[Tensor, Tensor]:
        """One block.

        hidden_states: [B|X| + ΣL, dim]. encoder_hidden_states: [B|T|, dim]. temb: [B + ΣN, dim] rows of Eq. 17, or what
        `modulation` made of them. image_rotary_emb: cos and sin, [S, head_dim] over the joint stream. Returns (text,
        image), as diffusers does.
        """
        image, text = hidden_states, encoder_hidden_states
        by_image, by_text = self.modulation(temb, spans.batch, spans.identities) if isinstance(temb, Tensor) else temb
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (over_image(r, spans) for r in by_image.chunk(6, -1))
        c_shift, c_scale, c_gate, c_shift_mlp, c_scale_mlp, c_gate_mlp = (
            over_text(row, spans) for row in by_text.chunk(6, -1)
        )

        image_out, text_out = self._attend(
            self.norm1.norm(image) * (1 + scale) + shift,
            self.norm1_context.norm(text) * (1 + c_scale) + c_shift,
            image_rotary_emb,
            spans,
        )
        image = image + gate * image_out
        image = image + gate_mlp * self._feed_forward(self.norm2(image) * (1 + scale_mlp) + shift_mlp, spans.located)
        text = text + c_gate * text_out
        text = text + c_gate_mlp * self.ff_context(self.norm2_context(text) * (1 + c_scale_mlp) + c_shift_mlp)
        return _within_half(text), image

    def _attend(self, image: Tensor, text: Tensor, rope: Rope, spans: Spans) -> tuple[Tensor, Tensor]:
        attn, tail = self.attn, spans.located
        q, k, v = (split_lora(layer, image, tail) for layer in (attn.to_q, attn.to_k, attn.to_v))
        tq, tk, tv = (layer(text) for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
        q = torch.cat([attn.norm_added_q(_heads(tq, attn)), attn.norm_q(_heads(q, attn))])
        k = torch.cat([attn.norm_added_k(_heads(tk, attn)), attn.norm_k(_heads(k, attn))])
        v = torch.cat([_heads(tv, attn), _heads(v, attn)])
        out = isolated_attention(_rotate(q, rope), _rotate(k, rope), v, spans).flatten(1).to(q.dtype)
        text_out, image_out = out.split([text.shape[0], image.shape[0]])
        return split_lora(attn.to_out[0], image_out, tail), attn.to_add_out(text_out)

    def _feed_forward(self, x: Tensor, tail: int) -> Tensor:
        """The three layers of diffusers' FeedForward; the first is GELU(proj x)."""
        gelu, dropout, project = self.ff.net
        return split_lora(project, dropout(gelu.gelu(split_lora(gelu.proj, x, tail))), tail)


class AnyPhotoSingleTransformerBlock(FluxSingleTransformerBlock):
    """Single block: one joint stream, attention and MLP side by side."""

    def modulation(self, rows: Tensor, batch: int, identities: int) -> Modulation:
        """Eq. 18 for rows [B + ΣN, dim] of Eq. 17: ([B + ΣN, 3 dim],)."""
        return (modulation_rows(self.norm.linear, rows, identities),)

    def forward(
        self,
        hidden_states: Tensor,
        temb: Tensor | Modulation,
        image_rotary_emb: Rope,
        spans: Spans,
        noise_only: bool = False,
    ) -> Tensor:
        """One block over the joint stream.

        hidden_states: [S, dim], S = B|T| + B|X| + ΣL. temb, image_rotary_emb: as in the double block. noise_only: for
        the last block, of which only noise tokens are read: text and location give keys and values alone, and
        [B|X|, dim] comes back. The same numbers for less work.
        """
        [rows] = self.modulation(temb, spans.batch, spans.identities) if isinstance(temb, Tensor) else temb
        shift, scale, gate = (over_joint(row, spans) for row in rows.chunk(3, -1))
        normed = self.norm.norm(hidden_states) * (1 + scale) + shift
        k = self._project(self.attn.to_k, normed, spans.located, self.attn.norm_k, image_rotary_emb)
        v = _heads(split_lora(self.attn.to_v, normed, spans.located), self.attn)

        tail = spans.located
        if noise_only:
            noise = slice(spans.batch * spans.text, spans.batch * (spans.text + spans.noise))
            hidden_states, normed, gate, tail = hidden_states[noise], normed[noise], gate[noise], 0
            image_rotary_emb = (image_rotary_emb[0][noise], image_rotary_emb[1][noise])
        q = self._project(self.attn.to_q, normed, tail, self.attn.norm_q, image_rotary_emb)
        attended = (noise_attention if noise_only else isolated_attention)(q, k, v, spans).flatten(1).to(q.dtype)
        mlp = self.act_mlp(split_lora(self.proj_mlp, normed, tail))
        out = split_lora(self.proj_out, torch.cat([attended, mlp], -1), tail)
        return _within_half(hidden_states + gate * out)

    def _project(self, layer: Any, x: Tensor, tail: int, norm: Any, rope: Rope) -> Tensor:
        return _rotate(norm(_heads(split_lora(layer, x, tail), self.attn)), rope)


def _heads(x: Tensor, attn: Any) -> Tensor:
    """[S, heads * head_dim] -> [S, heads, head_dim]."""
    return cast(Tensor, x.unflatten(-1, (-1, attn.head_dim)))


def _rotate(x: Tensor, rope: Rope) -> Tensor:
    """RoPE by diffusers' own function, which wants a batch axis. x: [S, heads, head_dim]."""
    return cast(Tensor, apply_rotary_emb(x[None], rope, sequence_dim=1)[0])


def _within_half(x: Tensor) -> Tensor:
    """float16 has no room for FLUX's largest activations; diffusers clips them, so do we."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
