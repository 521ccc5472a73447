"""Identity-isolated attention for blocks that may be compiled: a part of their graph, instead of a break in it.

Broken graphs cost a compiled block more than its kernels save: what lies between two of them goes through Python. The
lengths of the identities must not be seen by the graph, or every layout would be another one; so they are handed over
in a tensor, to an operator that the compiler does not look into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from anyphoto_cli.model import isolated_attention as eager
from anyphoto_cli.model.isolated_attention import equal_samples, flat, samples, swap
from anyphoto_cli.model.isolation_mask import isolation_mask
from anyphoto_cli.model.joined_parts import join, unjoin
from anyphoto_cli.model.kernel_trial import kernels_of
from anyphoto_cli.model.token_pruning import Spans


def isolated_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    """As its eager twin, `isolated_attention.isolated_attention`, which it is where nothing is compiled."""
    if not torch.compiler.is_compiling():
        return eager.isolated_attention(q, k, v, spans)
    if not torch.is_grad_enabled():
        return cast(Tensor, _attend(q, k, v, spans.sizes, spans.attention, list(spans.bias or ())))
    if not spans.rectangular or spans.bias is not None or spans.attention == "split":
        return cast(Tensor, _apart(q, k, v, spans))
    if spans.attention == "merged" and spans.several:
        return cast(Tensor, _merge(q, k, v, spans.sizes)[0])
    return _one_call(q, k, v, spans)


def noise_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    """As `isolated_attention.noise_attention`."""
    if not torch.compiler.is_compiling():
        return eager.noise_attention(q, k, v, spans)
    if not torch.is_grad_enabled():
        return cast(Tensor, _attend_noise(q, k, v, spans.sizes, list(spans.bias or ())))
    if not spans.rectangular or spans.bias is not None:
        return cast(Tensor, _noise_apart(q, k, v, spans))
    queries, keys, values = q.unflatten(0, (spans.batch, spans.noise)), equal_samples(k, spans), equal_samples(v, spans)
    return swap(F.scaled_dot_product_attention(swap(queries), swap(keys), swap(values))).flatten(0, 1)


_apart = torch.compiler.disable(eager.isolated_attention)
_noise_apart = torch.compiler.disable(eager.noise_attention)


def _one_call(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    parts = [swap(equal_samples(x, spans)) for x in (q, k, v)]
    return flat([swap(F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=spans.mask))], spans)


def mask_of(spans: Spans, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """What a compiled training step needs of Eq. 19's mask: None where one call without a mask does, or several do."""
    if spans.attention != "masked" or not (spans.several and spans.rectangular):
        return None
    return isolation_mask(spans.text + spans.noise, spans.lengths[0], device, dtype)


@torch.library.custom_op("anyphoto::isolated_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, sizes: Tensor, kernel: str, bias: Sequence[Tensor]) -> Tensor:
    """Eq. 19 without gradients. q, k, v: [S, heads, head_dim]; sizes, bias: of `Spans`. Returns the shape of q."""
    with torch.no_grad():
        return eager.isolated_attention(q, k, v, Spans.of_sizes(sizes, kernel, bias)).contiguous()


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, sizes: Tensor, kernel: str, bias: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@torch.library.custom_op("anyphoto::noise_attention", mutates_args=())
def _attend_noise(q: Tensor, k: Tensor, v: Tensor, sizes: Tensor, bias: Sequence[Tensor]) -> Tensor:
    """`noise_attention` without gradients. Returns the shape of q, [B|X|, heads, head_dim]."""
    with torch.no_grad():
        return eager.noise_attention(q, k, v, Spans.of_sizes(sizes, "merged", bias)).contiguous()


@_attend_noise.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, sizes: Tensor, bias: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@torch.library.custom_op("anyphoto::merge", mutates_args=())
def _merge(q: Tensor, k: Tensor, v: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The merged form of equal samples: (output [S, heads, head_dim], log-sum-exp [heads, S], sample after sample)."""
    spans = Spans.of_sizes(sizes, "merged")
    with torch.no_grad():
        parts = [swap(samples(x, spans)[0]) for x in (q, k, v)]
        out, lse = join(kernels_of(parts[0]), parts[0], parts[1], parts[2], spans.lengths[0])
        return flat([swap(out)], spans).contiguous(), lse.transpose(0, 1).flatten(1).contiguous()


@_merge.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    lse = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[1], q.shape[0], dtype=lse)


@torch.library.custom_op("anyphoto::unmerge", mutates_args=())
def _unmerge(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v."""
    spans = Spans.of_sizes(sizes, "merged")
    with torch.no_grad():
        parts = [swap(samples(x, spans)[0]) for x in (grad, q, k, v, out)]
        rows = lse.unflatten(1, (spans.batch, -1)).transpose(0, 1)
        found = unjoin(
            kernels_of(parts[1]), parts[0], parts[1], parts[2], parts[3], parts[4], rows, spans.lengths[0]
        )  # fmt: skip
        dq, dk, dv = (flat([swap(x)], spans).contiguous() for x in found)
        return dq, dk, dv


@_unmerge.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return dq, dk, dv


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, sizes = inputs
    ctx.save_for_backward(q, k, v, *output, sizes)


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, sizes = ctx.saved_tensors
    return *_unmerge(grad, q, k, v, out, lse, sizes), None


_merge.register_autograd(_gradients, setup_context=_keep)
