"""torch's flash kernels as the merged form wants them: they give the log-sum-exp, and take a joined one back.

They are private to torch: which set is used, `kernel_trial` sees.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

Part = tuple[Tensor, Tensor, Tensor]
_ATEN = torch.ops.aten


class Kernels:
    """The CPU's. q, k, v: [b, heads, n, head_dim]; lse: [b, heads, n], float32 or wider. None may be empty."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(softmax(q k') v, log-sum-exp of its rows)."""
        out, lse = _ATEN._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        return out, lse

    def gradients(self, grad: Tensor, part: Part, out: Tensor, lse: Tensor) -> Part:
        """Of one part's q, k, v, with `out` and `lse` of the whole softmax."""
        found: Part = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward(grad, *part, out, lse, 0.0, False)
        return found

    def attend_each(self, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The same of each identity's own tokens, which lie one after another in q, k, v."""
        cuts = (x.split([*lengths], -2) for x in (q, k, v))
        parts = [self.attend(*part) for part in zip(*cuts, strict=True)]
        return torch.cat([out for out, _ in parts], -2), torch.cat([lse for _, lse in parts], -1)

    def gradients_each(self, grad: Tensor, part: Part, out: Tensor, lse: Tensor, lengths: Sequence[int]) -> Part:
        """As `gradients`."""
        cuts = [x.split([*lengths], -2) for x in (grad, *part, out)]
        parts = [
            self.gradients(g, (q, k, v), o, row)
            for g, q, k, v, o, row in zip(*cuts, lse.split([*lengths], -1), strict=True)
        ]
        dq, dk, dv = (torch.cat(list(pieces), -2) for pieces in zip(*parts, strict=True))
        return dq, dk, dv


class Flash(Kernels):
    """FlashAttention, on CUDA and on the meta device."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As above."""
        out, lse = _ATEN._scaled_dot_product_flash_attention(q, k, v)[:2]
        return out, lse

    def gradients(self, grad: Tensor, part: Part, out: Tensor, lse: Tensor) -> Part:
        """As above."""
        longest = part[0].shape[-2], part[1].shape[-2]
        backward = _ATEN._scaled_dot_product_flash_attention_backward
        found: Part = backward(
            grad, *part, out, lse.contiguous(), None, None, *longest, 0.0, False, *_unused(grad.device)
        )[:3]
        return found


class FlashAtOnce(Flash):
    """One call for all identities, however long each is."""

    def attend_each(self, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As above."""
        ends, longest = _ends(tuple(lengths), len(q), q.device), max(lengths)
        out, lse = _ATEN._flash_attention_forward(
            _rows(q), _rows(k), _rows(v), ends, ends, longest, longest, 0.0, False, False
        )[:2]
        return _samples(out, len(q)), lse.unflatten(1, (len(q), -1)).transpose(0, 1)

    def gradients_each(self, grad: Tensor, part: Part, out: Tensor, lse: Tensor, lengths: Sequence[int]) -> Part:
        """As above."""
        b, ends, longest = len(grad), _ends(tuple(lengths), len(grad), grad.device), max(lengths)
        found = _ATEN._flash_attention_backward(
            _rows(grad), *map(_rows, part), _rows(out), lse.transpose(0, 1).flatten(1).contiguous(), ends, ends,
            longest, longest, 0.0, False, *_unused(grad.device),
        )[:3]  # fmt: skip
        dq, dk, dv = (_samples(x, b) for x in found)
        return dq, dk, dv


class Cudnn(FlashAtOnce):
    """cuDNN's forward pass for the large parts: half as fast again as FlashAttention 2 on a Hopper card.

    The backward pass stays FlashAttention's. torch keeps cuDNN's plans by the sizes and strides of q, k and v; the plan
    of a backward pass also holds the strides of the gradient that it was first made for, and reads the next one by
    them: after plain attention on the same parts, gradients were wrong on an H200.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As above."""
        out, lse = _ATEN._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        return out, lse.squeeze(-1)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must do for training, too
def _ends(lengths: tuple[int, ...], batch: int, device: torch.device) -> Tensor:
    """[batch * N + 1] int32: where each identity's tokens end. Kept: a copy from the host would wait for the GPU."""
    return torch.tensor([0, *itertools.accumulate(lengths * batch)], dtype=torch.int32, device=device)


@functools.cache
@torch.inference_mode(False)
def _unused(device: torch.device) -> tuple[Tensor, Tensor]:
    """Without dropout nothing is drawn: the random state is never read."""
    return torch.empty(2, dtype=torch.uint64, device=device), torch.empty((), dtype=torch.uint64)


def _rows(x: Tensor) -> Tensor:
    """[b, heads, L, head_dim] -> [b L, heads, head_dim]."""
    return x.transpose(1, 2).flatten(0, 1)


def _samples(x: Tensor, batch: int) -> Tensor:
    """The way back."""
    found: Tensor = x.unflatten(0, (batch, -1)).transpose(1, 2)
    return found
