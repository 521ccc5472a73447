"""The drawn world: the same bytes everywhere, exact truth, captions that are true."""

import hashlib
import json
import os
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anyphoto_cli.mini import photos
from anyphoto_cli.mini.identity import HAIR_COLOURS, identity, sibling_of
from anyphoto_cli.mini.picture import TRAINING_IDENTITIES, Place, draw_picture, draw_portrait
from anyphoto_cli.mini.types import HELD_OUT, SCENES, STYLES
from anyphoto_cli.runtime.run_record import only_one

# sha256 of the pixels of pictures 0-11, one after the other, and of their captions: they are the same on every machine.
PIXELS = "b17fc73f27b5bdc82414323437ea4d3b7980fed99fdb32a631fc0a4a910b512a"
CAPTIONS = "e7b00282bd027f0317a310e66d1976f1abfab5a0dbec73ff0544ed8393432e64"


def digests() -> tuple[str, str]:
    drawn = [
        draw_picture(k, style=STYLES[k % 6], scene=SCENES[k % 8], size=(128 + 32 * (k % 3), 128)) for k in range(12)
    ]
    pixels = hashlib.sha256(b"".join(picture.pixels.tobytes() for picture in drawn)).hexdigest()
    said = hashlib.sha256("\n".join(picture.caption for picture in drawn).encode()).hexdigest()
    return pixels, said


def test_the_world_is_the_same_on_every_machine():
    assert digests() == (PIXELS, CAPTIONS)


def test_another_process_with_another_hash_seed_draws_the_same():
    code = "from anyphoto_cli.mini.picture import draw_picture as d; import hashlib; print(hashlib.sha256(d(7).pixels).hexdigest())"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {hashlib.sha256(draw_picture(7).pixels).hexdigest() + "\n"}


@given(st.integers(0, 2**40), st.sampled_from([(128, 128), (192, 128), (128, 160), (256, 256)]))
def test_truth_lies_in_the_picture_and_in_order(seed, size):
    picture = draw_picture(seed, size=size)
    assert picture.pixels.shape == (size[1], size[0], 3) and picture.pixels.dtype == np.uint8
    assert 1 <= len(picture.people) <= 4 and len(picture.paraphrases) == 3
    centres = []
    for person in picture.people:
        for box in (person.person_box, person.face_box):
            assert -0.5 <= box.x0 < box.x1 <= size[0] - 0.5 and -0.5 <= box.y0 < box.y1 <= size[1] - 0.5
        assert 0 <= person.visible <= 1 and person.landmarks.shape == (5, 2)
        left_eye, right_eye, _, left_mouth, right_mouth = person.landmarks
        assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert left_eye[1] < left_mouth[1] and right_eye[1] < right_mouth[1]
        inside = person.person_box
        assert inside.x0 - 1 <= person.face_box.x0 and person.face_box.x1 <= inside.x1 + 1
        centres.append((person.face_box.x0 + person.face_box.x1) / 2)
    assert all(left <= right + person_width(picture) for left, right in pairwise(centres))


def person_width(picture) -> float:
    return max(person.face_box.width for person in picture.people) / 2


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_has_the_size_asked_for_in_every_style(style):
    """An odd one, too: pixel art lost its last row and column, and boxes lay outside of it."""
    odd, even = (draw_picture(7, style=style, size=size).pixels for size in ((129, 97), (128, 96)))
    assert odd.shape == (97, 129, 3) and even.shape == (96, 128, 3)


def test_pupils_are_where_the_truth_says():
    """A portrait looking ahead without glasses: dark pupils inside white eyes at the two landmarks."""
    checked = 0
    for number in range(60):
        who = identity(number)
        if who.glasses != "none":
            continue
        drawn = draw_picture(
            number,
            identities=[number],
            places=[Place(64, 60, 34)],
            scene="studio",
            style="photo",
            calm=0.0,
            obstacles=False,
        )
        row, column = np.rint(drawn.people[0].landmarks[:2, ::-1]).astype(int).T
        pupil = np.stack([drawn.pixels[row + below, column].sum(1) for below in (-1, 0, 1)]).min(0)  # beside the glint
        white = np.stack([drawn.pixels[row, column + side].sum(1) for side in (-4, -5, 4, 5)]).max(0)
        assert (pupil + 120 < white).all(), (number, pupil, white)
        checked += 1
    assert checked > 30


