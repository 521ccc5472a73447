"""What lies between the matrix products of a block, in one kernel each: norm and modulation, norm and rotation, the
gated residual, GELU beside attention. Source: Eq. 10, 11, 18.

In Triton, which comes with torch's builds for CUDA; numbers are float32 between what is read and what is written. Stock
operations read and write the whole stream for each small step (a rotation, by counting: 13 times what this one needs):
on an H200 a step at 1024 px takes a quarter less without them. Literal twins: `identity_modulation.modulate` and
`gated`, and the blocks' own calls (tests/model/test_fused.py runs both on a CPU, by Triton's interpreter).

Rows of modulation are given as `identity_modulation.Rows`, [B, d] and [R, d], whose last dimension is dense; number:
[S] int32, of each token's row, identities after samples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Given = ParamSpec("Given")
Result = TypeVar("Result")

COLUMNS = 1024
"""Of a wide row a program writes so many."""
HEADS = 8
"""Heads of a token that a program turns."""


@triton.jit
def _row(base, own, shared, number, base_stride, own_stride, column, dim):  # type: ignore[no-untyped-def]
    """One row of modulation, from whichever of the two tensors it stands in."""
    # Limits, not masks joined by "and", of which Triton 3.9's interpreter makes whole numbers.
    in_base, in_own = tl.where(number < shared, dim, 0), tl.where(number < shared, 0, dim)
    of_base = tl.load(base + number * base_stride + column, mask=column < in_base, other=0.0)
    of_own = tl.load(own + (number - shared) * own_stride + column, mask=column < in_own, other=0.0)
    return of_base.to(tl.float32) + of_own.to(tl.float32)


@triton.jit
def _normed(x, column, inside, dim, eps):  # type: ignore[no-untyped-def]
    """(a row without mean and with variance 1, 1 / its deviation)."""
    value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(inside, value - tl.sum(value) / dim, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(value * value) / dim + eps)
    return value * inverse, inverse


@triton.jit
def _modulated_norm(  # type: ignore[no-untyped-def]
    x, scale, own_scale, shift, own_shift, numbers, out, dim, shared, scale_stride, own_scale_stride, shift_stride,
    own_shift_stride, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, number = column < dim, tl.load(numbers + token)
    normed, _ = _normed(x + token * dim, column, inside, dim, eps)
    by = 1.0 + _row(scale, own_scale, shared, number, scale_stride, own_scale_stride, column, dim)
    plus = _row(shift, own_shift, shared, number, shift_stride, own_shift_stride, column, dim)
    tl.store(out + token * dim + column, (normed * by + plus).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _modulated_norm_gradient(  # type: ignore[no-untyped-def]
    grad, x, scale, own_scale, numbers, out, dim, shared, scale_stride, own_scale_stride, eps, BLOCK: tl.constexpr
):  # fmt: skip
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, number = column < dim, tl.load(numbers + token)
    normed, inverse = _normed(x + token * dim, column, inside, dim, eps)
    by = 1.0 + _row(scale, own_scale, shared, number, scale_stride, own_scale_stride, column, dim)
    told = tl.load(grad + token * dim + column, mask=inside, other=0.0).to(tl.float32) * by
    along = tl.sum(tl.where(inside, told * normed, 0.0)) / dim
    of_x = (told - tl.sum(tl.where(inside, told, 0.0)) / dim - normed * along) * inverse
    tl.store(out + token * dim + column, of_x.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated(  # type: ignore[no-untyped-def]
    residual, gate, own_gate, x, numbers, out, dim, shared, gate_stride, own_gate_stride, ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, number = column < dim, tl.load(numbers + token)
    by = _row(gate, own_gate, shared, number, gate_stride, own_gate_stride, column, dim)
    value = by * tl.load(x + token * dim + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + token * dim + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * dim + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _pairs(x, where, inside, HEADS: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """[HEADS, WIDE] as (even, odd) columns, [HEADS, WIDE / 2] each, float32."""
    value = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    return tl.split(tl.reshape(value, (HEADS, WIDE // 2, 2)))


@triton.jit
def _table_row(table, token, column, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """A row of cosines, sines or weights as (even, odd) columns, [1, WIDE / 2] each, float32."""
    return tl.split(tl.reshape(tl.load(table + token * WIDE + column).to(tl.float32), (1, WIDE // 2, 2)))


@triton.jit
def _heads_of(x, heads, eps, HEADS: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """(token, columns, where, inside, even, odd, 1 / size) of a program's heads, each normed to a mean square of 1."""
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    where = (token * heads + head[:, None]) * WIDE + column[None, :]
    inside = head[:, None] + tl.zeros((1, WIDE), tl.int32) < heads
    even, odd = _pairs(x, where, inside, HEADS, WIDE)
    inverse = 1.0 / tl.sqrt((tl.sum(even * even, 1) + tl.sum(odd * odd, 1)) / WIDE + eps)[:, None]
    return token, column, where, inside, even * inverse, odd * inverse, inverse


