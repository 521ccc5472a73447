"""Identity-isolated attention: identities never look at each other. Source: paper 3.4, Eq. 19.

Tokens stand in the order [T | X | E_1 .. E_N]. T and X are global: they attend to everything.
E_i attends to the global tokens and to itself, never to E_j.

A face may be given more or less weight than it learned (`LocationTokens.strengths`): where T and X look at it, the
exponential of each logit is multiplied by its strength, as OminiControl's condition scale does. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from anyphoto_cli.errors import InputError
from anyphoto_cli.model.isolation_mask import isolation_mask, keep_masks_of
from anyphoto_cli.model.kernel_trial import cuda_kernels
from anyphoto_cli.model.merged_attention import merged_attention
from anyphoto_cli.model.token_pruning import Spans

Kernel = Callable[[Tensor, Tensor, Tensor, Sequence[int], Tensor | None], Tensor]


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Eq. 19 as written, one dense mask: the reference for every faster form, and the fastest for few tokens on a CPU.

    q, k, v: [batch, heads, |T|+|X|+sum(lengths), head_dim], RoPE applied. bias: [batch, 1, 1, keys], added to the
    logits of global queries; None adds nothing. Returns the shape of q.
    """
    if bias is None and len(lengths) <= 1:
        return F.scaled_dot_product_attention(q, k, v)  # one identity has nobody to be kept from
    n_global = q.shape[-2] - sum(lengths)
    mask = isolation_mask(n_global, tuple(lengths), q.device, q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask if bias is None else _biased(mask, bias, n_global))


def _biased(mask: Tensor, bias: Tensor, n_global: int) -> Tensor:
    """[queries, keys] logits to add -> [batch, 1, queries, keys], with `bias` in the global rows."""
    rows = mask.expand(len(bias), 1, -1, -1).clone()
    rows[:, :, :n_global] += bias
    return rows


def split_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None
) -> Tensor:  # fmt: skip
    """The same without a mask, so that flash kernels apply: 1 + N dense calls.

    q, k, v, bias: as in `masked_attention`; with a bias the first call has a mask of one row. lengths: ints, no device
    sync.
    """
    if bias is None and len(lengths) <= 1:
        return F.scaled_dot_product_attention(q, k, v)
    n_global = q.shape[-2] - sum(lengths)
    q_global, *q_own = q.split([n_global, *lengths], -2)
    k_global, *k_own = k.split([n_global, *lengths], -2)
    v_global, *v_own = v.split([n_global, *lengths], -2)
    out = [F.scaled_dot_product_attention(q_global, k, v, attn_mask=bias)]
    for q_i, k_i, v_i in zip(q_own, k_own, v_own, strict=True):
        keys, values = torch.cat([k_global, k_i], -2), torch.cat([v_global, v_i], -2)
        out.append(F.scaled_dot_product_attention(q_i, keys, values))
    return torch.cat(out, -2)


def merged_or_split(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None
) -> Tensor:  # fmt: skip
    """The merged form; the split one where a bias would want a gradient, which the merged one has not."""
    if bias is not None and torch.is_grad_enabled():
        return split_attention(q, k, v, lengths, bias)
    return merged_attention(q, k, v, lengths, bias)


