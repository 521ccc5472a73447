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

Part = tuple[Tensor, Tensor, Tensor]
_ATEN = torch.ops.aten


def merged_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Eq. 19 in 2 + N unmasked flash calls; for one identity or none, one dense call.

    q, k, v, lengths, returns: as in `masked_attention`. On CUDA: float16 or bfloat16, and a head_dim that flash takes
    (FLUX's 128 is one).
    """
    if len(lengths) <= 1:
        return F.scaled_dot_product_attention(q, k, v)
    return cast(Tensor, _Merged.apply(q, k, v, tuple(lengths)))


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """[b, heads, S, head_dim] each -> the same."""
        shared = q.shape[-2] - sum(lengths)
        out_shared, lse_shared = _flash(q[..., :shared, :], k, v)
        by_shared, lse_by_shared = _flash(q[..., shared:, :], k[..., :shared, :], v[..., :shared, :])
        by_own, lse_by_own = _each(_own(q, shared, lengths), _own(k, shared, lengths), _own(v, shared, lengths))
        # In float32: half precision would round the parts once more than one kernel does.
        lse_own = torch.logaddexp(lse_by_shared, lse_by_own)
        out_own = by_shared * (lse_by_shared - lse_own).exp()[..., None]
        out_own += by_own * (lse_by_own - lse_own).exp()[..., None]
        out = torch.cat([out_shared, out_own.to(out_shared.dtype)], -2)
        ctx.save_for_backward(q, k, v, out, torch.cat([lse_shared, lse_own], -1))
        ctx.lengths = lengths
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of q, k, v."""
        q, k, v, out, lse = ctx.saved_tensors
        [grad], lengths = grads, ctx.lengths
        shared = q.shape[-2] - sum(lengths)
        dq_shared, dk, dv = _flash_backward(
            grad[..., :shared, :], (q[..., :shared, :], k, v), out[..., :shared, :], lse[..., :shared]
        )
        dq_own, dk_shared, dv_shared = _flash_backward(
            grad[..., shared:, :], (q[..., shared:, :], k[..., :shared, :], v[..., :shared, :]),
            out[..., shared:, :], lse[..., shared:],
        )  # fmt: skip
        dk[..., :shared, :] += dk_shared
        dv[..., :shared, :] += dv_shared
        first = shared
        for length in lengths:
            own = slice(first, first + length)
            dq_i, dk_i, dv_i = _flash_backward(
                grad[..., own, :], (q[..., own, :], k[..., own, :], v[..., own, :]), out[..., own, :], lse[..., own]
            )
            dq_own[..., own.start - shared : own.stop - shared, :] += dq_i
            dk[..., own, :] += dk_i
            dv[..., own, :] += dv_i
            first += length
        return torch.cat([dq_shared, dq_own], -2), dk, dv, None


def _own(x: Tensor, shared: int, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    return tuple(x[..., shared:, :].split(list(lengths), -2))


def _each(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    parts = [_flash(*part) for part in zip(q, k, v, strict=True)]
    return torch.cat([out for out, _ in parts], -2), torch.cat([lse for _, lse in parts], -1)


def _flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(softmax(q k') v, log-sum-exp of its rows [b, heads, S] in float32 or wider). Neither may be empty."""
    if q.device.type == "cpu":
        out, lse = _ATEN._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    else:
        out, lse = _ATEN._scaled_dot_product_flash_attention(q, k, v)[:2]
    return out, lse


def _flash_backward(grad: Tensor, part: Part, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one part's q, k, v, with `out` and `lse` of the whole softmax."""
    if grad.device.type == "cpu":
        return cast(Part, _ATEN._scaled_dot_product_flash_attention_for_cpu_backward(grad, *part, out, lse, 0.0, False))
    # Without dropout nothing is drawn: the random state is never read.
    unused = torch.empty(2, dtype=torch.uint64, device=grad.device), torch.empty((), dtype=torch.uint64)
    longest = part[0].shape[-2], part[1].shape[-2]
    backward = _ATEN._scaled_dot_product_flash_attention_backward
    grads: Part = backward(grad, *part, out, lse.contiguous(), None, None, *longest, 0.0, False, *unused)[:3]
    return grads
