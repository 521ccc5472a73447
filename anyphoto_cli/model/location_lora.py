"""LoRA on location tokens only. Source: paper A.1.

The modules are peft's own, so that saving, loading and quantised base layers work as everywhere; only the call is ours:
the base layer sees all tokens once, the adapter sees the tail. Other adapters (a style LoRA) act on all tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.config.method import MethodConfig

ADAPTER = "anyphoto"

_DOUBLE = r"transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
_SINGLE = r"single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|proj_out|attn\.to_[qkv])"
_FEED_FORWARD_IN = r"transformer_blocks\.\d+\.ff\.net\.0\.proj"


Weights = Mapping[nn.Module, tuple[Tensor, Tensor]]
"""A [r, d_in] and B [d_out, r] of adapted layers, in the number format of activations."""


def split_lora(
    layer: nn.Module, x: Tensor, tail: int, own: Tensor | None = None, weights: Weights | None = None
) -> Tensor:  # fmt: skip
    """layer(x), with the AnyPhoto adapter on the last `tail` rows alone.

    layer: a linear layer, adapted by peft or not. x: [S, d_in]. own: `kept_tail(x, tail)`, where several layers read
    one x; None: each layer keeps a copy of its own. weights: `cast_together` of the block's layers; None: each layer
    casts its own. Returns [S, d_out].
    Literal twin: the layer with and without its adapter, each on its own rows (tests/model/test_location_lora.py).
    """
    if not isinstance(layer, LoraLayer):
        return cast(Tensor, layer(x))
    if layer.merged:
        raise ValueError("an AnyPhoto model cannot run with merged LoRA weights: they would act on every token")
    adapted = not layer.disable_adapters and ADAPTER in layer.lora_A and tail > 0
    if adapted and torch.is_grad_enabled() and not torch.compiler.is_compiling() and _is_plain(layer, x):
        base, scale = cast(nn.Linear, layer.base_layer), float(layer.scaling[ADAPTER])
        down, up = (weights or {}).get(layer) or _masters(layer)
        own = kept_tail(x, tail) if own is None else own
        return cast(Tensor, _Adapted.apply(x, base.weight, base.bias, down, up, own, scale))
    if adapted and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        x, own = _Tail.apply(x, tail)
    else:
        own = last_rows(x, tail)
    out = cast(Tensor, layer.base_layer(x))
    if layer.disable_adapters:
        return out
    for name in layer.active_adapters:
        if name != ADAPTER and name in layer.lora_A:
            out = out + _delta(layer, name, x)
    if not adapted:
        return out
    if not torch.is_grad_enabled():
        return _added_in_place(out, layer, own)
    delta = _delta(layer, ADAPTER, own)
    if torch.compiler.is_compiling():  # the compiler plans memory itself
        shared, located = out.split([len(out) - tail, tail])
        return torch.cat([shared, located + delta])
    return cast(Tensor, _AddToTail.apply(out, delta))


def cast_together(layers: Iterable[nn.Module], dtype: torch.dtype) -> Weights | None:
    """A block's adapters in another format than their masters', by one call, and the masters' gradients by one: each
    layer by itself would make four, a seventh of all that a training step launches. The same numbers.

    None where no gradient is asked for, or nothing is to be cast.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    adapted = [layer for layer in layers if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_A]
    adapted = [layer for layer in adapted if type(layer.base_layer) is nn.Linear]
    masters = [weight for layer in adapted for weight in _masters(layer)]
    if not masters or any(weight.dtype in (dtype, torch.float64) for weight in masters):
        return None
    found = cast(tuple[Tensor, ...], _Cast.apply(dtype, *masters))
    return dict(zip(adapted, zip(found[::2], found[1::2], strict=True), strict=True))


