"""What is drawn over a picture: names that the font can write, and words that can be read on large ones."""

import numpy as np
from PIL import Image

from anyphoto_cli.generate.annotate import annotated
from anyphoto_cli.generate.verification import FaceVerdict, Verdict
from anyphoto_cli.layout.schema import parse_layout
from anyphoto_cli.types import Box


def drawn(name, tmp_path, size=768):
    """[H, W, 3]: a grey picture with one face."""
    face = {"name": name, "reference": "a.png", "bbox": [200, 200, 400, 400]}
    value = {"version": 1, "prompt": "a photo", "width": 512, "height": 512, "faces": [face]}
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    found = FaceVerdict(name, "good", 0.5, 0.0, Box(*(size * share for share in (0.4, 0.4, 0.6, 0.6))))
    verdict = Verdict((found,), (), 0.3, "", "", "", 0.5, True)
    picture = np.full((size, size, 3), 128, np.uint8)
    return np.asarray(annotated(picture, parse_layout(value, tmp_path / "trip.json"), verdict))


def test_names_keep_their_letters(tmp_path):
    """Pillow's own font has no more than ASCII."""
    for name, written in {"Jörg Weiß": "Jorg Weiss", "Łukasz": "Lukasz", "Søren": "Soren"}.items():
        assert (drawn(name, tmp_path) == drawn(written, tmp_path)).all()


def test_labels_grow_with_the_picture(tmp_path):
    """Looked at on one screen, those of a photo of nine megapixels are as large as those of a small picture."""
    small, large = (np.any(drawn("Ana", tmp_path, size) != 128, -1).mean() for size in (1000, 3000))
    assert 0.7 < large / small < 1.3
