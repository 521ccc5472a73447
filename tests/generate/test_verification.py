"""Planted mistakes in real photos are found: a swap, somebody missing, somebody extra, somebody twice."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.config.verify import VerifyConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.calibration import calibrated, calibration_file, write_calibration
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.generate.annotate import annotated
from anyphoto_cli.generate.conditions import prepare_faces
from anyphoto_cli.generate.from_photo import _matched, layout_from_photo
from anyphoto_cli.generate.known_people import Known
from anyphoto_cli.generate.verification import ExtraFace, FaceVerdict, _Judge, score_of, verify_picture
from anyphoto_cli.geometry import arcface_template, face_height
from anyphoto_cli.layout.schema import load_layout, parse_layout
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.types import Box, Face
from tests.conftest import small_layout

SURE = VerifyConfig(threshold=0.3)


@pytest.fixture(scope="module")
def couple(photos, face_pack, tmp_path_factory):
    """A photo of two known people, and the layout that asks for just that."""
    folder = tmp_path_factory.mktemp("couple")
    photo = photos / "groups" / "kit_with_rose.jpg"
    layout, slots = layout_from_photo(photo, folder / "couple.json", face_pack, refs=photos / "refs", threshold=0.3)
    assert slots == 0 and [face.name for face in layout.faces] == ["rose_leslie", "kit_harington"]
    return read_picture(photo), layout


def changed(layout, change):
    document = json.loads(layout.model_dump_json(exclude_none=True))
    change(document["faces"])
    return parse_layout(document, layout.file)


def states(picture, layout, face_pack, config=SURE):
    verdict = verify_picture(picture, layout, prepare_faces(layout, face_pack), face_pack, config)
    return {face.name: face.state for face in verdict.faces}, verdict


def test_the_photo_itself_passes_at_any_size(couple, face_pack):
    picture, layout = couple
    half = np.asarray(Image.fromarray(picture).resize((picture.shape[1] // 2, picture.shape[0] // 2)))
    for pixels in (picture, half):
        found, verdict = states(pixels, layout, face_pack)
        assert set(found.values()) == {"good"} and verdict.passed is True and not verdict.extra
        assert verdict.score > 0.5 and all(face.off < 0.05 for face in verdict.faces)


def test_a_swap_is_told_by_name(couple, face_pack):
    picture, layout = couple

    def swap(faces):
        faces[0]["landmarks"], faces[1]["landmarks"] = faces[1]["landmarks"], faces[0]["landmarks"]

    found, verdict = states(picture, changed(layout, swap), face_pack)
    assert set(found.values()) == {"swapped"} and verdict.passed is False
    assert {face.name: face.like for face in verdict.faces} == {
        "rose_leslie": "kit_harington", "kit_harington": "rose_leslie",
    }  # fmt: skip
    assert verdict.score < 0
    assert "rose_leslie: is kit_harington" in verdict.lines()[0]


def exchanged(picture, layout, moves):
    """A copy in which the face at each place `there` is the one from `here`, scaled. moves: (here, there)."""
    from skimage.transform import SimilarityTransform, warp

    scale = np.array([picture.shape[1] / layout.width, picture.shape[0] / layout.height])
    places = [face.place * scale for face in layout.faces]
    pasted = picture.copy()
    for there, here in moves:
        move = SimilarityTransform.from_estimate(places[here], places[there])
        rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
        middle, size = places[here].mean(0), float(face_height(places[here]))
        inside = np.hypot(columns - middle[0], rows - middle[1]) < 0.62 * size
        pasted[inside] = (warp(picture, move, order=1) * 255).round().astype(np.uint8)[inside]
    return pasted


def test_swapped_pixels_are_a_swap_too(couple, face_pack, monkeypatch, tmp_path):
    """The faces themselves exchanged in the picture; without a threshold it is a guess, and a finding."""
    picture, layout = couple
    pasted = exchanged(picture, layout, ((0, 1), (1, 0)))
    assert set(states(pasted, layout, face_pack)[0].values()) == {"swapped"}
    monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path))
    found, verdict = states(pasted, layout, face_pack, VerifyConfig())
    assert set(found.values()) == {"perhaps swapped"} and verdict.passed is False and verdict.score < 0
    assert "rose_leslie: perhaps swapped, more like kit_harington" in verdict.lines()[0]
    assert verdict.to_json()["faces"][0]["like"] == "kit_harington"
    annotated(pasted, layout, verdict)


def test_at_anothers_place_as_well_as_at_their_own_is_twice(couple, face_pack):
    picture, layout = couple
    found, verdict = states(exchanged(picture, layout, ((0, 1),)), layout, face_pack)
    assert found == {"rose_leslie": "good", "kit_harington": "twice"} and verdict.passed is False
    assert "kit_harington: is rose_leslie a second time" in verdict.lines()[1]
    annotated(picture, layout, verdict)


def test_somebody_missing_and_somebody_extra(couple, face_pack):
    picture, layout = couple
    points = np.array(layout.faces[0].landmarks)

    def add(faces):
        faces.append({"name": "nobody", "reference": faces[0]["reference"],
                      "landmarks": (points * 0.4 + [layout.width * 0.7, layout.height * 0.8]).tolist()})  # fmt: skip

    found, verdict = states(picture, changed(layout, add), face_pack)
    assert found == {"rose_leslie": "good", "kit_harington": "good", "nobody": "missing"}
    assert verdict.passed is False and "nobody: missing" in verdict.lines()
    found, verdict = states(picture, changed(layout, lambda faces: faces.pop()), face_pack)
    assert found == {"rose_leslie": "good"} and verdict.passed is False
    assert [extra.twice for extra in verdict.extra] == [""]
    assert "nobody asked for" in verdict.lines()[-1]


def test_somebody_twice(couple, face_pack):
    picture, layout = couple
    wide = np.concatenate([picture, picture], 1)

    def squeeze(faces):
        for face in faces:
            face["landmarks"] = [[x / 2, y] for x, y in face["landmarks"]]

    found, verdict = states(wide, changed(layout, squeeze), face_pack)
    assert set(found.values()) == {"good"} and sorted(one.twice for one in verdict.extra) == [
        "kit_harington", "rose_leslie",
    ]  # fmt: skip


def test_off_their_place_and_unlike(couple, face_pack, photos):
    picture, layout = couple
    size = float(face_height(np.array(layout.faces[0].landmarks)))

    def shift(faces):
        faces[0]["landmarks"] = [[x + 0.4 * size, y] for x, y in faces[0]["landmarks"]]

    found, verdict = states(picture, changed(layout, shift), face_pack)
    assert found == {"rose_leslie": "off", "kit_harington": "good"} and 0.3 < verdict.faces[0].off < 0.5
    stranger = next(iter(sorted((photos / "refs" / "biden").iterdir())))
    other = layout.file.parent / "couple_refs" / "stranger.jpg"
    other.write_bytes(stranger.read_bytes())

    def exchange(faces):
        faces[0] |= {"name": "biden", "reference": "couple_refs/stranger.jpg"}

    found, _ = states(picture, changed(layout, exchange), face_pack)
    assert found == {"biden": "unlike", "kit_harington": "good"}


def test_without_a_threshold_nobody_is_judged(run, couple, photos, face_pack, face_pack_folder, monkeypatch, tmp_path):
    """And by one over a handful of people neither, unless it was forced."""
    monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path))
    picture, layout = couple
    found, verdict = states(picture, layout, face_pack, VerifyConfig())
    assert set(found.values()) == {"found"} and verdict.passed is None and "is not calibrated" in verdict.threshold_from
    stored = calibration_file(face_pack)
    few = calibrated({name: np.eye(512, dtype=np.float32)[[k]] for k, name in enumerate("ab")}, "p", face_pack.sha256)
    write_calibration(few, stored)
    stored.write_text(
        json.dumps({key: value for key, value in few.model_dump().items() if key != "forced"})
    )  # an old one
    code, said, err = run("verify", photos / "groups" / "kit_with_rose.jpg", "--layout", layout.file, "--quiet",
                          "--face-pack", face_pack_folder, "-o", tmp_path)  # fmt: skip
    assert code == 0 and "likeness not judged" in said and "rose_leslie: found" in said
    assert "Warning: Likeness: calibration of p over 2 people has fewer than 100 pairs" in err
    write_calibration(few.model_copy(update={"forced": True}), stored)
    assert set(states(picture, layout, face_pack, VerifyConfig())[0].values()) == {"good"}


def test_no_faces_at_all(couple, face_pack):
    picture, layout = couple
    found, verdict = states(np.full_like(picture, 128), layout, face_pack)
    assert set(found.values()) == {"missing"} and verdict.score == -1 and verdict.passed is False


def test_who_is_there_twice_by_hand():
    def states_of(names, similar, threshold=0.4):
        found = [Face(Box(0, 0, 9, 9), np.zeros((5, 2)), 0.9)] * len(names)
        judge = _Judge(names, np.array(similar), threshold, 0.5, {place: place for place in range(len(names))})
        return [judge.of(place, found, place, 0.0).state for place in range(len(names))]

    assert states_of(["ana", "ben"], [[0.1, 0.6], [0.0, 0.5]]) == ["twice", "good"]
    assert states_of(["ana", "ben"], [[0.1, 0.6], [0.0, 0.3]]) == ["swapped", "unlike"]  # ben is not at home
    assert states_of(["ana", "ana"], [[0.5, 0.6], [0.6, 0.5]]) == ["good", "good"]  # two photos of one person


def test_what_best_of_compares_by_hand():
    """Another person's face costs .5, one that nobody asked for .25, half of how far off one stands, somebody missing 1."""
    here = Box(0, 0, 9, 9)
    good, missing = FaceVerdict("ana", "good", 0.6, 0.2, here), FaceVerdict("ben", "missing")
    others = [FaceVerdict("cem", state, 0.1, 0.0, here, "ana") for state in ("swapped", "perhaps swapped", "twice")]
    assert score_of([good], []) == pytest.approx(0.5)
    assert score_of([good, missing], []) == pytest.approx((0.5 - 1) / 2)
    assert [score_of([good, other], []) for other in others] == pytest.approx([(0.5 + 0.1 - 0.5) / 2] * 3)
    assert score_of([good], [ExtraFace(here), ExtraFace(here, "ana")]) == pytest.approx(0.5 - 2 * 0.25)
    assert score_of([], []) == 0