def test_boxes_bound_what_is_drawn():
    """What changes when a person is added to an otherwise equal picture lies in the person's box."""
    for number in range(12):
        one = draw_picture(
            3, identities=[number], places=[Place(40, 50, 20)], scene="room", style="photo", calm=0.5, obstacles=False
        )
        box = one.people[0].person_box
        other = draw_picture(
            3,
            identities=[number + 500],
            places=[Place(300, 50, 20)],
            scene="room",
            style="photo",
            calm=0.5,
            obstacles=False,
        )
        changed = np.argwhere(np.abs(one.pixels.astype(int) - other.pixels).max(2) > 60)
        (top, left), (bottom, right) = changed.min(0), changed.max(0)
        assert box.x0 - 2 <= left and right <= box.x1 + 2 and box.y0 - 2 <= top and bottom <= box.y1 + 2
        assert abs(left - box.x0) < 4 and abs(top - box.y0) < 5  # and the box is tight


def test_what_is_hidden_counts_off():
    places = [Place(64, 60, 24), Place(70, 62, 26)]
    behind, front = draw_picture(1, identities=[1, 2], places=places, obstacles=False).people
    assert behind.identity == 1 and front.identity == 2
    assert front.visible > 0.9 and behind.visible < 0.4
    outside = draw_picture(1, identities=[1], places=[Place(0, 60, 24)], obstacles=False).people[0]
    assert 0.3 < outside.visible < 0.7


def test_identities_are_many_and_distinct():
    people = [identity(number) for number in range(2000)]
    assert len({(p.hairstyle, p.hair_name, p.beard, p.glasses, p.skin, p.mark, p.iris) for p in people}) > 1900
    elder, younger = identity(18), identity(19)  # every tenth is a sibling
    assert elder.skin == younger.skin and elder.hair == younger.hair and elder.woman == younger.woman
    assert elder.head_width == younger.head_width and elder.jaw != younger.jaw
    assert all(p.beard == "none" for p in people if p.woman)


def test_captions_tell_the_truth():
    numbers = {1: ("a ", "one "), 2: ("two ", "2 ", " and "), 3: ("three ", "3 ", " and "), 4: ("four ", "4 ", " and ")}
    for seed in range(300):
        picture = draw_picture(seed)
        people = [identity(person.identity) for person in picture.people]
        for said in (picture.caption, *picture.paraphrases):
            text = said.lower()
            assert any(word in text for word in numbers[len(people)]), said
            if "women" in text and not re.search(r"\b(man|men)\b", text):
                assert all(person.woman for person in people), said
            for colour in HAIR_COLOURS:
                if re.search(rf"(?<!dark ){colour} (hair|afro|bob)", text):
                    assert any(person.hair_name == colour for person in people), said
            if "pencil" in text or "sepia" in text or "comic" in text or "pixel" in text or "watercolo" in text:
                assert picture.style != "photo", said


def test_portraits_of_one_person_differ_in_everything_but_the_person():
    first, second = draw_portrait(5, 1), draw_portrait(5, 2)
    assert first.people[0].identity == second.people[0].identity == 5
    assert not np.allclose(first.people[0].landmarks, second.people[0].landmarks, atol=2)
    assert np.array_equal(draw_portrait(5, 1).pixels, first.pixels)


def test_photos_command_writes_a_users_folder(run, tmp_path, monkeypatch):
    out = tmp_path / "set"
    command = ("mini", "photos", "--people", 4, "--groups", 6, "--references", 2, "--seed", 3, "-o", out)
    code, told, _ = run(*command)
    assert code == 0 and "6 photos" in told and "8 references of 4 people" in told
    truths = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    assert [truth["file"] for truth in truths] == [f"photos/{k:06d}.png" for k in range(1, 7)]
    names = {folder.name for folder in (out / "refs").iterdir()}
    assert {person["name"] for truth in truths for person in truth["people"]} <= names and len(names) == 4
    with Image.open(out / truths[0]["file"]) as photo:
        assert photo.size == (128, 128)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for file in list(before)[::3]:  # cut off: what is missing comes back, byte for byte
        if file.name != "mini.json":
            file.unlink()
    code, told, _ = run(*command)
    assert code == 0 and "were there already" in told
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    monkeypatch.setattr(photos, "draw_portrait", None)  # those that are there are not drawn again
    assert run(*command)[0] == 0


