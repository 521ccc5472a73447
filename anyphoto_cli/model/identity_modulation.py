"""Identity-adaptive modulation: each identity's tokens have a modulation of their own. Paper 3.3, Eq. 15-18; A.1.

Rows, not tokens: y and y + Δ_1 .. y + Δ_N go through each modulation layer once, and what comes out is broadcast over
the tokens it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.model.location_lora import Weights, split_lora
from anyphoto_cli.model.token_pruning import IMAGE, JOINT, Spans


class IdentityProjector(nn.Module):
    """Δ_i = MLP(e_i): Linear, GELU, Linear. [N, 512] -> [N, dim]. Source: Eq. 16, A.1.

    The last layer starts at zero, so that training starts from the base model. Weights stay float32.
    """

    def __init__(self, embedding: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(embedding, hidden), nn.Linear(hidden, dim)
        # Linear's own start expects entries of size 1; a unit vector of 512 has .04. GELU would then see next to
        # nothing, and what tells identities apart stays a sixteenth of y for a whole small run (measured).
        nn.init.normal_(self.fc1.weight)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings: [N, 512], unit length, or zero for a dropped identity."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(embeddings.to(self.fc1.weight.dtype)))))


class Rows(NamedTuple):
    """What modulation is made from. y: [B, d] of the noise and text tokens. own: [ΣN, d] of the identities."""

    y: Tensor
    own: Tensor

    def parts(self, count: int) -> list[Rows]:
        """[.., count * d] -> `count` x [.., d]."""
        return [Rows(y, own) for y, own in zip(self.y.chunk(count, -1), self.own.chunk(count, -1), strict=True)]


def told_to_identities(
    method: MethodConfig, timestep: Tensor, guidance: Tensor | None
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(timestep, guidance) [B] that y of the location tokens is made from; given: what noise tokens are told.

    In y stands the guidance of the base. Rendering tells noise tokens more than training did; Δ would meet another y
    than it was learned for. Ours: Eq. 17 has one y (`identity_guidance: null`).
    """
    own = method.identity_guidance
    return (
        timestep if method.identity_time == "noise" else torch.zeros_like(timestep),
        guidance if guidance is None or own is None else torch.full_like(guidance, own),
    )


def identity_rows(y: Tensor, y_identity: Tensor, delta: Tensor | None, counts: Sequence[int]) -> Rows:
    """y' = y + Δ. Source: Eq. 17.

    y: [B, dim] of the noise tokens. y_identity: [B, dim], of the time and guidance that identities are told. delta:
    [ΣN, dim], None for an untrained model. counts: identities of each sample.
    """
    if not sum(counts):
        return Rows(y, y[:0])
    own = spread(y_identity, counts)
    return Rows(y, own if delta is None else own + delta.to(own.dtype))


def modulation_rows(linear: nn.Module, rows: Rows, weights: Weights | None = None) -> Rows:
    """γ, β, α .. = Mod(y'): the modulation layer once per row, LoRA on the identity rows alone. Source: Eq. 18.

    linear: `norm.linear` of a block, [dim -> chunks * dim]. weights: as in `split_lora`. Returns rows of chunks * dim.
    """
    batch, identities = len(rows.y), len(rows.own)
    out = split_lora(linear, F.silu(torch.cat(rows) if identities else rows.y), identities, weights=weights)
    y, own = out.split([batch, identities])
    # Rows do not mix: where y is a constant, so is what a frozen layer makes of it. Said here, since it is one product
    # with rows that are not: else every noise token would be kept for a gradient that nobody wants.
    return Rows(y if rows.y.requires_grad else y.detach(), own)


def per_token(rows: Rows, count: int, spans: Spans) -> list[Rows]:
    """[.., count * d] -> `count` x [.., d], a row of `own` for each location token: [ΣN, ..] -> [L, d]. Compiled blocks
    and fused kernels read rows by number.
    """
    if spans.index is not None or spans.fused or not len(rows.own):
        return rows.parts(count)
    if torch.is_grad_enabled():  # each by itself: some are kept for the backward pass, some are not
        return [Rows(part.y, spread(part.own, spans.flat_lengths)) for part in rows.parts(count)]
    return Rows(rows.y, spread(rows.own, spans.flat_lengths)).parts(count)