def test_boxes_are_drawn_on_a_copy(couple, face_pack):
    picture, layout = couple
    before = picture.copy()
    _, verdict = states(picture, layout, face_pack)
    image = np.asarray(annotated(picture, layout, verdict))
    assert np.array_equal(picture, before) and max(image.shape[:2]) >= 768
    green = np.array([0x15, 0x80, 0x3D])
    x0, y0, x1, _ = verdict.faces[0].box
    zoom = image.shape[0] // picture.shape[0]
    row = image[round((y0 + 0.5) * zoom), round((x0 + 1) * zoom) : round(x1 * zoom)]
    assert (np.abs(row.astype(int) - green).sum(1) == 0).mean() > 0.9


def test_on_the_command_line(run, couple, photos, face_pack_folder, tmp_path):
    _, layout = couple
    photo = photos / "groups" / "kit_with_rose.jpg"
    code, said, err = run("verify", photo, "--layout", layout.file, "--face-pack", face_pack_folder, "--threshold", "0.3",
                          "--annotate", "-o", tmp_path)  # fmt: skip
    assert code == 0 and "passed" in said and "rose_leslie: good" in said, err
    told = json.loads((tmp_path / "kit_with_rose.verify.json").read_text())
    assert told["passed"] is True and told["threshold"] == 0.3 and len(told["pixels_sha256"]) == 64
    assert (tmp_path / "kit_with_rose.verify.png").is_file()
    code, said, _ = run("verify", photo, "--layout", layout.file, "--face-pack", face_pack_folder, "--threshold", "0.99",
                        "--json", "-o", tmp_path)  # fmt: skip
    assert code == 3 and json.loads(said)["pictures"][0]["faces"][0]["state"] == "unlike"
    assert "drawn faces only" not in err
    err = run("verify", photo, "--layout", layout.file, "-o", tmp_path / "drawn")[2]
    assert "no face pack was named: the one that came with anyphoto looks, which knows drawn faces only" in err
    code, _, err = run("verify", photo, "--face-pack", face_pack_folder)
    assert code == 2 and "says nothing of a layout" in err
    code, said, err = run("verify", photo, tmp_path / "none.png")  # told before the first is looked at
    assert code == 2 and "none.png: no such file" in err and not said and "Traceback" not in err
    (tmp_path / "torn.png").write_bytes(b"no picture")
    code, said, err = run("verify", photo, tmp_path / "torn.png", "--layout", layout.file, "--face-pack", face_pack_folder,
                          "-o", tmp_path / "beside")  # fmt: skip
    assert code == 2 and "torn.png" in err and "Traceback" not in err
    assert "kit_with_rose.jpg: " in said and (tmp_path / "beside" / "kit_with_rose.verify.json").is_file()


