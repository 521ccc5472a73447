"""Fused kernels where they can be used, with their gradients: the same numbers as the blocks' own operations, up to
rounding, in a fraction of the launches and of the bytes.

Only with location tokens, whose model rounds differently from stock FLUX anyway: without them every number stays stock
FLUX's own.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.model.identity_modulation import Rows
from anyphoto_cli.model.location_lora import is_called_by_hooks
from anyphoto_cli.model.token_pruning import IMAGE, JOINT, Spans
from anyphoto_cli.runtime.uploads import upload

Rope = tuple[Tensor, Tensor]


@functools.cache
@torch.inference_mode(False)
def usable(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, gradients: bool) -> bool:
    """Whether they give on this card what torch's operations give, gradients too where some are wanted; tried once,
    in the model's width, for which they are compiled. On CUDA, in half precision.
    """
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or head_dim & (head_dim - 1):
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        worst = max(errors(device, dtype, heads, head_dim, gradients))
    except torch.OutOfMemoryError:  # a full card says nothing of a kernel, and what is said here is remembered
        raise
    except Exception as error:  # a compiler may fail in any way; then the blocks' own operations do it
        warnings.warn(f"fused kernels are not used: {type(error).__name__}: {str(error)[:200]}", stacklevel=2)
        return False
    if not worst <= MOST_OFF:
        warnings.warn(f"fused kernels are not used: off by {worst:.3g} of the norm on this card", stacklevel=2)
    return worst <= MOST_OFF


MOST_OFF = 0.01
"""Of the norm; one rounding to bfloat16 is .002."""


def errors(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, gradients: bool = True) -> list[float]:
    """Of each function, and each of its gradients, against torch's operations in float32, over the norm."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    spans, eps, dim, tokens = Spans.of_lengths(1, 5, 9, ((4, 3),)), 1e-6, heads * head_dim, 21
    rows, x, y = (drawn(1, 3 * dim), drawn(2, 3 * dim)), drawn(tokens, dim), drawn(tokens, dim)
    wide = drawn(tokens, 4 * dim)
    weight, cos, sin = drawn(head_dim), drawn(tokens, head_dim).float(), drawn(tokens, head_dim).float()
    number, whose = row_numbers(spans, JOINT, device), owners(spans, device, dtype)

    def fused(x: Tensor, y: Tensor, wide: Tensor, base: Tensor, own: Tensor) -> list[Tensor]:
        (scale, own_scale), (shift, own_shift), (gate, own_gate) = zip(base.chunk(3, -1), own.chunk(3, -1), strict=True)
        return [
            _ModulatedNorm.apply(x, scale, shift, own_scale, own_shift, number, whose, eps),
            _Gated.apply(x, gate, own_gate, y, number, whose), _GeluBeside.apply(y, wide),
            _NormedRotated.apply(cos, sin, x.unflatten(-1, (heads, -1)), weight, eps),
        ]  # fmt: skip

    def plain(x: Tensor, y: Tensor, wide: Tensor, base: Tensor, own: Tensor) -> list[Tensor]:
        scale, shift, gate = torch.cat([base, own])[number.long()].chunk(3, -1)
        turned = F.rms_norm(x.unflatten(-1, (heads, -1)), (head_dim,), weight.float(), eps)
        across = torch.stack([-turned[..., 1::2], turned[..., 0::2]], -1).flatten(-2)
        return [
            F.layer_norm(x, (dim,), eps=eps) * (1 + scale) + shift, x + gate * y,
            torch.cat([y, F.gelu(wide, approximate="tanh")], -1), turned * cos[:, None] + across * sin[:, None],
        ]  # fmt: skip

    def outcome(form: Any, exact: bool) -> list[Tensor]:
        given = [one.detach().float() if exact else one.detach() for one in (x, y, wide, *rows)]
        with torch.set_grad_enabled(gradients):
            for one in (given[0], given[1], given[2], given[4]):  # given[3] is of a frozen base
                one.requires_grad_(gradients)
            out = form(*given)
            if not gradients:
                return [*out]
            loss = sum((o.float() * (1 + torch.arange(o.numel(), device=device).view_as(o) % 5)).sum() for o in out)
            wanted = [given[0], given[1], given[2], given[4]]
            return [*(o.detach() for o in out), *torch.autograd.grad(cast(Tensor, loss), wanted)]

    found, true = outcome(fused, False), outcome(plain, True)
    off = [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, true, strict=True)]
    return [one if one == one else float("inf") for one in off]


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must do for training, too
def _numbers(
    batch: int, text: int, noise: int, lengths: tuple[tuple[int, ...], ...], device: torch.device
) -> Tensor:  # fmt: skip
    return upload(Spans.of_lengths(batch, text, noise, lengths).row_numbers().int(), device)


