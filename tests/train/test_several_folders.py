"""Shards of several folders: all are trained on, and a name in two of them is two people."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.data.bank import read_index
from anyphoto_cli.data.shards import read_manifest
from anyphoto_cli.errors import InputError
from anyphoto_cli.mini.photos import PhotosConfig, draw_photos
from anyphoto_cli.preprocess import run as preprocess
from anyphoto_cli.train import batches as batches_module
from anyphoto_cli.train.batches import Examples, ShardedSamples, batches
from anyphoto_cli.train.estimate import estimate
from anyphoto_cli.train.loop import run as train
from tests.train.test_run import config, same, state


@pytest.fixture(scope="module")
def both(mini_shards, tmp_path_factory):
    """Two folders whose people have the same names and are others."""
    folder = tmp_path_factory.mktemp("other")
    world = draw_photos(folder / "world", PhotosConfig(people=5, groups=10, references=2, seed=5)).folder
    names = sorted(one.name for one in (world / "refs").iterdir())
    first = sorted(read_index(mini_shards / "bank")[0])
    for old, new in zip(names, first, strict=True):
        (world / "refs" / old).rename(world / "refs" / f"as {new}")
    for new in first:
        (world / "refs" / f"as {new}").rename(world / "refs" / new)
    told = load_config(PreprocessConfig, world / "preprocess.yaml", {"shard_size": 9}, [])
    preprocess(world / "photos", folder / "data", world / "refs", told, RunOptions(executor="here"))
    return mini_shards, folder / "data"


def of_both(both, out, **more):
    return config(both[0], out, data={"shards": [str(folder) for folder in both]}, **more)


def test_everybody_s_reference_is_of_their_own_folder(both, tmp_path):
    assert set(read_index(both[0] / "bank")[0]) == set(read_index(both[1] / "bank")[0])
    told = of_both(both, tmp_path / "run")
    data = told.data.model_copy(update={"replacement": "fixed", "replacement_max": 1.0, "identity_drop": 0.0})
    told = told.model_copy(update={"data": data, "train_batch_size": 1})
    samples = ShardedSamples(told.data.folders)
    assert len(samples) == sum(len(ShardedSamples(folder)) for folder in both)
    likeness = {folder: [] for folder in both}
    place = {key: index.file for index in samples.indices for key in index.keys}
    for [example] in islice(batches(samples, told, 0, 0, 1), len(samples)):
        cosines = (example.embeddings * example.own).sum(1)[example.replaced]
        likeness[place[example.key].parent.parent] += cosines.tolist()
    assert all(len(found) > 8 and np.median(found) > 0.5 for found in likeness.values()), likeness


def test_who_takes_the_place_of_a_crop_without_people_has_the_bank_of_their_own_folder(both, tmp_path, monkeypatch):
    asked = []

    def make_example(record, jpeg, embeddings, bank, *_, **__):
        asked.append((record, bank))
        return None if record == 0 else "an example"

    class Two:
        folders, read = both, staticmethod(lambda number: (number, b"", None))
        folder_of = staticmethod(lambda number: both[number])
        __len__ = lambda self: 2  # noqa: E731

    monkeypatch.setattr(batches_module, "make_example", make_example)
    monkeypatch.setattr(batches_module, "Bank", lambda folder, _: folder)
    assert Examples(Two(), of_both(both, tmp_path / "run"))[0, [0]] == ["an example"]
    assert asked == [(0, both[0] / "bank"), (1, both[1] / "bank")]


def test_a_run_on_two_folders_is_cut_off_and_goes_on_with_both(both, tmp_path):
    whole, cut = (of_both(both, tmp_path / name, max_train_steps=3) for name in ("whole", "cut"))
    assert train(whole).finished
    ticks = iter([False, True])
    assert train(cut, stop=lambda: next(ticks)).step == 2
    with pytest.raises(InputError, match="shards' manifest"):
        train(config(both[0], tmp_path / "cut", max_train_steps=3))
    assert train(cut).finished
    assert same(*(state(tmp_path / name / "checkpoint-3") for name in ("whole", "cut")))


def test_commands_take_several_folders(run, both, tmp_path):
    file = tmp_path / "run.yaml"
    options = [word for folder in both for word in ("--shards", folder)]
    assert run("train", "init", "--model", "mini", *options, "-o", file, "--output-dir", tmp_path / "run")[0] == 0
    code, said, err = run("train", file, "--dry-run", "--json")
    assert code == 0 and json.loads(said)["samples"] == sum(len(ShardedSamples(folder)) for folder in both), err
    assert json.loads(said)["identities"] == sum(len(read_index(folder / "bank")[0]) for folder in both)
    assert run("train", "preview", file, "-o", tmp_path / "p.png")[0] == 0
    code, _, err = run("train", file, f"data.shards=['{both[0]}', '{both[0]}/../data']", "--dry-run")
    assert code == 2 and "data: data.shards: is named twice" in err
    gone = tmp_path / "gone"
    code, _, err = run("train", file, f"data.shards=['{both[0]}', '{gone}']", "--dry-run")
    assert code == 2 and str(gone) in err
    code, _, err = run("train", file, "data.shards=[]", "--dry-run")
    assert code == 2 and "data.shards" in err


def test_bad_shards_are_told_with_their_folder(both, tmp_path):
    other = shutil.copytree(both[1], tmp_path / "other")
    [record, *_] = read_manifest(other).shards
    (other / "shards" / record.name).unlink()
    samples = ShardedSamples([both[0], other], bad_shards=0.5)
    assert samples.left_out == [f"other/{record.name}"]
    assert estimate(of_both((both[0], Path(both[1])), tmp_path / "run")).samples > len(ShardedSamples(both[0]))
