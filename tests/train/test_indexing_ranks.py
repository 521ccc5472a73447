"""Shards are hashed by all ranks together, once, and nobody waits longer than one of them takes.

By themselves, so that the ranks import little.
"""

import os
import socket
import time

import pytest
import torch

from anyphoto_cli.data import shard_index
from anyphoto_cli.data.shards import shard_name, write_shard
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.train.distributed import joined
from anyphoto_cli.train.indexing import Shard, index_together
from tests.data.test_shard_index import sample

TIMEOUT, HASHING = 2.0, 0.6


def two_ranks(rank, shards, cache, port, start, results):
    """Seven shards of `HASHING` seconds each, of which the fourth is damaged; then rank 1 dies while it has one."""
    told = {"WORLD_SIZE": 2, "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in told.items()}
    hashed, verify = [], shard_index.verify_shard

    def slowly(folder, record, whole=True):
        time.sleep(HASHING)
        hashed.append(record.name)
        verify(folder, record, whole)

    def dies(folder, record, whole=True):
        if rank:
            os._exit(0)

    shard_index.verify_shard = slowly
    start.wait()  # both have imported what takes seconds
    with joined("cpu", TIMEOUT) as ranks:
        found = index_together(shards, cache, ranks, 1)
        with pytest.raises(InputError, match="train-000003.tar: is damaged"):
            index_together(shards, cache, ranks, 0)
        results.put((rank, hashed, [str(one) if isinstance(one, InputError) else one.keys for one in found]))
        start.wait()
        shard_index.verify_shard = dies
        began = time.monotonic()
        with pytest.raises(EnvironmentFault, match="another rank is gone"):
            index_together(shards, None, ranks, 1)
        results.put((2, time.monotonic() - began))


def test_two_ranks_share_the_hashing_and_outlast_a_timeout_that_is_shorter(tmp_path):
    samples = [[sample(10 * n + k, ["ana"]) for k in range(2)] for n in range(7)]
    shards = [Shard(tmp_path, write_shard(tmp_path / shard_name("train", n), own)) for n, own in enumerate(samples)]
    file = tmp_path / shards[3].record.name
    file.write_bytes(file.read_bytes().replace(b"ana", b"eva"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(two_ranks, (shards, tmp_path / "cache", port, context.Barrier(2), results), nprocs=2)
    (_, first, found), (_, second, others), (_, ended_after) = sorted(results.get() for _ in range(3))
    names = [shard.record.name for shard in shards]
    assert sorted(set(first) | set(second)) == names and not set(first) & set(second)
    assert len(first) == 4 and second.count(names[3]) == 2  # what is damaged is not kept, and looked at again
    assert found == others and [one for n, one in enumerate(found) if n != 3] == [
        tuple(one.key for one in own) for n, own in enumerate(samples) if n != 3
    ]
    assert ended_after < TIMEOUT + 2
