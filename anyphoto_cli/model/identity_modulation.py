"""Identity-adaptive modulation: each identity's tokens have a modulation of their own. Paper 3.3, Eq. 15-18; A.1.

Rows, not tokens: y and y + Δ_1 .. y + Δ_N go through each modulation layer once, and what comes out is spread over the
tokens it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.model.location_lora import split_lora
from anyphoto_cli.model.token_pruning import Spans


class IdentityProjector(nn.Module):
    """Δ_i = MLP(e_i): Linear, GELU, Linear. [N, 512] -> [N, dim]. Source: Eq. 16, A.1.

    The last layer starts at zero, so that training starts from the base model. Weights stay float32.
    """

    def __init__(self, embedding: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(embedding, hidden), nn.Linear(hidden, dim)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings: [N, 512], unit length, or zero for a dropped identity."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(embeddings.to(self.fc1.weight.dtype)))))


def identity_rows(y: Tensor, y_identity: Tensor, delta: Tensor | None, counts: Sequence[int]) -> Tensor:
    """[y_1 .. y_B | y'_1,1 .. y'_B,N], y' = y + Δ. Source: Eq. 17.

    y: [B, dim] of the noise tokens. y_identity: [B, dim], the same unless identity_time is "zero". delta: [ΣN, dim],
    None for an untrained model. counts: identities of each sample. Returns [B + ΣN, dim].
    """
    if not sum(counts):
        return y
    own = spread(y_identity, counts)
    return torch.cat([y, own if delta is None else own + delta.to(own.dtype)])


def modulation_rows(linear: nn.Module, rows: Tensor, identities: int) -> Tensor:
    """γ, β, α .. = Mod(y'): the modulation layer once per row, LoRA on the identity rows alone. Source: Eq. 18.

    linear: `norm.linear` of a block, [dim -> chunks * dim]. rows: [B + ΣN, dim]. Returns [B + ΣN, chunks * dim].
    """
    return split_lora(linear, F.silu(rows), tail=identities)


def spread(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """[R, dim] -> [sum(lengths), dim]: row r repeated lengths[r] times.

    Built of views and one concatenation: its backward is a plain sum, where an index would need atomics.
    """
    parts = [row.expand(n, -1) for row, n in zip(rows.split(1), lengths, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def over_image(rows: Tensor, spans: Spans) -> Tensor:
    """[B + ΣN, d] -> [B|X| + ΣL, d]: to every token of the image stream the row it belongs to."""
    if spans.index is not None:
        return rows.index_select(0, spans.index.image)
    return spread(rows, [spans.noise] * spans.batch + spans.flat_lengths)


def over_text(rows: Tensor, spans: Spans) -> Tensor:
    """[B, d] -> [B|T|, d]."""
    if spans.index is not None:
        return rows.index_select(0, spans.index.text)
    return spread(rows, [spans.text] * spans.batch)


def over_joint(rows: Tensor, spans: Spans) -> Tensor:
    """[B + ΣN, d] -> [S, d] over the joint stream; text and noise of a sample share its row y."""
    if spans.index is not None:
        return rows.index_select(0, spans.index.joint)
    over = [spans.text] * spans.batch + [spans.noise] * spans.batch + spans.flat_lengths
    return spread(torch.cat([rows[: spans.batch], rows]), over)
