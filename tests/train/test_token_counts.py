"""Location tokens are counted for the resolution of the run, whatever preprocess counted them for."""

import json
import shutil

import numpy as np
import pytest

from anyphoto_cli.data import shard_index
from anyphoto_cli.train.batches import Examples, samples_of
from anyphoto_cli.train.estimate import estimate
from tests.train.test_run import Heard, config

PLAIN = {"replacement": "fixed", "replacement_max": 0.0, "degradations": {}}


def packed_for(shards, folder, side):
    """The same shards, which say that their tokens were counted for crops of another size; None: say nothing."""
    copy = shutil.copytree(shards, folder)
    manifest = json.loads((copy / "manifest.json").read_text())
    if side is None:
        del manifest["config"]
    else:
        manifest["config"]["match"]["train_size"] = side
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize("side", [128, 512, 1024])
def test_tokens_are_those_that_examples_have_at_the_resolution_of_the_run(mini_shards, tmp_path, side):
    cfg = config(mini_shards, tmp_path / "run", data={**PLAIN, "resolution": side})
    samples, heard = samples_of(cfg), Heard()
    source = Examples(samples, cfg)
    seen = np.array([source[0, [number]][0].masks.sum() for number in range(len(samples))])
    # Where the crop begins moves faces against the cells of 16 px, by one row and column at most.
    assert samples.costs.sum() == pytest.approx(seen.sum(), rel={128: 0.1, 512: 0.05, 1024: 0.03}[side])
    assert np.corrcoef(samples.costs, seen)[0, 1] > 0.9
    told = estimate(cfg, heard)
    assert told.tokens == pytest.approx(samples.costs.mean()) and told.most_tokens == samples.costs.max()
    assert len(heard.cautions) == (side != 128)  # what the shards were made for
    assert all("(--train-size): counted anew" in line for line in heard.cautions)


def test_another_resolution_hashes_nothing_again_and_indices_of_earlier_versions_are_read(
    mini_shards, tmp_path, monkeypatch
):
    (tmp_path / "run").mkdir()
    whole, write = samples_of(config(mini_shards, tmp_path / "run")), np.savez
    monkeypatch.setattr(shard_index, "verify_shard", lambda *_: pytest.fail("hashed again"))
    for kept in (tmp_path / "run" / "index").iterdir():
        with np.load(kept) as arrays:
            told = {key: arrays[key] for key in arrays.files if key not in ("packed", "counted")}
        write(kept, **told)
    assert np.array_equal(samples_of(config(mini_shards, tmp_path / "run")).costs, whole.costs)
    large = config(mini_shards, tmp_path / "run", data={"resolution": 512})
    assert samples_of(large).costs.sum() > 8 * whole.costs.sum()
    assert "counted anew" in samples_of(large).recounted


def test_shards_that_do_not_say_what_they_were_made_for_are_counted(mini_shards, tmp_path):
    """Right whatever was meant: these were made for 128 px, so that nothing is said of it."""
    silent = samples_of(config(packed_for(mini_shards, tmp_path / "a", None), tmp_path / "run"))
    told = samples_of(config(mini_shards, tmp_path / "other"))
    assert np.array_equal(silent.costs, told.costs) and silent.recounted == told.recounted == ""
    # Who says so is believed: nothing is counted.
    believed = samples_of(
        config(packed_for(mini_shards, tmp_path / "b", 512), tmp_path / "run", data={"resolution": 512})
    )
    assert np.array_equal(believed.costs, told.costs)