def row_numbers(spans: Spans, stream: str, device: torch.device) -> Tensor:
    """Of a stream's tokens, int32. Kept: every block asks for them."""
    return _numbers(spans.batch, spans.text, spans.noise, spans.lengths, device)[spans.where(stream)]


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _owners(lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    own = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return upload((own == torch.arange(len(lengths))[:, None]).to(dtype), device)


def owners(spans: Spans, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[R, L] zeros and ones, whose product with location tokens adds up each identity's."""
    return _owners(tuple(spans.flat_lengths), device, dtype)


def fits(spans: Spans, *modules: Any) -> bool:
    """Whether a block's own modules may be read in place of called: none is brought by a hook."""
    return spans.fused and not any(is_called_by_hooks(module) for module in modules)


def modulated_norm(norm: nn.LayerNorm, x: Tensor, scale: Rows, shift: Rows, spans: Spans, stream: str) -> Tensor:
    """norm(x) (1 + γ) + β; arguments as in `identity_modulation.modulate`, but x before its norm."""
    if scale.y.requires_grad or shift.y.requires_grad:
        raise ValueError("fused kernels give no gradient to the base's modulation: set `fused` to False")
    told = row_numbers(spans, stream, x.device), _whose(spans, stream, x)
    return cast(Tensor, _ModulatedNorm.apply(x, scale.y, shift.y, scale.own, shift.own, *told, norm.eps))


def gated(residual: Tensor, gate: Rows, x: Tensor, spans: Spans, stream: str) -> Tensor:
    """As `identity_modulation.gated`; x is overwritten where no gradient is asked for."""
    number = row_numbers(spans, stream, x.device)
    if not torch.is_grad_enabled():
        from anyphoto_cli.model import fused_kernels

        dense = x.is_contiguous()
        return fused_kernels.gated(residual.contiguous(), gate, x.contiguous(), number, out=x if dense else None)
    return cast(Tensor, _Gated.apply(residual, gate.y, gate.own, x, number, _whose(spans, stream, x)))


def normed_rotated(parts: Sequence[tuple[nn.RMSNorm, Tensor]], rope: Rope) -> Tensor:
    """Each part's heads by its own norm, one after another, then RoPE. parts: (norm, [n, heads, head_dim])."""
    told = [given for norm, x in parts for given in (x, norm.weight, norm.eps)]
    return cast(Tensor, _NormedRotated.apply(*rope, *told))


def gelu_beside(attended: Tensor, mlp: Tensor) -> Tensor:
    """[attended | GELU(mlp)]. attended: [S, d], mlp: [S, w]."""
    return cast(Tensor, _GeluBeside.apply(attended, mlp))


def _whose(spans: Spans, stream: str, x: Tensor) -> Tensor | None:
    """None where the stream has no location tokens."""
    return owners(spans, x.device, x.dtype) if stream in (IMAGE, JOINT) and torch.is_grad_enabled() else None


class _ModulatedNorm(torch.autograd.Function):
    """x: [S, d]. scale, shift: [B, d] without gradient, own_scale, own_shift: [R, d]. number, whose: of the tokens."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, own_scale: Tensor, own_shift: Tensor, number: Tensor,
        whose: Tensor | None, eps: float,
    ) -> Tensor:  # fmt: skip
        from anyphoto_cli.model import fused_kernels

        x = x.contiguous()
        ctx.save_for_backward(x, scale, own_scale, number, whose)
        ctx.eps = eps
        return fused_kernels.modulated_norm(x, (scale, own_scale), (shift, own_shift), number, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from anyphoto_cli.model import fused_kernels

        x, scale, own_scale, number, whose = ctx.saved_tensors
        grad = grads[0].contiguous()
        of_x = of_scale = of_shift = None
        if ctx.needs_input_grad[0]:
            of_x = fused_kernels.modulated_norm_gradient(grad, x, (scale, own_scale), number, ctx.eps)
        if whose is not None and ctx.needs_input_grad[3]:
            located = grad[-whose.shape[1] :]
            normed = F.layer_norm(x[-whose.shape[1] :], x.shape[1:], eps=ctx.eps)
            of_scale, of_shift = whose @ normed.mul_(located), whose @ located
        return of_x, None, None, of_scale, of_shift, None, None, None


class _Gated(torch.autograd.Function):
    """residual, x: [S, d]. gate: [B, d] without gradient, own: [R, d]."""

    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, gate: Tensor, own: Tensor, x: Tensor, number: Tensor, whose: Tensor | None
    ) -> Tensor:  # fmt: skip
        from anyphoto_cli.model import fused_kernels

        # A slice would keep all of x alive for the backward pass.
        located = None if whose is None else x[-whose.shape[1] :].clone()
        ctx.save_for_backward(gate, own, number, whose, located)
        return fused_kernels.gated(residual.contiguous(), (gate, own), x.contiguous(), number)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from anyphoto_cli.model import fused_kernels

        gate, own, number, whose, located = ctx.saved_tensors
        grad = grads[0].contiguous()
        of_own = whose @ (grad[-whose.shape[1] :] * located) if whose is not None and ctx.needs_input_grad[2] else None
        of_x = fused_kernels.gated(None, (gate, own), grad, number) if ctx.needs_input_grad[3] else None
        return grad, None, of_own, of_x, None, None


class _NormedRotated(torch.autograd.Function):
    """cosines, sines: [S, head_dim]. told: of each part x [n, heads, head_dim], the norm's frozen weight, its eps."""

    @staticmethod
    def forward(ctx: Any, cosines: Tensor, sines: Tensor, *told: Any) -> Tensor:
        from anyphoto_cli.model import fused_kernels

        parts, weights = told[::3], told[1::3]
        ctx.eps = [_eps(eps, x) for eps, x in zip(told[2::3], parts, strict=True)]
        ctx.save_for_backward(cosines, sines, *parts, *weights)
        out: Tensor = parts[0].new_empty(len(cosines), *parts[0].shape[1:])
        first = 0
        for x, weight, eps in zip(parts, weights, ctx.eps, strict=True):
            rows = slice(first, first + len(x))
            fused_kernels.normed_rotated(x.contiguous(), weight, (cosines[rows], sines[rows]), eps, out[rows])
            first += len(x)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from anyphoto_cli.model import fused_kernels

        cosines, sines, *kept = ctx.saved_tensors
        count, grad, first = len(kept) // 2, grads[0].contiguous(), 0
        found: list[Tensor | None] = []
        for number, (x, weight, eps) in enumerate(zip(kept[:count], kept[count:], ctx.eps, strict=True)):
            rows, of_x = slice(first, first + len(x)), None
            if ctx.needs_input_grad[2 + 3 * number]:
                told = weight, (cosines[rows], sines[rows]), eps
                of_x = fused_kernels.normed_rotated_gradient(grad[rows], x.contiguous(), *told)
            found += [of_x, None, None]
            first += len(x)
        return None, None, *found


class _GeluBeside(torch.autograd.Function):
    """attended: [S, d]. mlp: [S, w]."""

    @staticmethod
    def forward(ctx: Any, attended: Tensor, mlp: Tensor) -> Tensor:
        from anyphoto_cli.model import fused_kernels

        mlp = mlp.contiguous()
        ctx.save_for_backward(mlp)
        return fused_kernels.gelu_beside(attended.contiguous(), mlp)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        from anyphoto_cli.model import fused_kernels

        [mlp], grad = ctx.saved_tensors, grads[0].contiguous()
        return grad[:, : grad.shape[1] - mlp.shape[1]], fused_kernels.gelu_gradient(grad, mlp)


def _eps(told: float | None, x: Tensor) -> float:
    """A norm without one takes the number format's."""
    return torch.finfo(x.dtype).eps if told is None else told
