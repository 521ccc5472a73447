"""What was hashed once is not hashed again, and a preview hashes only what it shows."""

import itertools
import shutil

import pytest

from anyphoto_cli.data import shard_index
from anyphoto_cli.data.shards import Manifest, read_manifest, shard_name, write_manifest, write_shard
from anyphoto_cli.errors import InputError
from anyphoto_cli.train.batches import ShardedSamples
from anyphoto_cli.train.contact_sheet import write_contact_sheet
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.estimate import estimate
from anyphoto_cli.train.indexing import Shard, index_together
from tests.data.test_shard_index import sample
from tests.train.test_run import config


def test_one_rank_alone_is_told_of_the_first_bad_shard_before_it_hashes_the_rest(tmp_path, monkeypatch):
    shards = [Shard(tmp_path, write_shard(tmp_path / shard_name("train", n), [sample(n, ["ana"])])) for n in range(3)]
    (tmp_path / shards[0].record.name).unlink()
    verify, asked = shard_index.verify_shard, []
    monkeypatch.setattr(shard_index, "verify_shard", lambda *given: asked.append(given[1].name) or verify(*given))
    with pytest.raises(InputError, match=r"train-000000.tar: is missing"):
        index_together(shards, None, Ranks(), 0)
    assert asked == ["train-000000.tar"]


def test_samples_that_show_nobody_are_never_drawn(tmp_path):
    def folder(name, *people):
        made = write_shard(tmp_path / name / "shards" / shard_name("train", 0), map(sample, range(9), people))
        write_manifest(tmp_path / name, Manifest((made,), {}))
        return ShardedSamples(tmp_path / name)

    some = folder("some", [""], ["ana"], ["", ""], ["ben", ""], ["ana", "ben"])
    assert [some.read(number)[0].source for number in range(len(some))] == ["1.jpg", "3.jpg", "4.jpg"]
    assert some.costs.tolist() == [10, 10, 21]
    with pytest.raises(InputError, match=r"nobody: data.shards: holds no sample with a known face. Look at report"):
        folder("nobody", [""], ["", ""])


def test_dry_runs_and_previews_hash_nothing_twice_and_a_preview_only_what_it_shows(mini_shards, tmp_path, monkeypatch):
    data = shutil.copytree(mini_shards, tmp_path / "data")
    cfg = config(data, tmp_path / "run", train_batch_size=1)
    estimate(cfg)
    assert not (tmp_path / "run").exists()  # a run makes it; from then on its indices are kept there
    (tmp_path / "run").mkdir()
    whole, hashed = shard_index.verify_shard, []

    def verify(folder, record, fully=True):
        hashed.extend([record.name] if fully else [])
        whole(folder, record, fully)

    monkeypatch.setattr(shard_index, "verify_shard", verify)
    write_contact_sheet(cfg, tmp_path / "preview.png", rows=1)
    assert len(hashed) == 1
    estimate(cfg)
    names = [record.name for record in read_manifest(data).shards]
    assert sorted(hashed) == names
    estimate(cfg)
    write_contact_sheet(cfg, tmp_path / "preview.png", rows=1)
    assert sorted(hashed) == names
    # Nobody hashed it, and whoever reads it finds that it is damaged.
    lazy = ShardedSamples(data, lazily=True)
    file = data / "shards" / names[0]
    file.write_bytes(file.read_bytes().replace(b"\xff\xd8\xff", b"non"))
    with pytest.raises(InputError, match=rf"{names[0]}: is damaged"):
        lazy.read(0)


def test_an_index_that_cannot_be_kept_ends_nothing(mini_shards, tmp_path):
    (tmp_path / "file").write_text("")
    assert len(ShardedSamples(mini_shards, tmp_path / "file" / "index")) == len(ShardedSamples(mini_shards))


def test_a_preview_refuses_what_training_would(mini_shards, tmp_path, monkeypatch):
    """It read on for ever."""
    from anyphoto_cli.train.sampler import Plan

    from_step = Plan.from_step
    monkeypatch.setattr(Plan, "from_step", lambda *given: itertools.islice(from_step(*given), 20))
    with pytest.raises(InputError, match="method.patch_size: holds patches of 112 px, the method wants 448"):
        write_contact_sheet(config(mini_shards, tmp_path / "run", method={"patch_size": 448}), tmp_path / "p.png")
