"""Weights that live in main memory and visit the device, a group at a time; leaving costs no copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Visitors:
    """Named groups of weights of which at most one is on the device; what is called for stays until another is.

    The weights in main memory are never changed by a visit: leaving drops the device's copy. groups: name -> its
    tensors, asked anew at every visit, so that an adapter loaded later comes along.
    """

    def __init__(self, device: torch.device, groups: dict[str, Callable[[], Iterable[Tensor]]]) -> None:
        self.device, self._groups = device, groups
        self._here: str | None = None
        self._homes: list[tuple[Tensor, Tensor]] = []

    def call(self, name: str) -> None:
        """Bring a group; whoever else is there leaves first."""
        if name == self._here or name not in self._groups:
            return
        self.leave()
        self._here, self._homes = name, _bring(self._groups[name](), self.device)

    def leave(self) -> None:
        """Empty the device."""
        _send_home(self._homes)
        self._here, self._homes = None, []
        _release(self.device)

    @contextmanager
    def briefly(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """A few modules beside the group that is there."""
        homes = _bring(tensors_of(*modules), self.device)
        try:
            yield
        finally:
            _send_home(homes)


def tensors_of(*modules: nn.Module | None) -> list[Tensor]:
    """Parameters and buffers, shared ones once."""
    found = [t for module in modules if module is not None for t in (*module.parameters(), *module.buffers())]
    return list({id(tensor): tensor for tensor in found}.values())


def _bring(tensors: Iterable[Tensor], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """(tensor, its data at home) of each. Where one does not find room, all are at home again."""
    homes = [(tensor, tensor.data) for tensor in tensors]
    try:
        for tensor, home in homes:
            tensor.data = home.to(device, copy=True)
    except BaseException:
        _send_home(homes)
        raise
    return homes


def _send_home(homes: Sequence[tuple[Tensor, Tensor]]) -> None:
    for tensor, home in homes:
        tensor.data = home


def _release(device: torch.device) -> None:
    """Give freed blocks back: the next group's are of other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
