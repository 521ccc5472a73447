"""Parts of attention that need no mask, joined by their log-sum-exp: `merged_attention`'s. Source: Eq. 19.

The kernels are given, so that those of a card can be tried before they are used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anyphoto_cli.model.flash_kernels import Kernels


def join(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(Eq. 19's output, the log-sum-exp of its rows [b, heads, S]). q, k, v: [b, heads, S, head_dim]."""
    shared = q.shape[-2] - sum(lengths)
    out, lse = kernels.attend(q[..., :shared, :], k, v)
    own, lse_by_shared, lse_by_own = _located(kernels, q, k, v, shared, lengths)
    joined = one_after_another(out, own)
    return joined, torch.cat([lse, torch.logaddexp(lse_by_shared, lse_by_own)], -1)


def join_outputs(kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """The output alone, where no gradient will be asked for."""
    shared = q.shape[-2] - sum(lengths)
    out, _ = kernels.attend(q[..., :shared, :], k, v)
    return one_after_another(out, join_located(kernels, q, k, v, shared, lengths))


def one_after_another(shared: Tensor, located: Tensor) -> Tensor:
    """[b, heads, n, head_dim] each, one after another, laid out as the model reads them: [b, S, heads, head_dim]."""
    return torch.cat([shared.transpose(1, 2), located.transpose(1, 2)], 1).transpose(1, 2)


def join_located(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, shared: int, lengths: tuple[int, ...]
) -> Tensor:  # fmt: skip
    """The output of the location tokens alone."""
    return _located(kernels, q, k, v, shared, lengths)[0]


def _located(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, shared: int, lengths: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(output, log-sum-exp over the shared keys, over its identity's own) of the location tokens."""
    located = q[..., shared:, :]
    by_shared, lse_by_shared = kernels.attend(located, k[..., :shared, :], v[..., :shared, :])
    by_own, lse_by_own = kernels.attend_each(located, k[..., shared:, :], v[..., shared:, :], lengths)
    share = torch.sigmoid(lse_by_own - lse_by_shared)[..., None]
    # `share` is float32: so is the sum, rounded once. Half precision would round the parts once more than one kernel.
    own = (by_shared * (1 - share)).addcmul_(by_own, share)
    return own.to(by_own.dtype), lse_by_shared, lse_by_own


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
    return one_after_another(dq_shared, dq_own + dq_each), dk, dv
