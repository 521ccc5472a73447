"""Ranks: who they are, and what they do together. `torchrun` and `accelerate launch` say it through the environment.

Only the adapter is trained, so gradients are averaged by hand as one flat sum; the frozen base is never sent around.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anyphoto_cli.errors import EnvironmentFault


@dataclass(frozen=True)
class Ranks:
    """rank of this process among `world`; local: which of its machine's."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Who writes."""
        return self.rank == 0

    def any(self, said: bool) -> bool:
        """Whether any rank says so: what one does, all do."""
        return self.sum([float(said)])[0] > 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Over all ranks, in float64."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=_device())
        with _everybody():
            dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean over all ranks, in place. Who got no gradient counts as zero."""
        if self.world == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with _everybody():
            dist.all_reduce(flat)
        flat /= self.world
        parts: Sequence[Tensor] = flat.split([gradient.numel() for gradient in gradients])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            with _everybody():
                dist.barrier()


@contextmanager
def _everybody() -> Iterator[None]:
    """Raises EnvironmentFault where a rank is gone, or did not come within `timeout_s`."""
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's own kinds are RuntimeErrors
        remedy = "See what its own process said; the same command goes on from the last checkpoint"
        raise EnvironmentFault("another rank is gone, or came too late", field="timeout_s", remedy=remedy) from error


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


@contextmanager
def joined(device: str, timeout_s: float) -> Iterator[Ranks]:
    """The ranks of this launch; a process group for the time of the block where there are several."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=timeout_s))
    try:
        yield Ranks(rank, world, local)
    finally:
        if mine:
            dist.destroy_process_group()
