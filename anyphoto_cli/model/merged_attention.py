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

from anyphoto_cli.model.flash_kernels import Kernels, kernels_of


def merged_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Eq. 19 in unmasked flash calls: 2 + 1 on CUDA, 2 + N elsewhere; for one identity or none, one dense call.

    q, k, v, lengths, bias, returns: as in `masked_attention`. A bias makes the call of the global queries a masked one,
    and has no gradient here. On CUDA: float16 or bfloat16, and a head_dim that flash takes (FLUX's 128 is one).
    """
    if len(lengths) <= 1:
        return F.scaled_dot_product_attention(q, k, v) if bias is None else _biased(q, k, v, tuple(lengths), bias)
    if bias is None:
        return cast(Tensor, _Merged.apply(q, k, v, tuple(lengths)))
    return _biased(q, k, v, tuple(lengths), bias)


def _biased(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], bias: Tensor) -> Tensor:
    shared = q.shape[-2] - sum(lengths)
    out = F.scaled_dot_product_attention(q[..., :shared, :], k, v, attn_mask=bias)
    if not lengths:
        return out
    if len(lengths) == 1:  # one identity sees everything
        return _joined(out, F.scaled_dot_product_attention(q[..., shared:, :], k, v))
    own, _ = _located(kernels_of(q), q, k, v, shared, lengths)
    return _joined(out, own)


def join(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(Eq. 19's output, the log-sum-exp of its rows [b, heads, S]). q, k, v: [b, heads, S, head_dim]."""
    shared = q.shape[-2] - sum(lengths)
    out, lse = kernels.attend(q[..., :shared, :], k, v)
    own, lse_own = _located(kernels, q, k, v, shared, lengths)
    return _joined(out, own), torch.cat([lse, lse_own], -1)


def _joined(shared: Tensor, located: Tensor) -> Tensor:
    """[b, heads, n, head_dim] each, one after another, laid out as the model reads them: [b, S, heads, head_dim]."""
    return torch.cat([shared.transpose(1, 2), located.transpose(1, 2)], 1).transpose(1, 2)


def _located(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, shared: int, lengths: tuple[int, ...]
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same of the location tokens alone."""
    located = q[..., shared:, :]
    by_shared, lse_by_shared = kernels.attend(located, k[..., :shared, :], v[..., :shared, :])
    by_own, lse_by_own = kernels.attend_each(located, k[..., shared:, :], v[..., shared:, :], lengths)
    # In float32: half precision would round the parts once more than one kernel does.
    share = torch.sigmoid(lse_by_own - lse_by_shared)[..., None]
    wide = torch.promote_types(by_own.dtype, share.dtype)
    own = torch.lerp(by_shared.to(wide), by_own.to(wide), share.to(wide)).to(by_own.dtype)
    return own, torch.logaddexp(lse_by_shared, lse_by_own)


def unjoin(
    kernels: Kernels, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, lengths: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v. out, lse: what `join` gave."""
    shared = q.shape[-2] - sum(lengths)
    rest, own = slice(0, shared), slice(shared, None)

    def cut(x: Tensor, where: slice) -> Tensor:
        return x[..., where, :]

    dq_shared, dk, dv = kernels.gradients(cut(grad, rest), (cut(q, rest), k, v), cut(out, rest), lse[..., rest])
    dq_own, dk_shared, dv_shared = kernels.gradients(
        cut(grad, own), (cut(q, own), cut(k, rest), cut(v, rest)), cut(out, own), lse[..., own]
    )
    dq_each, dk_each, dv_each = kernels.gradients_each(
        cut(grad, own), (cut(q, own), cut(k, own), cut(v, own)), cut(out, own), lse[..., own], lengths
    )
    for whole, of_shared, of_each in ((dk, dk_shared, dk_each), (dv, dv_shared, dv_each)):
        cut(whole, rest).add_(of_shared)
        cut(whole, own).add_(of_each)
    return _joined(dq_shared, dq_own + dq_each), dk, dv


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
