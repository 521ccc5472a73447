"""Which of torch's flash kernels the merged form uses: they are private, so on CUDA none is trusted unseen.

The fastest set that gives Eq. 19 and its gradients on a small example, in this process and on this card, is taken.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from anyphoto_cli.model.flash_kernels import Cudnn, Flash, FlashAtOnce, Kernels
from anyphoto_cli.model.isolation_mask import isolation_mask
from anyphoto_cli.model.joined_parts import join, unjoin


def kernels_of(q: Tensor) -> Kernels:
    """Those for a tensor. Raises NotImplementedError on a CUDA device where none passes the trial."""
    if q.device.type == "cpu":
        return Kernels()
    if q.device.type != "cuda":
        return Flash()
    found = cuda_kernels(q.device, q.dtype, q.shape[-1])
    if found is None:
        raise NotImplementedError(f"no flash kernel of this torch joins parts of {q.dtype} on {q.device}")
    return found


@functools.cache
@torch.inference_mode(False)
def cuda_kernels(device: torch.device, dtype: torch.dtype, head_dim: int) -> Kernels | None:
    """The fastest set that passes `joins` on this card; None without any, as for float32."""
    if dtype not in (torch.float16, torch.bfloat16):
        return None
    wanted: list[Kernels] = [FlashAtOnce(), Flash()]
    if torch.backends.cuda.cudnn_sdp_enabled() and torch.cuda.get_device_capability(device) >= (9, 0):
        wanted.insert(0, Cudnn())
    return next((kernels for kernels in wanted if joins(kernels, device, dtype, head_dim)), None)


def joins(kernels: Kernels, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether outputs and gradients of the merged form are those of a dense mask in float32, up to rounding.

    Tried with few tokens and with more than a kernel's tile, in the model's strides and contiguous.
    """
    trials = (((24, 9, 40), 56, True), ((100, 37), 300, True), ((100, 37), 300, False))
    try:
        return all(max(errors(kernels, device, dtype, head_dim, *trial)) <= MOST_OFF for trial in trials)
    except torch.OutOfMemoryError:  # a full card says nothing of a kernel, and what is said here is remembered
        raise
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return False


MOST_OFF = 0.01
"""Of the norm: bfloat16 was off by .003 on an H200, a wrong join by .1 and more."""


def errors(
    kernels: Kernels, device: torch.device, dtype: torch.dtype, head_dim: int, lengths: tuple[int, ...], shared: int,
    as_in_the_model: bool,
) -> list[float]:  # fmt: skip
    """Of the output and the gradients of q, k, v, over their norms; infinite where one is not a number.

    as_in_the_model: [b, S, heads, head_dim] seen as [b, heads, S, head_dim]; else contiguous.
    """
    b, heads, generator = 2, 4, torch.Generator().manual_seed(0)
    drawn = [
        torch.randn(b, shared + sum(lengths), heads, head_dim, generator=generator).to(device, dtype).transpose(1, 2)
        for _ in range(4)
    ]
    q, k, v, w = drawn if as_in_the_model else [x.contiguous() for x in drawn]
    with torch.no_grad():
        out, lse = join(kernels, q, k, v, lengths)
        found = (out, *unjoin(kernels, w, q, k, v, out, lse, lengths))
    mask = isolation_mask(shared, lengths, device, torch.float32)
    with torch.enable_grad():
        exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
        true = F.scaled_dot_product_attention(exact[0], exact[1], exact[2], attn_mask=mask)
        wanted = (true.detach(), *torch.autograd.grad((true * w.float()).sum(), exact))
    off = [float((x.float() - y).norm() / y.norm()) for x, y in zip(found, wanted, strict=True)]
    return [one if one == one else float("inf") for one in off]