def test_a_layout_that_was_edited_stays_so_and_two_runs_do_not_draw_in_one_folder(run, tmp_path):
    out = tmp_path / "set"
    command = ("mini", "photos", "--people", 2, "--groups", 2, "--references", 1, "--layouts", "-o", out)
    assert run(*command)[0] == 0
    edited = out / "layouts" / "000001.json"
    edited.write_text(edited.read_text().replace('"seed": 0', '"seed": 77'))
    (out / "layouts" / "000002.json").unlink()
    assert run(*command)[0] == 0 and '"seed": 77' in edited.read_text() and (out / "layouts" / "000002.json").is_file()
    with only_one(out):
        code, _, err = run(*command)
    assert code == 2 and err.startswith(f"Error: {out}: is in use by another run (process {os.getpid()} on ")
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / ".lock").touch()  # of a run that was killed before it had written anything
    assert run(*command[:-1], tmp_path / "fresh")[0] == 0


def test_a_sheet_of_another_ending_is_refused(run, tmp_path):
    code, _, err = run("mini", "sheet", "-o", tmp_path / "world.jpg")
    assert code == 2 and err == f"Error: {tmp_path}/world.jpg: --out: does not end in .png\n"
    assert not list(tmp_path.iterdir())


def test_training_and_held_out_people_never_mix(run, tmp_path):
    for flag, low, high in (((), 0, TRAINING_IDENTITIES), (("--held-out",), HELD_OUT, 2 * HELD_OUT)):
        out = tmp_path / ("test" if flag else "train")
        assert run("mini", "photos", "--people", 30, "--groups", 20, "--references", 0, "-o", out, *flag)[0] == 0
        truths = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
        assert all(low <= person["identity"] < high for truth in truths for person in truth["people"])


def embeddings(files):
    """[n, 512] of the surest face in each file."""
    from anyphoto_cli.faces.norm_crop import norm_crop
    from anyphoto_cli.faces.packs import open_faces

    faces, pictures = open_faces("mini"), [np.asarray(Image.open(file)) for file in files]
    found = [max(one, key=lambda face: face.score) for one in faces.detect(pictures)]
    return faces.embed(np.stack([norm_crop(one, face.landmarks) for one, face in zip(pictures, found, strict=True)]))


