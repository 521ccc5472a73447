"""Identity-isolated attention as a sum of parts that need no mask, joined by their log-sum-exp. Source: Eq. 19.

A location token attends to the global tokens and to its own identity. Softmax over the two sets of keys is a weighted
mean of the softmax over each, with the sums of their exponentials as weights: so no keys are copied, as the split form
copies them N times, and no pair is computed that Eq. 19 leaves out. Literal twin: `masked_attention`.

The backward pass is exact, too: each part's flash backward, given the *joined* output and log-sum-exp, computes just
its share of the joined softmax's gradient (ring attention's trick). Autograd through the parts could not do it: torch's
flash kernels have no gradient for the log-sum-exp they return, and give a silently wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from anyphoto_cli.model.joined_parts import join, join_located, join_outputs, one_after_another, unjoin
from anyphoto_cli.model.kernel_trial import kernels_of


def merged_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Eq. 19 in unmasked flash calls: 2 + 1 on CUDA, 2 + N elsewhere; for one identity or none, one dense call.

    q, k, v, lengths, bias, returns: as in `masked_attention`. A bias makes the call of the global queries a masked one,
    and has no gradient here. On CUDA: float16 or bfloat16, and a head_dim that flash takes (FLUX's 128 is one).
    """
    if bias is not None:
        return _biased(q, k, v, tuple(lengths), bias)
    if len(lengths) <= 1:
        return F.scaled_dot_product_attention(q, k, v)
    if not torch.is_grad_enabled():
        return join_outputs(kernels_of(q), q, k, v, tuple(lengths))
    return cast(Tensor, _Merged.apply(q, k, v, tuple(lengths)))


def _biased(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], bias: Tensor) -> Tensor:
    shared = q.shape[-2] - sum(lengths)
    out = F.scaled_dot_product_attention(q[..., :shared, :], k, v, attn_mask=bias)
    if not lengths:
        return out
    if len(lengths) == 1:  # one identity sees everything
        return one_after_another(out, F.scaled_dot_product_attention(q[..., shared:, :], k, v))
    return one_after_another(out, join_located(kernels_of(q), q, k, v, shared, lengths))


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """[b, heads, S, head_dim] each -> the same."""
        ctx.kernels, ctx.lengths = kernels_of(q), lengths
        out, lse = join(ctx.kernels, q, k, v, lengths)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of q, k, v."""
        q, k, v, out, lse = ctx.saved_tensors
        return *unjoin(ctx.kernels, grads[0], q, k, v, out, lse, ctx.lengths), None