def _masters(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


class _Cast(torch.autograd.Function):
    """float32 masters -> the same in another format, all by one call; their gradients back by one."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *masters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.masters = masters[0].dtype
        return tuple(_copied(masters, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found = iter(_copied([grad for grad in grads if grad is not None], ctx.masters))
        return None, *(None if grad is None else next(found) for grad in grads)


def _copied(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    fresh = [torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format) for tensor in tensors]
    if fresh:
        torch._foreach_copy_(fresh, list(tensors))
    return fresh


def _added_in_place(out: Tensor, layer: LoraLayer, own: Tensor) -> Tensor:
    """out + B A own · alpha / r in its last rows, where no gradient is asked for."""
    up = layer.lora_B[ADAPTER]
    # Asked first: torch 2.11's compiler breaks its graph where a module's own attributes are looked at.
    simple = not torch.compiler.is_compiling() and type(up) is nn.Linear and up.bias is None
    # One product that adds where three calls would: small ones, of which a card does hundreds in a step.
    if simple and up.weight.dtype == out.dtype and not (is_called_by_hooks(up) or ADAPTER in layer.lora_variant):
        down = _linear(layer.lora_A[ADAPTER], layer.lora_dropout[ADAPTER](own))
        last_rows(out, len(own)).addmm_(down, cast(Tensor, up.weight).T, alpha=float(layer.scaling[ADAPTER]))
    else:
        last_rows(out, len(own)).add_(_delta(layer, ADAPTER, own))
    return out


def last_rows(x: Tensor, count: int) -> Tensor:
    """x[-count:]; so written its length is `count` to a compiler, too, and no expression that it has to solve."""
    return x.narrow(0, len(x) - count, count)


def is_called_by_hooks(module: nn.Module) -> bool:
    """Whether offloading brings its weights when it is called, and only then."""
    return bool({"forward", "_diffusers_hook", "_hf_hook"} & vars(module).keys())


def kept_tail(x: Tensor, tail: int) -> Tensor | None:
    """A copy of the last rows for the backward pass of the adapter: a slice would keep all of x alive. None where
    there is none to come.
    """
    if not tail or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    return x[-tail:].detach().clone()


def _is_plain(layer: LoraLayer, x: Tensor) -> bool:
    """Whether `_Adapted` does it: a frozen linear layer in x's number format that nothing else hangs on."""
    base = layer.base_layer
    return (
        type(base) is nn.Linear
        and base.weight.dtype == x.dtype
        and not (base.weight.requires_grad or x.dim() != 2)
        and not is_called_by_hooks(base)
        and not any(name != ADAPTER and name in layer.lora_A for name in layer.active_adapters)
        and isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and ADAPTER not in layer.lora_variant
    )


class _Adapted(torch.autograd.Function):
    """W x + bias, and B A x · alpha / r on the last rows: one node for what are six, whose launches a card waits for.

    x: [S, d_in]. weight, bias: frozen. a: [r, d_in], b: [d_out, r], float32 masters or x's format; products are in x's.
    own: the last rows of x, without gradient: theirs goes to x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, own: Tensor, scale: float
    ) -> Tensor:  # fmt: skip
        a_now, b_now = a.to(x.dtype), b.to(x.dtype)
        down = own @ a_now.T
        out = F.linear(x, weight, bias)
        out[-len(own) :].addmm_(down, b_now.T, alpha=scale)
        ctx.save_for_backward(weight, own, down, a_now, b_now)
        ctx.scale, ctx.masters = scale, (a.dtype, b.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, own, down, a_now, b_now = ctx.saved_tensors
        [grad], (a_type, b_type) = grads, ctx.masters
        located = grad[-len(own) :]
        of_down = _times(located @ b_now, ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight
            of_x[-len(own) :].addmm_(of_down, a_now)
        of_b = _times((located.T @ down).to(b_type), ctx.scale)
        return of_x, None, None, (of_down.T @ own).to(a_type), of_b, None, None


def _times(fresh: Tensor, scale: float) -> Tensor:
    """In place; alpha is mostly the rank, and a product with 1 is a launch for nothing."""
    return fresh if scale == 1 else fresh.mul_(scale)


class _Tail(torch.autograd.Function):
    """x -> (x, a copy of its last rows): what the adapter needs without keeping all of x alive, and a backward pass
    that adds the adapter's gradient where it belongs instead of a whole tensor of zeros around it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, tail: int) -> tuple[Tensor, Tensor]:
        ctx.tail = tail
        return x.view_as(x), x[-tail:].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        whole, own = grads
        # In place: the only one who gets this gradient from the base layer is this function.
        whole[-ctx.tail :] += own
        return whole, None


class _AddToTail(torch.autograd.Function):
    """out + delta in its last rows, in place; both gradients are views. A linear layer never reads its output again."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, delta: Tensor) -> Tensor:
        ctx.tail = len(delta)
        out[-ctx.tail :] += delta
        ctx.mark_dirty(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        [grad] = grads
        return grad, grad[-ctx.tail :]


def _delta(layer: LoraLayer, name: str, x: Tensor) -> Tensor:
    """B A x · alpha / r, in x's number format: masters stay float32, products do not."""
    if name in layer.lora_variant:
        raise ValueError(f"the LoRA {name!r} is a variant (DoRA or the like), which cannot run beside AnyPhoto weights")
    down = _linear(layer.lora_A[name], layer.lora_dropout[name](x))
    return _linear(layer.lora_B[name], down) * float(layer.scaling[name])


def _linear(module: nn.Module, x: Tensor) -> Tensor:
    """module(x): called where it can be, since offloading hooks hang on calls; float32 masters are cast otherwise, or x
    where a call has to bring them.
    """
    weight, bias = cast(Tensor, module.weight), cast("Tensor | None", module.bias)
    if weight.dtype == x.dtype:
        return cast(Tensor, module(x))
    if not torch.compiler.is_compiling() and is_called_by_hooks(module):
        return cast(Tensor, module(x.to(weight.dtype))).to(x.dtype)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def location_lora_config(method: MethodConfig, single_blocks: int) -> LoraConfig:
    """peft's config for the modules of A.1, without the three whose output nobody reads.

    Of location tokens the last single block is asked for keys and values alone: LoRA on its query, MLP and output
    would never get a gradient. single_blocks: their number, 38 in FLUX.1.
    """
    wanted = [r"x_embedder", _DOUBLE, _SINGLE, *([_FEED_FORWARD_IN] if method.lora_feed_forward_in else [])]
    return LoraConfig(
        r=method.lora_rank,
        lora_alpha=method.alpha,
        init_lora_weights="gaussian",
        target_modules="|".join(wanted),
        exclude_modules=rf"single_transformer_blocks\.{single_blocks - 1}\.(attn\.to_q|proj_mlp|proj_out)",
    )


def add_location_lora(transformer: Any, method: MethodConfig) -> None:
    """Put a fresh adapter into a transformer: A gaussian, B zero, float32 masters whatever the base's number format.

    Adapters that are active already stay so: a style LoRA loaded first goes on working.
    """
    before = transformer.active_adapters() if getattr(transformer, "peft_config", None) else []
    transformer.add_adapter(location_lora_config(method, len(transformer.single_transformer_blocks)), ADAPTER)
    transformer.set_adapter([*before, ADAPTER])
    for parameter in lora_parameters(transformer).values():
        parameter.data = parameter.data.float()


def lora_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's own parameters by name."""
    return {name: p for name, p in transformer.named_parameters() if f".{ADAPTER}.weight" in name}
