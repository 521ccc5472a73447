"""What is shown while a picture is made is about that picture, and showing it changes nothing."""

import numpy as np
from PIL import Image

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.generate import render
from anyphoto_cli.runtime.progress import Listener
from tests.conftest import ROOT

FRIENDS = ROOT / "examples" / "two_friends.json"


class Watcher(Listener):
    wants_preview = True

    def __init__(self):
        self.seen = []

    def preview(self, picture):
        self.seen.append(picture)


def test_it_converges_to_the_picture(tmp_path):
    watcher, config = Watcher(), GenerateConfig(model="mini", steps=8)
    [shown] = render([FRIENDS], tmp_path / "watched", config, listener=watcher).pictures
    [plain] = render([FRIENDS], tmp_path / "plain", config).pictures
    assert shown.path.read_bytes() == plain.path.read_bytes()
    assert len(watcher.seen) == 7 and all(picture.shape == (16, 16, 3) for picture in watcher.seen)
    with Image.open(shown.path) as image:
        small = np.asarray(image.resize((16, 16), Image.Resampling.BOX)).astype(float)
    likeness = [np.corrcoef(picture.ravel().astype(float), small.ravel())[0, 1] for picture in watcher.seen]
    assert likeness[-1] > 0.9 and likeness[-1] > likeness[0] and likeness[2] > 0.5, likeness
