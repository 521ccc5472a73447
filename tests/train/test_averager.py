"""Gradients sent while the backward pass goes on are those sent in one piece afterwards, on ranks that differ."""

import contextlib
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn

from anyphoto_cli.errors import InputError
from anyphoto_cli.train import distributed
from anyphoto_cli.train.distributed import Averager, Ranks
from anyphoto_cli.train.optimiser import in_forward_order


class Net(nn.Module):
    """Four layers, of which a rank may leave one out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x, without):
        for number, layer in enumerate(self.layers):
            if number != without:
                x = torch.tanh(layer(x))
        return x.square().sum()


def averaged(rank, world, port, results):
    """(rank, micro-steps, whether both ways were alike) into `results`."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    Averager.BUCKET = 60  # a layer each
    try:
        for micro in MICRO_STEPS:
            results.put((rank, micro, same_both_ways(Ranks(rank, world), micro)))
    finally:
        dist.destroy_process_group()


def same_both_ways(ranks, micro):
    found = []
    for overlapping in (False, True):
        net = Net()
        averager = Averager(ranks, list(net.parameters())) if overlapping else None
        for step in range(2):
            net.zero_grad()
            for number in range(micro):
                g = torch.Generator().manual_seed(100 * ranks.rank + 10 * step + number)
                loss = net(torch.randn(5, 8, generator=g), without=2 if ranks.rank == 1 else None)
                if averager is None:
                    loss.backward()
                else:
                    with averager.during(number + 1 == micro):
                        loss.backward()
                    early = len(averager._sent)
            if averager is None:
                ranks.average_gradients(list(net.parameters()))
            else:
                # Buckets of the last layers go early; where a rank has no gradient, it waits with that one.
                assert (early > 0) and (ranks.rank == 0 or early < len(averager._buckets))
                averager.finish()
            found.append([p.grad.clone() for p in net.parameters()])
    half = len(found) // 2
    return all(
        torch.equal(a, b) for x, y in zip(found[:half], found[half:], strict=True) for a, b in zip(x, y, strict=True)
    )


MICRO_STEPS = (1, 3)


def test_overlapping_gives_the_numbers_of_one_piece():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(averaged, (2, port, results), nprocs=2)
    found = {results.get() for _ in range(4)}
    assert found == {(rank, micro, True) for rank in (0, 1) for micro in MICRO_STEPS}


def test_buckets_are_cut_from_the_end_of_the_forward_pass():
    names = [
        "single_transformer_blocks.10.a", "single_transformer_blocks.9.a", "transformer_blocks.2.a", "x_embedder.a",
        "transformer_blocks.11.a", "id_projector.fc1.weight",
    ]  # fmt: skip
    parameters = {name: nn.Parameter(torch.full((1,), float(k))) for k, name in enumerate(names)}
    order = [names[int(p)] for p in in_forward_order(parameters)]
    assert order == [names[3], names[5], names[2], names[4], names[1], names[0]]


class Sent:
    """What another rank has answered."""

    def wait(self):
        pass


@pytest.mark.parametrize(
    "where, kind", [("all_reduce", torch.OutOfMemoryError), ("_flat", RuntimeError), ("_give_back", RuntimeError)]
)
def test_memory_that_runs_out_is_not_told_of_another_rank(monkeypatch, where, kind):
    """On a CPU it is a plain RuntimeError, as are those of a rank that is gone."""

    def fails(*_, **__):
        raise kind("out of memory")

    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: Sent())
    monkeypatch.setattr(dist if where == "all_reduce" else distributed, where, fails)
    parameters = list(Net().parameters())
    for averaged_by in (Averager(Ranks(0, 2), parameters).finish, lambda: Ranks(0, 2).average_gradients(parameters)):
        with pytest.raises(kind, match="out of memory"):
            averaged_by()


def test_one_rank_sends_nothing():
    net = Net()
    averager = Averager(Ranks(), list(net.parameters()))
    with averager.during(True):
        net(torch.ones(1, 8), None).backward()
    kept = [p.grad.clone() for p in net.parameters()]
    averager.finish()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), kept, strict=True))


@pytest.mark.parametrize(
    "device, current", [("cuda:1", 1), ("cuda:7", -1), ("cuda", -1), ("auto", -1), ("cpu", -1), ("banana", -1)]
)
def test_a_card_that_is_named_is_the_current_one(monkeypatch, device, current):
    """Of two. Events would else be recorded on the first, and tell nothing of what the other one does."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", lambda card: contextlib.nullcontext(chosen.append(card)))
    with distributed.joined(device, 1.0) as ranks:
        assert ranks == Ranks() and chosen == [current]


@pytest.mark.parametrize("device", ["auto", "mps"])
def test_several_ranks_are_refused_on_a_mac(monkeypatch, device):
    """gloo sends no tensors of its GPU: each rank would be told that another one is gone."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    message = "device: an Apple GPU takes one rank, and there are 2. Set device: cpu, or launch one"
    with pytest.raises(InputError, match=message), distributed.joined(device, 1.0):
        pass


def test_one_card_for_several_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    message = "device: cuda:1 is one card, and there are 4 ranks. Set device: cuda, and each"
    with pytest.raises(InputError, match=message), distributed.joined("cuda:1", 1.0):
        pass
