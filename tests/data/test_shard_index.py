"""Any sample by itself: what the index hands out is what the stream hands out, and nothing else."""

import errno
import os

import numpy as np
import pytest

from anyphoto_cli.data import shard_index
from anyphoto_cli.data.samples import PersonRecord, PictureRecord, decode_sample, encode_sample
from anyphoto_cli.data.shard_index import index_shard
from anyphoto_cli.data.shards import read_shard, write_shard
from anyphoto_cli.errors import InputError
from anyphoto_cli.types import Box


def sample(number, identities):
    people = tuple(
        PersonRecord(Box(0, 0, 9, 9), 0.9, "", Box(1, 1, 8, 8), np.ones((5, 2)) * k, 0.9, name, 0.8, 0.8, 10.0 + k, "")
        for k, name in enumerate(identities)
    )
    record = PictureRecord(f"{number:09d}", f"{number}.jpg", "", 64, 48, "x", "none", Box(0, 0, 9, 9), people)
    return encode_sample(record, bytes([number]) * (100 + number), np.zeros((len(people), 512), np.float32))


@pytest.fixture
def shard(tmp_path):
    samples = [sample(n, ["ana", "ben", ""][: 1 + n % 3]) for n in range(7)]
    return tmp_path, write_shard(tmp_path / "train-000000.tar", samples)


def test_every_sample_is_the_stream_s(shard, tmp_path):
    folder, record = shard
    cache = tmp_path / "cache"
    for _ in range(2):  # walked, then from the cache
        index = index_shard(folder, record, cache)
        streamed = list(read_shard(folder / record.name))
        assert [index.read(k) for k in range(len(index))] == streamed
        assert index.faces.tolist() == [1, 2, 2, 1, 2, 2, 1] and index.tokens.tolist() == [10, 21, 21, 10, 21, 21, 10]
        assert decode_sample(index.read(3))[0].source == "3.jpg"
    assert len(list(cache.iterdir())) == 1


def test_a_broken_cache_is_made_anew_and_a_changed_shard_is_refused(shard, tmp_path):
    folder, record = shard
    cache = tmp_path / "cache"
    index_shard(folder, record, cache)
    [kept] = cache.iterdir()
    kept.write_bytes(b"no npz")
    assert len(index_shard(folder, record, cache)) == 7
    file = folder / record.name
    whole = file.read_bytes()
    file.write_bytes(whole[:600] + b"x" + whole[601:])
    with pytest.raises(InputError, match=r"train-000000.tar: is damaged: its sha256 is not the manifest's"):
        index_shard(folder, record)
    with pytest.raises(InputError, match="is damaged"):
        index_shard(folder, record, cache)
    file.write_bytes(whole)
    index = index_shard(folder, record, cache)
    file.write_bytes(whole[:3000])
    with pytest.raises(InputError, match="ends inside sample 000000006"):
        index.read(6)
    with pytest.raises(InputError, match=r"has 3000 bytes instead of"):
        index_shard(folder, record, cache)
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        index_shard(folder, record, cache)


@pytest.mark.parametrize("what", ["verify_shard", "_walk"])
def test_a_shard_that_the_disk_does_not_give_is_a_bad_shard(shard, monkeypatch, what):
    """Not the end of a run that bears some."""

    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shard_index, what, fails)
    with pytest.raises(InputError, match=r"train-000000.tar: cannot be read \(Input/output error\). Copy it again"):
        index_shard(*shard)