def test_siblings_stand_side_by_side(run, tmp_path):
    out = tmp_path / "world"
    code, _, err = run("mini", "photos", "--people", 20, "--groups", 40, "--references", 1, "--held-out", "--siblings",
                       "-o", out)  # fmt: skip
    assert code == 0, err
    truths = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    pictured = [[person["identity"] for person in truth["people"]] for truth in truths]
    assert all(HELD_OUT <= number < 2 * HELD_OUT and len(set(who)) == len(who) for who in pictured for number in who)
    pairs = [who for who in pictured if any(number % 10 == 9 and number - 1 in who for number in who)]
    several = [who for who in pictured if len(who) > 1]
    assert 0.2 < len(pairs) / len(several) < 0.6
    names = {person["identity"]: person["name"] for truth in truths for person in truth["people"]}
    found = embeddings([out / "refs" / name / "01.png" for name in names.values()])
    vectors = dict(zip(names, found, strict=True))
    related = [float(vectors[n] @ vectors[n - 1]) for n in vectors if n % 10 == 9 and n - 1 in vectors]
    assert all(sibling_of(n) == n - 1 and sibling_of(n - 1) == n for n in vectors if n % 10 == 9)
    strangers = [float(vectors[a] @ vectors[b]) for a in vectors for b in vectors if a // 10 != b // 10]
    assert len(related) >= 4 and np.mean(related) > np.mean(strangers) + 0.1
    code, _, err = run("mini", "photos", "--people", 3, "--siblings", "-o", tmp_path / "few")
    assert (
        code == 2
        and err.strip() == "Error: --people: with --siblings it is 4 at least"
        and not (tmp_path / "few").exists()
    )


def test_layouts_ask_for_the_photos_again(run, tmp_path):
    from anyphoto_cli.layout.schema import load_layout

    out = tmp_path / "world"
    code, _, err = run("mini", "photos", "--people", 4, "--groups", 3, "--layouts", "--held-out", "-o", out)
    assert code == 0, err
    truths = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    files = sorted((out / "layouts").glob("*.json"))
    assert len(files) == len(truths) == 3
    for file, truth in zip(files, truths, strict=True):
        layout = load_layout(file)
        assert (layout.prompt, layout.width, layout.height) == (truth["caption"], 128, 128)
        assert [face.name for face in layout.faces] == [person["name"] for person in truth["people"]]
        for place, (face, person) in enumerate(zip(layout.faces, truth["people"], strict=True)):
            assert np.allclose(face.place, person["landmarks"], atol=0.006)
            first = out / "refs" / face.name / "01.png"
            assert layout.reference_path(place).read_bytes() == first.read_bytes()
    assert run("layout", "check", files[0])[0] == 0


def test_worn_references_show_little_and_are_still_known(run, tmp_path):
    """The photos are the same, and so are the bytes of another run."""
    for name, *flag in (("good",), ("worn", "--worn"), ("again", "--worn")):
        code, _, err = run("mini", "photos", "--people", 24, "--groups", 2, "--references", 1, "--held-out", "--layouts",
                           *flag, "-o", tmp_path / name)  # fmt: skip
        assert code == 0, err
    good, worn, again = (
        {file.relative_to(tmp_path / name).as_posix(): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in ("good", "worn", "again")
    )
    assert worn == again and {name for name in good if good[name] != worn[name]} == {
        name for name in good if "refs/" in name or name == "mini.json"
    }
    assert b"worn" not in good["mini.json"]  # what folders of older versions hold
    embedded = [embeddings(sorted((tmp_path / name / "refs").rglob("*.png"))) for name in ("good", "worn")]
    table = embedded[1] @ embedded[0].T
    own, others = np.diag(table).mean(), table[~np.eye(len(table), dtype=bool)].mean()
    assert own > others + 0.3 and (table.argmax(1) == np.arange(len(table))).mean() > 0.7, (own, others)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--people", 0), "Error: --people: 0 is not between 1 and 10000"),
        (("--width", 20), "Error: --width: 20 is not between 64 and 1024"),
        (
            ("--width", 100, "--layouts"),
            "Error: --width: with --layouts it is a multiple of 16, as what is rendered is",
        ),
        (("--groups", -1), "Error: --groups: -1 is not between 0 and 1000000"),
    ],
)
def test_photos_refuses_in_one_line(run, tmp_path, options, line):
    code, _, err = run("mini", "photos", "-o", tmp_path / "x", *options)
    assert code == 2 and err.strip() == line and not (tmp_path / "x").exists()


def test_photos_writes_into_no_strange_folder(run, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    code, _, err = run("mini", "photos", "-o", tmp_path)
    assert code == 2 and "is not an empty folder. Name a new folder" in err
    code, told, _ = run("mini", "photos", "--people", 1, "--groups", 1, "--references", 1, "-o", tmp_path / "a")
    assert code == 0 and told == f"{tmp_path}/a/photos: 1 photo, {tmp_path}/a/refs: 1 reference of 1 person\n"
    code, _, err = run("mini", "photos", "--people", 2, "--groups", 1, "--references", 1, "-o", tmp_path / "a")
    assert code == 2 and "holds photos of other settings (--people 1, now 2). Name another folder" in err
    code, _, err = run(
        "mini", "photos", "--people", 1, "--groups", 1, "--references", 1, "--worn", "-o", tmp_path / "a"
    )
    assert code == 2 and "(--worn False, now True)" in err


def test_sheet(run, tmp_path):
    assert run("mini", "sheet", "-o", tmp_path / "world.png")[0] == 0
    with Image.open(tmp_path / "world.png") as sheet:
        assert sheet.width > 1500


def test_hair_and_clothes_of_whoever_stands_in_front_hide_a_face():
    """The nearer person's long hair covers half of the other face: it is no longer wholly seen."""
    from anyphoto_cli.mini.identity import identity
    from anyphoto_cli.mini.picture import Place

    long = next(n for n in range(2000) if identity(n).hairstyle == "long")
    bald = next(n for n in range(2000) if identity(n).hairstyle == "bald")
    apart, behind = (
        draw_picture(5, identities=[bald, long], places=[Place(40, 60, 20), Place(x, 60, 24)], obstacles=False).people[
            0
        ]
        for x in (100, 64)
    )
    assert apart.identity == behind.identity == bald and apart.visible > 0.95 > 0.75 > behind.visible
