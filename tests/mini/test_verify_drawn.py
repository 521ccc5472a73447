"""Planted mistakes in drawn pictures, judged by the embedded pack and the calibration that came with it."""

import numpy as np
import pytest

from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.generate.conditions import prepare_faces
from anyphoto_cli.generate.from_photo import layout_from_photo
from anyphoto_cli.generate.verification import verify_picture
from anyphoto_cli.layout.schema import load_layout, parse_layout
from anyphoto_cli.mini.photos import as_png
from anyphoto_cli.mini.picture import draw_picture, draw_portrait
from anyphoto_cli.mini.types import HELD_OUT

WHO = {"ana": HELD_OUT + 17, "ben": HELD_OUT + 25, "eve": HELD_OUT + 919}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A drawn photo in which all three show their whole face, its layout by the references, and the pack."""
    folder, analyzer = tmp_path_factory.mktemp("three"), open_faces("mini")
    for name, number in WHO.items():
        (folder / "refs" / name).mkdir(parents=True)
        (folder / "refs" / name / "1.png").write_bytes(as_png(draw_portrait(number, 5).pixels))
    drawn = next(one for one in (draw_picture(seed, identities=[*WHO.values()], style="photo") for seed in range(99))
                 if all(person.visible > 0.95 for person in one.people))  # fmt: skip
    (folder / "photo.png").write_bytes(as_png(drawn.pixels))
    layout, slots = layout_from_photo(folder / "photo.png", folder / "three.json", analyzer, refs=folder / "refs")
    assert slots == 0
    return drawn, layout, analyzer


def judged(pixels, layout, analyzer):
    return verify_picture(pixels, layout, prepare_faces(layout, analyzer), analyzer)


def edited(layout, change):
    document = layout.model_dump(mode="json", exclude_none=True)
    change(document["faces"])
    return parse_layout(document, layout.file)


def test_a_template_gives_names_and_places(three):
    drawn, layout, _ = three
    numbers = dict(WHO)
    people = {person.identity: person for person in drawn.people}
    assert (layout.width, layout.height) == (128, 128) and len(layout.faces) == 3
    for face in layout.faces:
        assert np.abs(face.place - people[numbers[face.name]].landmarks).mean() < 2


def test_right_swapped_missing_extra_and_twice(three):
    drawn, layout, analyzer = three
    verdict = judged(drawn.pixels, layout, analyzer)
    assert verdict.passed is True and verdict.threshold_from.startswith("calibration of mini over 300 people")

    def swap(faces):
        faces[0]["landmarks"], faces[2]["landmarks"] = faces[2]["landmarks"], faces[0]["landmarks"]

    swapped = judged(drawn.pixels, edited(layout, swap), analyzer)
    assert [face.state for face in swapped.faces] == ["swapped", "good", "swapped"] and swapped.passed is False
    assert swapped.score < verdict.score - 0.5

    extra = judged(drawn.pixels, edited(layout, lambda faces: faces.pop(1)), analyzer)
    assert [face.state for face in extra.faces] == ["good", "good"] and len(extra.extra) == 1 and extra.passed is False

    covered = drawn.pixels.copy()
    x0, y0, x1, y1 = (round(value) for value in next(
        person.face_box for person in drawn.people if person.identity == WHO[layout.faces[1].name]))  # fmt: skip
    covered[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = 90
    missing = judged(covered, layout, analyzer)
    assert missing.faces[1].state == "missing" and missing.passed is False

    twice = judged(np.concatenate([drawn.pixels, drawn.pixels], 1), edited(layout, squeeze), analyzer)
    assert sorted(one.twice for one in twice.extra) == ["ana", "ben", "eve"]


def squeeze(faces):
    """Places of the left half of a picture twice as wide."""
    for face in faces:
        face["landmarks"] = [[x / 2, y] for x, y in face["landmarks"]]


def test_a_captioner_writes_the_prompt(run, three, tmp_path):
    from tests.preprocess.fake_caption_server import FakeCaptionServer

    _, layout, _ = three
    with FakeCaptionServer() as server:
        code, _, err = run("layout", "from-photo", layout.file.parent / "photo.png", "--face-pack", "mini", "-o",
                           tmp_path / "told.json", "--captioner", "openai", "--caption-url", server.url)  # fmt: skip
    assert code == 0 and len(server.asked) == 1, err
    told = load_layout(tmp_path / "told.json")
    assert told.prompt and told.prompt != "A photo of three people."
    assert [face.name for face in told.faces] == ["person 1", "person 2", "person 3"]
    code, _, err = run("layout", "from-photo", layout.file.parent / "photo.png", "--face-pack", "mini", "-o",
                       tmp_path / "none.json", "--captioner", "nobody")  # fmt: skip
    assert code == 2 and "nobody" in err and not (tmp_path / "none.json").exists()


def test_places_to_be_filled_are_nobody_elses_and_are_checked(run, three, tmp_path):
    """A picture that lies there is somebody else's, and so is a name; small faces are told, smaller ones are refused."""
    drawn, layout, _ = three
    photo, refs, out = tmp_path / "wide.png", tmp_path / "refs", tmp_path / "to" / "new.json"
    photo.write_bytes(as_png(np.pad(drawn.pixels, ((0, 128), (0, 128), (0, 0)), constant_values=90)))
    (refs / "person 2").mkdir(parents=True)
    (refs / "person 2" / "1.png").write_bytes((layout.file.parent / "refs" / "ben" / "1.png").read_bytes())
    (out.parent / "new_refs").mkdir(parents=True)
    (out.parent / "new_refs" / "person_1.jpg").write_bytes(b"somebody else")
    asked = ["layout", "from-photo", photo, "--refs", refs, "--face-pack", "mini", "-o", out]
    code, _, err = run(*asked, "--size", "64x64")
    assert code == 2 and f"{photo}: faces[0].landmarks: the face is " in err and "smaller than a token" in err, err
    assert (
        "larger --size than 64x64" in err
        and not out.exists()
        and not (out.parent / "new_refs" / "person_2.png").exists()
    )
    code, _, err = run(*asked)
    assert code == 0 and "To fill: 2 reference pictures" in err and "Warning: new.json: faces[0]: " in err, err
    faces = {face.name: face.reference for face in load_layout(out).faces}
    assert sorted(faces) == ["person 2", "person 3", "person 4"]
    assert faces["person 2"] == "new_refs/person_2.png" and faces["person 3"] == "new_refs/person_3.jpg"
