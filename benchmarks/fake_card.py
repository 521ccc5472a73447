"""The product's own code on a card that is not there, at full size: its tensors have sizes and no numbers.

What torch's FakeTensorMode refuses a card would refuse: tensors of two devices in one operation. Beside that a `Card`
counts the bytes that live on it, and can refuse whatever would have the host wait for it. `no_card.summon` comes first.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anyphoto_cli.model import fused_kernels, isolated_attention, kernel_trial, transformer
from anyphoto_cli.model.flash_kernels import Cudnn

PIECE = 512
"""torch gives memory out in pieces of so many bytes."""


class HostWaits(RuntimeError):
    """The host would wait for the card."""


class Card(TorchDispatchMode):
    """now, most: bytes on the card. may_wait: whether the host may. host_has_numbers: whether main memory's new tensors
    are real ones. kind: torch's name of the device.
    """

    kind = "cuda"

    def __init__(self, fakes: FakeTensorMode) -> None:
        super().__init__()
        self._fakes = fakes
        self.now = self.most = 0
        self.host_has_numbers = self.may_wait = True
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pinned: weakref.WeakSet[Any] = weakref.WeakSet()

    def begin(self) -> None:
        """Forget what it took to come here."""
        gc.collect()
        self.most = self.now

    def without_numbers(self) -> AbstractContextManager[Any]:
        """Within, what is made in main memory has no numbers either: models of full size."""
        return mock.patch.object(self, "host_has_numbers", False)

    def no_waiting(self) -> AbstractContextManager[Any]:
        """Within, `HostWaits` is raised for numbers that the host reads, and for copies from ordinary memory."""
        return mock.patch.object(self, "may_wait", False)

    def take_numbers(self, *modules: nn.Module) -> None:
        """Of weights that were read from files: what has numbers cannot become what has none."""
        for part in (part for module in modules for part in module.modules()):
            for name, parameter in part.named_parameters(recurse=False):
                part.register_parameter(name, nn.Parameter(self._fakes.from_tensor(parameter.data), False))
            for name, buffer in part.named_buffers(recurse=False):
                part.register_buffer(name, self._fakes.from_tensor(buffer))

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named, name = named or {}, function.overloadpacket.__name__
        if name == "_pin_memory":
            out = given[0].clone()
            self._pinned.add(out.untyped_storage())
            return out
        if self.host_has_numbers and self._of_the_host(given, named):
            with unset_fake_temporarily():
                return function(*given, **named)
        if not self.may_wait:
            self._refuse_waiting(name, given, named)
        if name == "_local_scalar_dense":
            return 1.0 if given[0].is_floating_point() else 1  # some number
        if name == "equal":
            return False
        out = function(*given, **named)
        for tensor in tree_leaves(out):
            if isinstance(tensor, FakeTensor) and tensor.device.type == self.kind:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        size = -(-storage.nbytes() // PIECE) * PIECE
        self._known.add(storage)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._let_go, size)

    def _let_go(self, size: int) -> None:
        self.now -= size

    def _refuse_waiting(self, name: str, given: Any, named: Any) -> None:
        if name in ("_local_scalar_dense", "equal"):
            raise HostWaits("for a number of the card")
        if name == "copy_":
            source, onto = given[1], given[0].device
        elif name == "_to_copy":
            source, onto = given[0], torch.device(named.get("device") or given[0].device)
        else:
            return
        ways = source.device.type, onto.type
        if ways == (self.kind, "cpu"):
            raise HostWaits(f"for {tuple(source.shape)} of the card")
        if ways == ("cpu", self.kind) and source.untyped_storage() not in self._pinned:
            raise HostWaits(f"until {tuple(source.shape)} in ordinary memory is copied")

    def _of_the_host(self, given: Any, named: Any) -> bool:
        onto = named.get("device")
        if onto is not None and torch.device(onto).type == self.kind:
            return False
        return not any(isinstance(one, FakeTensor) for one in tree_leaves((given, named)))


@contextmanager
def card() -> Iterator[Card]:
    """Within, "cuda" is a device, with the fused kernels and the attention that a Hopper card would have."""
    patched: list[tuple[Any, str, Any]] = [
        *MOVING,
        (F, "scaled_dot_product_attention", _attention),
        (kernel_trial, "cuda_kernels", lambda *_: Cudnn()), (isolated_attention, "cuda_kernels", lambda *_: Cudnn()),
        (transformer, "usable", lambda *_: True),
        (torch.cuda, "Stream", mock.MagicMock()), (torch.cuda, "current_stream", mock.MagicMock()),
        (torch.cuda, "stream", lambda *_: nullcontext()),
        *((fused_kernels, name, stand_in) for name, stand_in in KERNELS.items()),
    ]  # fmt: skip
    with ExitStack() as stack:
        for whose, name, stand_in in patched:
            stack.enter_context(mock.patch.object(whose, name, stand_in, create=whose is FakeTensor))
        fakes = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Card(fakes))


def _get_data(tensor: Any) -> Any:
    return torch.Tensor.data.__get__(tensor)  # type: ignore[attr-defined]


def _set_data(tensor: Any, value: Any) -> None:
    torch.Tensor.data.__set__(tensor, value)  # type: ignore[attr-defined]
    tensor.fake_device = value.fake_device


MOVING = [
    # Assigned data brings its device along, as with real tensors; fakes keep theirs in a field of their own.
    (FakeTensor, "data", property(_get_data, _set_data)),
    # Modules that move swap fakes, which a weak reference forbids.
    (torch.utils, "swap_tensors", _set_data),
]
"""What moves with fakes otherwise than with tensors."""


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """The kernel that torch takes on a Hopper card; left to itself, it would keep all weights of attention."""
    if q.device.type != "cuda":
        return torch._C._nn.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if attn_mask is None and q.shape[-1] <= 128 and q.dtype in (torch.float16, torch.bfloat16):
        return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, learns, 0.0, is_causal, scale=scale)[0]
    mask = None if attn_mask is None else attn_mask.expand(*q.shape[:-1], k.shape[-2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(q, k, v, mask, learns, 0.0, is_causal, scale=scale)[0]


def _like_the_first(first: Tensor, *_: Any) -> Tensor:
    return first.new_empty(first.shape)


def _gated(residual: Tensor | None, gate: Any, x: Tensor, number: Tensor, out: Tensor | None = None) -> Tensor:
    return _like_the_first(x) if out is None else out


def _gelu_beside(attended: Tensor, mlp: Tensor) -> Tensor:
    return mlp.new_empty(len(mlp), attended.shape[1] + mlp.shape[1])


KERNELS = {
    "modulated_norm": _like_the_first, "modulated_norm_gradient": _like_the_first, "gated": _gated,
    "normed_rotated": lambda *_: None, "normed_rotated_gradient": _like_the_first, "gelu_beside": _gelu_beside,
    "gelu_gradient": lambda grad, mlp: _like_the_first(mlp),
}  # fmt: skip
"""What `model.fused_kernels` gives, without numbers: Triton would launch."""