def modulate(x: Tensor, scale: Rows, shift: Rows, spans: Spans, stream: str) -> Tensor:
    """x (1 + γ) + β, each token with its row's. Source: Eq. 10.

    x: [S, d] of a stream, a norm's fresh output, which is overwritten where no gradient is asked for. scale, shift: of
    `per_token`.
    """
    return _apply(x, (scale, shift), _modulate, _modulate_, spans, stream)


def gated(residual: Tensor, gate: Rows, x: Tensor, spans: Spans, stream: str) -> Tensor:
    """residual + α x, each token with its row's. Source: Eq. 11. gate, x: as in `modulate`."""
    if torch.is_grad_enabled() or spans.index is not None:
        return residual + _apply(x, (gate,), torch.mul, Tensor.mul_, spans, stream)
    return _apply(x, (gate,), torch.mul, Tensor.mul_, spans, stream).add_(residual)


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def _modulate_(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x.mul_(1 + scale).add_(shift)


def _apply(
    x: Tensor, rows: Sequence[Rows], by: Callable[..., Tensor], in_place: Callable[..., Tensor], spans: Spans,
    stream: str,
) -> Tensor:  # fmt: skip
    """by(x, *rows), each token with its rows: a row a sample is broadcast over noise and text, never written out."""
    if spans.index is not None:
        return _apply_by_index(x, rows, by, spans, stream)
    batch, counts = spans.batch, spans.counts(stream)
    sizes = [batch * count for count in counts]
    pieces = x.split([*sizes, len(x) - sum(sizes)])
    change = by if torch.is_grad_enabled() else in_place
    bases = [
        change(piece.unflatten(0, (batch, count)), *(row.y[:, None] for row in rows)).flatten(0, 1)
        for piece, count in zip(pieces, counts, strict=False)
    ]
    if len(pieces[-1]):
        # A slice would keep all of x alive for the backward pass.
        own = pieces[-1].clone() if torch.is_grad_enabled() else pieces[-1]
        bases.append(change(own, *(row.own for row in rows)))
    if not torch.is_grad_enabled():
        return x
    return bases[0] if len(bases) == 1 else torch.cat(bases)


def _apply_by_index(
    x: Tensor, rows: Sequence[Rows], by: Callable[..., Tensor], spans: Spans, stream: str
) -> Tensor:  # fmt: skip
    """`_apply` for compiled blocks: rows are read where they are used, by tensors of numbers."""
    index = (spans.index or {})[stream]
    own = spans.located if stream in (IMAGE, JOINT) else 0
    if not own:
        return by(x, *(row.y.index_select(0, index) for row in rows))
    if not torch.is_grad_enabled():
        return by(x, *(torch.cat(row).index_select(0, index) for row in rows))
    # Apart: nobody wants the gradient of the shared rows, and it would keep every token's activations.
    # Slices: with `split` in their place torch 2.13's compiler gave other gradients (tests/model/test_transformer.py).
    base = by(x[:-own], *(row.y.index_select(0, index[:-own]) for row in rows))
    numbers = index[-own:] - spans.batch
    located = by(x[-own:], *(cast(Tensor, _Read.apply(row.own, numbers)) for row in rows))
    return torch.cat([base, located])


class _Read(torch.autograd.Function):
    """rows[numbers], whose gradient is a product with zeros and ones: an index's own would need atomics.

    rows: [R, dim]. numbers: [L], 0 to R - 1. Returns [L, dim].
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, numbers: Tensor) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.count = len(rows)
        return rows.index_select(0, numbers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [numbers], [grad] = ctx.saved_tensors, grads
        whose = torch.arange(ctx.count, device=grad.device)[:, None] == numbers
        return whose.to(grad.dtype) @ grad, None


def spread(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """[R, dim] -> [sum(lengths), dim]: row r repeated lengths[r] times.

    Built of views and one concatenation: its backward is a plain sum, where an index would need atomics.
    """
    parts = [row.expand(n, -1) for row, n in zip(rows.split(1), lengths, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
