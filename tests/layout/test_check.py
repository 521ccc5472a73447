"""Warnings on what the paper says fails (4.4), and the look for faces in references."""

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.errors import InputError
from anyphoto_cli.layout.check import check_layout
from anyphoto_cli.layout.head_count import count_people
from anyphoto_cli.layout.schema import parse_layout

from .test_schema import POINTS


def faces_at(*boxes):
    """(name, x, y, side) each."""
    return [
        {
            "name": name,
            "reference": "ana.png",
            "bbox": [x, y, x + side, y + side],
            "reference_landmarks": POINTS,
        }
        for name, x, y, side in boxes
    ]


def cautions(tmp_path, faces, prompt="a photo", **more):
    Image.new("RGB", (256, 256)).save(tmp_path / "ana.png")
    value = {"version": 1, "prompt": prompt, "width": 512, "height": 512, "faces": faces} | more
    return [str(c) for c in check_layout(parse_layout(value, tmp_path / "trip.json")).cautions]


def test_a_good_layout_has_nothing_to_warn_of(tmp_path):
    assert cautions(tmp_path, faces_at(("A", 40, 100, 160), ("B", 300, 100, 160)), "two friends") == []


@pytest.mark.parametrize(
    "faces, more, expected",
    [
        (faces_at(("A", 40, 100, 160), ("B", 120, 110, 160)), {}, "faces[1]: B and A overlap by 47%"),
        (faces_at(("A", 40, 100, 40)), {}, "faces[0]: A is 40 px wide, only 2.5 tokens"),
        (
            faces_at(("A", 4, 10, 30), ("B", 80, 10, 33)),
            {"width": 192, "height": 128, "prompt": "two friends"},
            "faces[0]: A is 30 px wide, only 1.9 tokens: likeness fades below 2 tokens (32 px)",
        ),
        (faces_at(("A", -120, 100, 160)), {}, "faces[0]: more than half of A lies outside"),
        (
            faces_at(("A", 40, 100, 160)),
            {"prompt": "three men at sea"},
            "prompt: speaks of 3 people, the layout places 1",
        ),
        (faces_at(("A", 40, 100, 160), ("B", 300, 100, 160)), {"prompt": "a man"}, "prompt: speaks of 1 person, the"),
        (
            faces_at(("A", 40, 100, 160)),
            {"true_cfg_scale": 3},
            "true_cfg_scale: has no effect without a negative_prompt",
        ),
        (faces_at(("A", 40, 100, 160)), {"negative_prompt": "rain"}, "negative_prompt: has no effect while"),
        ([], {}, "faces: is empty"),
        (faces_at(("A", -150, -150, 812)), {}, "faces[0]: A asks for a patch of 812 px and gets one of 512 px"),
        (
            [
                {
                    "name": "A",
                    "reference": "ana.png",
                    "reference_landmarks": POINTS,
                    "landmarks": [[300, 180], [300, 290], [240, 235], [180, 190], [180, 280]],
                }
            ],
            {},
            "faces[0]: A is tilted by 90 degrees: its face is pasted upright",
        ),
    ],
)
def test_warnings(tmp_path, faces, more, expected):
    found = cautions(tmp_path, faces, **more)
    assert len(found) == 1 and found[0].startswith(expected), found


@pytest.mark.parametrize(
    "prompt, count",
    [
        ("three friends on a beach", 3),
        ("A man and a woman dancing in the rain", 2),
        ("two women, an astronaut and an admiral, smiling", 2),
        ("a portrait of 2 old men", 2),
        ("a young couple walking", 2),
        ("one person reading", 1),
        ("a smiling woman beside two men", None),
        ("four people around a table", 4),
        ("a crowd in the street", None),
        ("a group of friends", None),
        ("a sunny beach", None),
        ("a couple of boats on a lake", None),
        ("two red apples", None),
        ("Ana and Ben at the opera", None),
        ("five tall basketball players", 5),
        ("two men and three women", None),
        ("a man and his wife", 2),
        ("a photo of a mother and her young daughter", 2),
        ("two friends sitting in a doctor's office", 2),
        ("three men on the king’s road", 3),
        ("mother and daughter in the rain", 2),
        ("a photo of brother and sister", 2),
        ("a family of four", 4),
        ("trio of friends", 3),
        ("a couple of old friends", 2),
        ("a dozen people", 12),
        ("one hundred people", None),
        ("a woman in a red coat and a man", 2),
        ("the bride with two friends", None),
    ],
)
def test_head_count(prompt, count):
    """None where the prompt is not clear: a wrong warning is worse than none."""
    assert count_people(prompt) == count


def test_all_references_that_are_missing_are_told_at_once(tmp_path):
    """Each once, and none that is there: who fills the places of `from-photo` need not ask after each."""
    names = ("ana.png", "b.png", "ana.png", "c.png", "b.png", "d.png")
    faces = [
        face | {"reference": name, "name": name}
        for face, name in zip(faces_at(*(("", 80 * k, 100, 60) for k in range(6))), names, strict=True)
    ]
    with pytest.raises(InputError, match=r"faces\[1\].reference: b.png: .*\. Missing, too: c.png, d.png$"):
        cautions(tmp_path, faces)


def test_references_are_searched_only_where_a_finder_is_given(tmp_path):
    Image.new("RGB", (256, 256)).save(tmp_path / "ana.png")
    faces = [{"name": "A", "reference": "ana.png", "bbox": [40, 40, 200, 200]}]
    value = {"version": 1, "prompt": "x", "width": 512, "height": 512, "faces": faces}
    layout = parse_layout(value, tmp_path / "trip.json")
    assert not check_layout(layout).looked_for_faces

    def finds(picture):
        assert picture.shape == (256, 256, 3)
        return "face at 10,10 - 90,90, the largest of 3", 3

    report = check_layout(layout, finds)
    assert report.looked_for_faces
    assert "faces[0].reference: ana.png: face at 10,10 - 90,90, the largest of 3" in map(str, report.cautions)

    def finds_none(picture: np.ndarray):
        raise InputError("no face was found", remedy="Use a clear photo")

    with pytest.raises(InputError, match=r"^trip.json: faces\[0\].reference: ana.png: no face was found. Use a clear"):
        check_layout(layout, finds_none)
