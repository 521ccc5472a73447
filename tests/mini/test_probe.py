"""The shipped probe reads scene and style of pictures of people it has never seen."""

import numpy as np
import pytest

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.pretrain import probe as training
from anyphoto_cli.mini.pretrain.album import fresh_pictures
from anyphoto_cli.mini.probe import probe_square, read_scene_and_style
from tests.mini.card import told


def test_reads_fresh_pictures_clean_worn_and_decoded():
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(shipped.base_folder() / "vae")
    report = training.measure_probe(shipped.probe_file(), vae, fresh_pictures(192))
    for key in ("scene", "style", "worn_scene", "worn_style", "face_style", "decoded_face_style"):
        assert report[key] >= told("probe", key) - 0.03, report
    assert shipped.probe_file().stat().st_size <= 400_000


@pytest.mark.parametrize("shape", [(128, 128), (256, 256), (64, 96), (1, 1), (300, 40)])
def test_any_size_of_picture(shape):
    picture = np.full((*shape, 3), 200, np.uint8)
    assert probe_square(picture).shape == (128, 128, 3)
    assert len(read_scene_and_style([picture, picture])) == 2


def test_a_damaged_probe_reads_nothing(monkeypatch):
    def damaged():
        raise EnvironmentFault("is damaged")

    monkeypatch.setattr(shipped, "probe_file", damaged)
    with pytest.raises(EnvironmentFault):
        read_scene_and_style([np.zeros((128, 128, 3), np.uint8)])


def test_no_pictures_no_answers():
    assert read_scene_and_style([]) == []
