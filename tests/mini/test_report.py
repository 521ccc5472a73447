"""The model card: what it says is what was measured, in words as in numbers."""

import re

import numpy as np

from anyphoto_cli.mini import report, shipped
from anyphoto_cli.mini.picture import draw_picture
from anyphoto_cli.mini.pretrain.clothes import read_clothes
from anyphoto_cli.mini.types import HELD_OUT
from tests.conftest import ROOT
from tests.mini.card import REPORT, told


def test_the_card_is_the_report_s():
    assert report.card(REPORT) == (shipped.WEIGHTS / "README.md").read_text()


def test_a_bar_that_is_missed_is_said_to_be_and_intervals_stand_beside_the_numbers():
    photo = dict.fromkeys(("above", "near", "rank_1"), 1.0) | {"swapped": 0.013, "ranges": {"swapped": (0.002, 0.03)}}
    styled = dict.fromkeys(("above", "style", "face_style"), 1.0)
    faces = {"detector": {"recall": 1.0, "precision": 1.0, "landmark_error": 0.01, "large_photos": {
        "precision": 0.9898, "landmark_error": 0.0457}}, "recogniser": REPORT["faces"]["recogniser"]}  # fmt: skip
    lines = report.table({"adapter": {"trained adapter": {"photo": photo, "styled": styled}}, "faces": faces})
    assert "| adapter | swapped | 0.013 [0.002, 0.030] | ≤ 0.01 | **not met** |" in lines
    assert "| adapter | rank 1 of 300 | 1.0000 | ≥ 0.9 | met |" in lines
    assert "| detector | precision, photos of 800 px | 0.9898 | | |" in lines
    assert "| detector | landmark error / face height, photos of 800 px | 0.046 | | |" in lines


def test_each_style_has_its_row_and_those_that_miss_are_named():
    text = "\n".join(report.style_rows(REPORT))
    trained = REPORT["adapter"]["trained adapter"]["by_style"]
    missed = [style for style in list(trained)[1:] if trained[style]["face_style"] < 0.85]
    assert missed and f"faces alone: **{', '.join(missed)}**." in text
    for style in list(trained)[1:]:
        assert re.search(rf"^\| {style} \| .*\| {trained[style]['face_style']:.3f} \| \S+ \|$", text, re.MULTILINE)


def test_the_readme_says_what_was_measured():
    text = (ROOT / "README.md").read_text()
    near, above, original, without = (
        told("adapter", row, "photo", key)
        for row, key in (("trained adapter", "near"), ("trained adapter", "above"), ("the photo itself", "above"),
                         ("no adapter", "above"))
    )  # fmt: skip
    assert f"{near:.0%}".replace("%", " %") + " of the faces\nstand where they should" in text
    assert f"{above:.0%}".replace("%", " %") + " resemble their reference" in text
    assert f"{original:.0%}".replace("%", " %") + " of the photos themselves" in text
    assert f"({without:.0%}".replace("%", " %") + " without an adapter" in text


def test_clothes_of_drawn_people_are_read_right():
    """By which the base is judged: what it cannot read is no fault of the base."""
    hits = []
    for number in range(150):
        drawn = draw_picture(number, identities=[HELD_OUT + number], style="photo", scene="studio", obstacles=False)
        if named := re.search(r"in an? (\w+) T-shirt", " ".join((drawn.caption, *drawn.paraphrases))):
            hits.append(read_clothes(drawn.pixels, drawn.people[0].face_box) == named[1])
    assert len(hits) >= 10 and np.mean(hits) > 0.9, hits
    assert REPORT["clothes"]["right"] < REPORT["clothes"]["asked"] / 2  # else the card says too little of the base