def test_copies_with_boxes_are_left_out_and_no_verdict_replaces_another(run, tmp_path, monkeypatch):
    """`out/*.png` names the copies of --annotate, too."""
    monkeypatch.chdir(tmp_path)
    layout = small_layout(tmp_path)
    Image.new("RGB", (128, 128)).save("x.png")
    asked = ["--layout", layout, "--face-pack", "mini"]
    for _ in range(2):
        code, said, err = run("verify", *sorted(tmp_path.glob("x*.png")), *asked, "--annotate", "--json")
        assert code == 3 and len(json.loads(said)["pictures"]) == 1, err
    assert sorted(file.name for file in tmp_path.glob("x*")) == ["x.png", "x.verify.json", "x.verify.png"]
    code, _, err = run("verify", "x.verify.png", *asked)
    assert code == 2 and "x.verify.png: is a copy that was drawn on" in err
    (tmp_path / "o2").mkdir()
    for other, to in (("x.jpg", ()), ("o2/x.png", ("-o", "seen"))):
        Image.new("RGB", (128, 128)).save(other)
        code, _, err = run("verify", "x.png", other, *asked, *to)
        assert code == 2 and f"{other}: would have its verdict in the same file as x.png" in err, err
    assert not (tmp_path / "seen").exists()
    assert run("verify", "x.png", "x.png", *asked)[0] == 3  # the same one twice does no harm
    Image.new("RGB", (128, 128)).save("o2/x.verify.png")
    code, said, err = run("verify", "o2", *asked, "--json")  # a folder is the pictures in it
    assert code == 3 and [one["picture"] for one in json.loads(said)["pictures"]] == ["o2/x.png"], err
    (tmp_path / "o3").mkdir()
    code, _, err = run("verify", "o3", *asked)
    assert code == 2 and "o3: is a folder without pictures" in err