def open_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Everything sees everything: what Eq. 19 is compared with. Source: Table A, "all visible"."""
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v)
    everything = torch.zeros(q.shape[-2], k.shape[-2], dtype=bias.dtype, device=q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_biased(everything, bias, q.shape[-2] - sum(lengths)))


OPEN = "open"
KERNELS: dict[str, Kernel] = {
    "masked": masked_attention,
    "split": split_attention,
    "merged": merged_or_split,
    OPEN: open_attention,
}


MERGE_FROM = {"cpu": 1024, "cuda": 2560}
"""Tokens from which the merged form is the fastest; below, its many small calls cost more than the mask
(docs/performance/attention.md, attention_gpu.md).
"""


def choose_kernel(name: str, device: torch.device, tokens: int, dtype: torch.dtype, head_dim: int) -> str:
    """Resolve "auto" for so many tokens a sample: masked for few and merged for many, the fastest exact form as far as
    it was measured; on CUDA split where its flash kernels do not merge (float32); elsewhere masked.

    Raises ValueError for an unknown name, InputError for merged where no kernel does it.
    """
    if name == "auto":
        if tokens < MERGE_FROM.get(device.type, tokens + 1):
            return "masked"
        if device.type == "cuda" and cuda_kernels(device, dtype, head_dim) is None:
            return "split"
        return "merged"
    if name not in ATTENTIONS:
        raise ValueError(f"attention must be one of auto, {', '.join(ATTENTIONS)}; got {name!r}")
    if name == "merged" and device.type == "mps":
        raise InputError("an Apple GPU has no flash kernels", field="--attention", remedy="Use split, or auto")
    if name == "merged" and device.type == "cuda" and cuda_kernels(device, dtype, head_dim) is None:
        told = str(dtype).removeprefix("torch.")
        raise InputError(f"no flash kernel here joins {told}", field="--attention", remedy="Use split, or auto")
    return name


ATTENTIONS = tuple(name for name in KERNELS if name != OPEN)


def isolated_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    """Eq. 19 over the flat joint stream of a batch, whose samples may have different faces.

    q, k, v: [S, heads, head_dim], S = B|T| + B|X| + ΣL. Returns [S, heads, head_dim].
    """
    kernel = KERNELS[spans.attention]
    keep_masks_of(len(set(spans.lengths)))
    parts = (samples(q, spans), samples(k, spans), samples(v, spans), _group_lengths(spans), _biases(spans, k))
    groups = zip(*parts, strict=True)
    return flat([swap(kernel(swap(a), swap(b), swap(c), n, bias)) for a, b, c, n, bias in groups], spans)


def noise_attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans) -> Tensor:
    """The rows of `isolated_attention` that belong to noise tokens; they may see everything, so no mask but a bias.

    q: [B|X|, heads, head_dim] noise queries. k, v: [S, heads, head_dim]. Returns the shape of q.
    """
    queries = q.unflatten(0, (spans.batch, spans.noise)).split(spans.batch if spans.rectangular else 1)
    groups = zip(queries, samples(k, spans), samples(v, spans), _biases(spans, k), strict=True)
    out = [swap(F.scaled_dot_product_attention(swap(a), swap(b), swap(c), attn_mask=bias)) for a, b, c, bias in groups]
    return torch.cat(out).flatten(0, 1)


def _biases(spans: Spans, keys: Tensor) -> Sequence[Tensor | None]:
    """By group of samples: [b, 1, 1, S] logits to add, log strength over each face's keys; None where all are 1.

    keys: for their number format, which kernels want a mask to have.
    """
    if spans.bias is None:
        return [None] * len(_group_lengths(spans))
    rows = [bias.to(keys.dtype)[None, None, None] for bias in spans.bias]
    return [torch.cat(rows)] if spans.rectangular else rows


def _group_lengths(spans: Spans) -> Sequence[tuple[int, ...]]:
    return spans.lengths[:1] if spans.rectangular else spans.lengths


def samples(x: Tensor, spans: Spans) -> list[Tensor]:
    """The flat joint stream -> [b, S_b, heads, head_dim], one entry for equal samples, else one a sample."""
    if spans.rectangular:
        return [equal_samples(x, spans)]
    b, lengths = spans.batch, [sum(sample) for sample in spans.lengths]
    text, noise, located = x.split([b * spans.text, b * spans.noise, sum(lengths)])
    text, noise = text.unflatten(0, (b, spans.text)), noise.unflatten(0, (b, spans.noise))
    return [torch.cat(parts)[None] for parts in zip(text, noise, located.split(lengths), strict=True)]


def equal_samples(x: Tensor, spans: Spans) -> Tensor:
    """The same where all samples have as many location tokens: [B, S / B, heads, head_dim]."""
    b = spans.batch
    if b == 1:
        return x[None]
    kinds = zip(
        x.split([b * spans.text, b * spans.noise, spans.located]),
        (spans.text, spans.noise, spans.located // b),
        strict=True,
    )
    return torch.cat([kind.unflatten(0, (b, count)) for kind, count in kinds], 1)


def flat(parts: list[Tensor], spans: Spans) -> Tensor:
    """The way back."""
    if spans.batch == 1:
        return parts[0].squeeze(0)  # not [0], whose gradient is a tensor of zeros to copy into
    cut = [[*s.split([spans.text, spans.noise, s.shape[1] - spans.text - spans.noise], 1)] for s in parts]
    return torch.cat([part.flatten(0, 1) for kind in zip(*cut, strict=True) for part in kind])


def swap(x: Tensor) -> Tensor:
    """[b, S, heads, head_dim] <-> [b, heads, S, head_dim]."""
    return x.transpose(1, 2)
