"""Ranks: who they are, and what they do together. `torchrun` and `accelerate launch` say it through the environment.

Only the adapter is trained, so its gradients are averaged by hand; the frozen base is never sent around.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anyphoto_cli.errors import EnvironmentFault, InputError

T = TypeVar("T")


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
        """The mean over all ranks, in place, in one piece when all gradients are there; `Averager`'s literal twin."""
        if self.world == 1:
            return
        flat = _flat(parameters)
        with _everybody():
            dist.all_reduce(flat)
        _give_back(flat, parameters, self.world)

    def gather(self, value: T) -> list[T]:
        """Everybody's, in the order of the ranks; what pickle takes. Nobody has it before all are here."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        with _everybody():
            dist.all_gather_object(gathered, value)
        return gathered

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            with _everybody():
                dist.barrier()


class Averager:
    """The mean of gradients over all ranks, sent while the backward pass still goes on.

    parameters: in the order of the forward pass. They are cut into buckets from the end, where the backward pass
    begins, and each is sent as soon as its last gradient is there and all before it are sent: every rank sends the same
    in the same order, whatever its faces. Who got no gradient counts as zero.
    """

    BUCKET = 2**23
    """Numbers: 34 MB in float32, about what a network likes at once."""

    def __init__(self, ranks: Ranks, parameters: Sequence[nn.Parameter]) -> None:
        self._ranks, self._buckets = ranks, list(_buckets(list(parameters)[::-1], self.BUCKET))
        self._sent: list[tuple[Tensor, Any]] = []
        self._missing: list[int] = []
        self._armed = False
        if ranks.world > 1:
            for number, bucket in enumerate(self._buckets):
                for parameter in bucket:
                    parameter.register_post_accumulate_grad_hook(lambda _, number=number: self._arrived(number))

    @contextmanager
    def during(self, last: bool) -> Iterator[None]:
        """Around a backward pass; last: of the micro-steps, whose gradients are the sums to be sent."""
        self._armed = last and self._ranks.world > 1
        self._missing = [len(bucket) for bucket in self._buckets]
        self._sent = []
        yield
        self._armed = False

    def finish(self) -> None:
        """Send what is left, and wait for all. Raises EnvironmentFault where a rank is gone."""
        if self._ranks.world == 1:
            return
        while len(self._sent) < len(self._buckets):
            self._send()
        for (flat, work), bucket in zip(self._sent, self._buckets, strict=True):
            with _everybody():
                work.wait()
            _give_back(flat, bucket, self._ranks.world)
        self._sent = []

    def _arrived(self, number: int) -> None:
        if not self._armed:
            return
        self._missing[number] -= 1
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        flat = _flat(self._buckets[len(self._sent)])
        with _everybody():
            self._sent.append((flat, dist.all_reduce(flat, async_op=True)))


def _buckets(parameters: Sequence[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(p.numel() for p in bucket) >= size:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def _give_back(flat: Tensor, parameters: Sequence[nn.Parameter], world: int) -> None:
    flat /= world
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


@contextmanager
def _everybody() -> Iterator[None]:
    """Raises EnvironmentFault where a rank is gone, or did not come within `timeout_s`. Around nothing but waiting for
    the others: memory that runs out is a RuntimeError, too.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo's and NCCL's own kinds are RuntimeErrors
        remedy = "See what its own process said; the same command goes on from the last checkpoint"
        raise EnvironmentFault("another rank is gone, or came too late", field="timeout_s", remedy=remedy) from error


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


_NO_CARD = -1
"""As `torch.cuda.device` has it."""


def _card(device: str) -> int:
    """1 of cuda:1; _NO_CARD where no card is named. One that is not there is refused by `training_device`."""
    kind, _, number = device.partition(":")
    return int(number) if kind == "cuda" and number.isdecimal() else _NO_CARD


@contextmanager
def joined(device: str, timeout_s: float) -> Iterator[Ranks]:
    """The ranks of this launch; a process group for the time of the block where there are several.

    device: as `TrainConfig` has it. A card that it names is CUDA's current one within the block: events and waiting
    are of that one. Raises InputError where it names one for several ranks, or they are on a Mac, whose GPU has no
    way to send gradients; EnvironmentFault where the launch says half of it.
    """
    world, card = int(os.environ.get("WORLD_SIZE", "1")), _card(device)
    if world == 1:
        with torch.cuda.device(card if card < torch.cuda.device_count() else _NO_CARD):
            yield Ranks()
        return
    if card != _NO_CARD:
        remedy = "Set device: cuda, and each takes one of its machine's"
        raise InputError(f"{device} is one card, and there are {world} ranks", field="device", remedy=remedy)
    if "RANK" not in os.environ:
        remedy = "Launch with torchrun, or unset WORLD_SIZE"
        raise EnvironmentFault(f"WORLD_SIZE is {world}, and RANK is not set", remedy=remedy)
    if device != "cpu" and not torch.cuda.is_available() and torch.backends.mps.is_available():
        remedy = "Set device: cpu, or launch one"
        raise InputError(f"an Apple GPU takes one rank, and there are {world}", field="device", remedy=remedy)
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