def test_a_template_with_a_stranger_leaves_a_slot(run, photos, face_pack_folder, tmp_path):
    out = tmp_path / "party.json"
    code, said, err = run("layout", "from-photo", photos / "groups" / "obama_and_biden.jpg", "--refs", photos / "refs",
                          "--face-pack", face_pack_folder, "--threshold", "0.3", "-o", out, "--json")  # fmt: skip
    assert code == 0, err
    told = json.loads(said)
    assert told["faces"][:2] == ["biden", "obama"] and told["to_fill"] == 1
    layout = load_layout(out)
    assert layout.prompt == "A photo of three people." and layout.faces[2].reference == "party_refs/person_1.jpg"
    assert layout.reference_path(2).parent.is_dir()
    assert 0.9 < layout.width * layout.height / 1024**2 < 1.1
    code, _, err = run("layout", "check", out)
    assert code == 2 and "party_refs/person_1.jpg" in err  # it says what is still to be filled


def test_a_small_bank_names_no_strangers(run, photos, face_pack_folder, tmp_path, monkeypatch):
    """Two people have one pair, from which nothing follows; the threshold was -0.12 here."""
    monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path / "home"))
    for name in ("obama", "biden"):
        (tmp_path / "refs" / name).mkdir(parents=True)
        (tmp_path / "refs" / name / "1.jpg").write_bytes((photos / "refs" / name / f"{name}.jpg").read_bytes())
    asked = [photos / "groups" / "kit_with_rose.jpg", "--refs", tmp_path / "refs", "--face-pack", face_pack_folder]
    code, said, err = run("layout", "from-photo", *asked, "-o", tmp_path / "couple.json", "--json")
    assert code == 0 and json.loads(said)["faces"] == ["person 1", "person 2"], err
    assert "the known people are too few to tell" in err and "--threshold" in err


