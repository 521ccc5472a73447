"""The pictures of the pages, made: ANYPHOTO_WRITE_IMAGES=1 pytest tests/web/test_pictures.py writes docs/images anew."""

import os

import numpy as np
from PIL import Image

from tests.conftest import ROOT
from tests.web.test_editor import opened

IMAGES = ROOT / "docs" / "images"


def kept(picture, name):
    """Into docs/images where that was asked for."""
    if os.environ.get("ANYPHOTO_WRITE_IMAGES"):
        picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(IMAGES / name, optimize=True)
    with Image.open(IMAGES / name) as there:
        assert abs(there.width - picture.width) <= 4, f"{name} is of another size: write it anew"


def test_the_editor(start, page, friends, tmp_path):
    editor = start(friends)
    page.set_viewport_size({"width": 1200, "height": 800})
    opened(page, editor)
    page.click("#render")
    page.wait_for_selector("#history figure", timeout=120_000)
    page.wait_for_timeout(700)
    page.locator(".person[data-index='0']").focus()
    page.screenshot(path=str(tmp_path / "editor.png"), full_page=True)
    picture = Image.open(tmp_path / "editor.png").convert("RGB")
    assert picture.width == 1200 and len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 500
    kept(picture, "editor.png")


def test_two_selfies_by_the_command_line(run, tmp_path, monkeypatch):
    """As the README has it: nobody types a coordinate, and the picture that is kept shows both of them."""
    people = ROOT / "examples" / "drawn_people"
    monkeypatch.setenv("ANYPHOTO_GENERATE_MODEL", "mini")
    layout = tmp_path / "two.json"
    code, _, err = run("layout", "arrange", people / "mia.png", people / "theo.png", "--size", "128x128", "-o", layout)
    assert code == 0, err
    code, said, err = run("generate", layout, "-o", tmp_path / "out", "--best-of", "4", "--annotate")
    assert code == 0 and "passed" in said and "mia: good" in said and "theo: good" in said, said + err
    [drawn] = (tmp_path / "out").glob("*.verify.png")
    picture = Image.open(drawn).convert("RGB").resize((512, 512))
    kept(picture, "two_arranged.png")
