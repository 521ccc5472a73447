"""Two ranks and one number, so that the mean can be told from the sum."""

import socket

import torch
import torch.distributed as dist
from torch import nn

from anyphoto_cli.train.distributed import Averager, Ranks


def averaged(rank, port, results):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        ranks, parameter = Ranks(rank, 2), nn.Parameter(torch.zeros(1))
        parameter.grad = torch.tensor([1.0 + 2 * rank])
        ranks.average_gradients([parameter])
        whole, parameter.grad = parameter.grad.item(), None
        averager = Averager(ranks, [parameter])
        with averager.during(True):
            (parameter * (1.0 + 2 * rank)).sum().backward()
        averager.finish()
        results[rank] = (whole, parameter.grad.item(), ranks.sum([rank + 1.0]))
    finally:
        dist.destroy_process_group()


def test_gradients_of_one_and_three_are_two_on_both_ranks():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = torch.multiprocessing.get_context("spawn").Manager().dict()
    torch.multiprocessing.spawn(averaged, (port, results), nprocs=2)
    assert dict(results) == {0: (2.0, 2.0, [3.0]), 1: (2.0, 2.0, [3.0])}