@pytest.mark.parametrize(("key", "value", "told"), [
    ("bbox", [0, 0, 1e308, 1e308], r"faces\[0\].bbox: lies more than 4 canvases away"),
    ("bbox", [9, 9, 9, 9], r"faces\[0\].bbox: the box is empty"),
    ("reference_landmarks", [[1e308, 45], [75, 45], [57, 66], [43, 88], [72, 88]],
     r"faces\[0\].reference_landmarks: a point lies outside the reference, which is 112x112"),
    ("reference_landmarks", [[9, 9]] * 5, r"faces\[0\].reference_landmarks: the points lie on one spot or line"),
])  # fmt: skip
def test_places_that_hold_no_face_are_refused_as_a_render_refuses_them(layout_file, key, value, told):
    """Nobody need have checked a layout that pictures are held against."""
    document = json.loads(layout_file.read_text())
    document["faces"][0][key] = value
    layout_file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=f"trip.json: {told}"):
        prepare_faces(load_layout(layout_file), None)


def test_a_template_without_faces_is_refused(run, face_pack_folder, tmp_path):
    Image.new("RGB", (256, 256), "navy").save(tmp_path / "sea.png")
    code, _, err = run("layout", "from-photo", tmp_path / "sea.png", "--face-pack", face_pack_folder, "-o",
                       tmp_path / "sea.json")  # fmt: skip
    assert code == 2 and "found no face" in err and not (tmp_path / "sea.json").exists()


class Told:
    """A face pack that finds what it is told, and whose rows are those it is told."""

    name, sha256, detects = "told", "0" * 64, True

    def __init__(self, faces, rows):
        self.faces, self.rows = faces, np.array(rows, np.float32)

    def detect(self, pictures, size=640):
        return [self.faces]

    def embed(self, crops):
        return self.rows[: len(crops)]


def seen(x, y, score=0.9, side=48):
    return Face(Box(x, y, x + side, y + side), arcface_template() * (side / 112) + (x, y), score)


def test_what_is_hardly_a_face_counts_as_one_where_it_is_asked_for(layout_file):
    layout = load_layout(layout_file)
    faces = [Face(Box(0, 0, 9, 9), face.place, 0.9) for face in layout.faces] + [seen(40, 90, 0.3, 24)]
    pack, picture = Told(faces, [[1, 0], [0, 1], [0, 0]]), np.zeros((128, 128, 3), np.uint8)
    for least, extra in ((0.5, 0), (0.2, 1)):
        told = VerifyConfig(threshold=0.3, least_score=least)
        verdict = verify_picture(picture, layout, SimpleNamespace(embeddings=np.eye(2)), pack, told)
        assert len(verdict.extra) == extra and verdict.passed is (extra == 0)


def test_places_of_a_template_are_in_px_of_the_layout_from_left_to_right(tmp_path):
    Image.new("RGB", (320, 160)).save(tmp_path / "party.png")
    left, right = seen(30, 50), seen(200, 60)
    pack = Told([right, seen(120, 40, 0.4), left], [])
    layout, free = layout_from_photo(tmp_path / "party.png", tmp_path / "party.json", pack, size=(640, 160))
    assert free == 2 and (layout.width, layout.height) == (640, 160)
    for face, there in zip(layout.faces, (left, right), strict=True):
        assert np.allclose(face.place, there.landmarks * (2, 1), atol=0.1)


def test_a_name_goes_by_all_photos_of_a_person_and_to_nobody_who_is_not_alike_enough():
    picture, places = np.zeros((99, 99, 3), np.uint8), [seen(0, 0), seen(50, 0)]

    def names(rows, **people):
        known = {name: Known(None, np.array(embeddings, np.float32)) for name, embeddings in people.items()}
        return _matched(picture, places, known, Told([], rows), 0.4, Listener())

    assert names([[0.5, 0.39], [0.49, 0]], ana=[[1, 0]], ben=[[0, 1]]) == ["ana", None]
    assert names([[0.7, 0], [0, 0.9]], ana=[[1, 0], [0, 0]], ben=[[0, 1], [0, 0.5]]) == [None, "ben"]
