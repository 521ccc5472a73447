"""Shards of drawn people, preprocessed once for all training tests."""

import pytest

from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.mini.photos import PhotosConfig, draw_photos
from anyphoto_cli.preprocess import run as preprocess


@pytest.fixture(scope="session")
def mini_shards(tmp_path_factory):
    """24 photos of 5 people, 3 shards, patches of 112 px, crops of 128."""
    folder = tmp_path_factory.mktemp("mini_shards")
    world = draw_photos(folder / "world", PhotosConfig(people=5, groups=24, references=2)).folder
    config = load_config(PreprocessConfig, world / "preprocess.yaml", {"shard_size": 9}, [])
    preprocess(world / "photos", folder / "data", world / "refs", config, RunOptions(executor="here"))
    return folder / "data"