@triton.jit
def _normed_rotated(  # type: ignore[no-untyped-def]
    x, weight, cosines, sines, out, heads, eps, HEADS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    token, column, where, inside, even, odd, _ = _heads_of(x, heads, eps, HEADS, WIDE)
    w_even, w_odd = _table_row(weight, 0, column, WIDE)
    even, odd = even * w_even, odd * w_odd
    c_even, c_odd = _table_row(cosines, token, column, WIDE)
    s_even, s_odd = _table_row(sines, token, column, WIDE)
    turned = tl.join(even * c_even - odd * s_even, odd * c_odd + even * s_odd)
    tl.store(out + where, tl.reshape(turned, (HEADS, WIDE)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _normed_rotated_gradient(  # type: ignore[no-untyped-def]
    grad, x, weight, cosines, sines, out, heads, eps, HEADS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    token, column, where, inside, even, odd, inverse = _heads_of(x, heads, eps, HEADS, WIDE)
    w_even, w_odd = _table_row(weight, 0, column, WIDE)
    c_even, c_odd = _table_row(cosines, token, column, WIDE)
    s_even, s_odd = _table_row(sines, token, column, WIDE)
    g_even, g_odd = _pairs(grad, where, inside, HEADS, WIDE)
    u_even = (g_even * c_even + g_odd * s_odd) * w_even
    u_odd = (g_odd * c_odd - g_even * s_even) * w_odd
    along = ((tl.sum(u_even * even, 1) + tl.sum(u_odd * odd, 1)) / WIDE)[:, None]
    of_x = tl.join((u_even - even * along) * inverse, (u_odd - odd * along) * inverse)
    tl.store(out + where, tl.reshape(of_x, (HEADS, WIDE)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_beside(attended, mlp, out, narrow, wide, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    token, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first, inside = column < narrow, column < narrow + wide
    copied = tl.load(attended + token * narrow + column, mask=first, other=0.0).to(tl.float32)
    place = tl.where(first, wide, column - narrow)
    x = tl.load(mlp + token * wide + place, mask=place < wide, other=0.0).to(tl.float32)
    # tanh(z) = 2 sigmoid(2 z) - 1
    value = tl.where(first, copied, x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x)))
    tl.store(out + token * (narrow + wide) + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_gradient(grad, mlp, out, narrow, wide, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    token, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < wide
    told = tl.load(grad + token * (narrow + wide) + narrow + column, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(mlp + token * wide + column, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    steep = x * share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    tl.store(out + token * wide + column, (told * (share + steep)).to(out.dtype.element_ty), mask=inside)


def _on_its_card(launch: Callable[Given, Result]) -> Callable[Given, Result]:
    """Triton launches on the current card, whichever the tensors are on; the last argument that is one says it."""

    @functools.wraps(launch)
    def launched(*given: Given.args, **named: Given.kwargs) -> Result:
        device = next(x.device for x in reversed(given) if isinstance(x, Tensor))
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return launch(*given, **named)
        with torch.cuda.device(device):
            return launch(*given, **named)

    return launched


@_on_its_card
def modulated_norm(x: Tensor, scale: Pair, shift: Pair, number: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) (1 + scale) + shift, a row of both for each token. x: [S, d]."""
    out = torch.empty_like(x)
    _modulated_norm[(len(x),)](
        x, *scale, *shift, number, out, x.shape[1], len(scale[0]), *_strides(scale), *_strides(shift), eps,
        **_whole(x.shape[1]),
    )  # fmt: skip
    return out


@_on_its_card
def modulated_norm_gradient(grad: Tensor, x: Tensor, scale: Pair, number: Tensor, eps: float) -> Tensor:
    """Of x."""
    out = torch.empty_like(x)
    _modulated_norm_gradient[(len(x),)](
        grad, x, *scale, number, out, x.shape[1], len(scale[0]), *_strides(scale), eps, **_whole(x.shape[1])
    )
    return out


@_on_its_card
def gated(residual: Tensor | None, gate: Pair, x: Tensor, number: Tensor, out: Tensor | None = None) -> Tensor:
    """residual + gate x, a row for each token; without a residual the product. x: [S, d]; out may be x itself."""
    out = torch.empty_like(x) if out is None else out
    _gated[(len(x),)](
        x if residual is None else residual, *gate, x, number, out, x.shape[1], len(gate[0]), *_strides(gate),
        ADD=residual is not None, **_whole(x.shape[1]),
    )  # fmt: skip
    return out


@_on_its_card
def normed_rotated(x: Tensor, weight: Tensor, rope: Pair, eps: float, out: Tensor) -> None:
    """RMSNorm of each head, then RoPE, into out. x, out: [S, heads, head_dim]. rope: cos, sin [S, head_dim] float32."""
    tokens, heads, wide = x.shape
    _normed_rotated[(tokens, -(-heads // HEADS))](
        x, weight, *rope, out, heads, eps, HEADS=HEADS, WIDE=wide, num_warps=4
    )  # fmt: skip


@_on_its_card
def normed_rotated_gradient(grad: Tensor, x: Tensor, weight: Tensor, rope: Pair, eps: float) -> Tensor:
    """Of x."""
    out, (tokens, heads, wide) = torch.empty_like(x), x.shape
    _normed_rotated_gradient[(tokens, -(-heads // HEADS))](
        grad, x, weight, *rope, out, heads, eps, HEADS=HEADS, WIDE=wide, num_warps=4
    )
    return out


@_on_its_card
def gelu_beside(attended: Tensor, mlp: Tensor) -> Tensor:
    """[attended | GELU(mlp)], the tanh form. attended: [S, d], mlp: [S, w]. Returns [S, d + w]."""
    narrow, wide = attended.shape[1], mlp.shape[1]
    out = mlp.new_empty(len(mlp), narrow + wide)
    _gelu_beside[(len(mlp), -(-(narrow + wide) // COLUMNS))](attended, mlp, out, narrow, wide, BLOCK=COLUMNS)
    return out


@_on_its_card
def gelu_gradient(grad: Tensor, mlp: Tensor) -> Tensor:
    """Of mlp. grad: of what `gelu_beside` gave."""
    out, wide = torch.empty_like(mlp), mlp.shape[1]
    _gelu_gradient[(len(mlp), -(-wide // COLUMNS))](grad, mlp, out, grad.shape[1] - wide, wide, BLOCK=COLUMNS)
    return out


def _whole(dim: int) -> dict[str, Any]:
    block = triton.next_power_of_2(dim)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}


def _strides(rows: Pair) -> tuple[int, int]:
    return rows[0].stride(0), rows[1].stride(0)
