"""Places that nobody typed: inside the picture, apart, upright, the same for the same seed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyphoto_cli.errors import InputError
from anyphoto_cli.geometry import face_height, is_mirrored
from anyphoto_cli.layout.arrange import PRESETS, arrange
from anyphoto_cli.layout.check import check_layout
from anyphoto_cli.layout.schema import load_layout
from anyphoto_cli.layout.write import names_of, parse_size
from tests.conftest import small_layout


@given(
    count=st.integers(1, 12), width=st.integers(32, 96), height=st.integers(32, 96), preset=st.sampled_from([*PRESETS]),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_inside_apart_and_upright(count, width, height, preset, seed):
    width, height = width * 16, height * 16
    places = arrange(count, width, height, preset, seed)
    again = arrange(count, width, height, preset, seed)
    assert all(np.array_equal(a, b) for a, b in zip(places, again, strict=True)) and len(places) == count
    middles, heights = np.array([p.mean(0) for p in places]), np.array([float(face_height(p)) for p in places])
    assert (np.diff(middles[:, 0]) >= 0).all()
    for points, middle, size in zip(places, middles, heights, strict=True):
        assert not is_mirrored(points) and (points > 0).all() and (points < [width, height]).all()
        assert abs(np.degrees(np.arctan2(*(points[1] - points[0])[::-1]))) < 13
        assert (middle >= 0.6 * size).all() and (middle <= np.array([width, height]) - 0.6 * size).all()
    for k in range(count):
        for other in range(k):
            away = np.linalg.norm(middles[k] - middles[other]) / ((heights[k] + heights[other]) / 2)
            assert away > 1.3


@pytest.mark.parametrize("size", [(128, 128), (192, 128), (1024, 1024)])
@pytest.mark.parametrize("preset", ["row", "portrait"])
def test_where_more_people_fit_fewer_do(preset, size):
    fits = []
    for count in range(1, 9):
        try:
            arrange(count, *size, preset)
            fits.append(count)
        except InputError:
            pass
    assert fits == list(range(1, len(fits) + 1)) and len(fits) >= 6


def test_another_seed_moves_them_and_a_preset_is_told_from_another():
    one, two = arrange(3, 1024, 768, "row", 0), arrange(3, 1024, 768, "row", 1)
    assert not np.allclose(one[0], two[0])
    heights = {name: np.mean([face_height(p) for p in arrange(1, 1024, 1024, name, 0)]) for name in PRESETS}
    assert heights["portrait"] > 1.2 * heights["row"]
    top, *below = sorted(arrange(3, 1024, 1024, "pyramid", 0), key=lambda points: points[:, 1].mean())
    assert all(points[:, 1].mean() > top[:, 1].mean() + 100 for points in below)


@pytest.mark.parametrize(("arguments", "told"), [
    ((0, 512, 512), "0 people"), ((65, 512, 512), "65 people"), ((2, 512, 512, "heap"), "'heap' is no preset"),
    ((40, 128, 128), "40 faces do not fit into 128x128"),
])  # fmt: skip
def test_refusals(arguments, told):
    with pytest.raises(InputError, match=told):
        arrange(*arguments)


@pytest.mark.parametrize(("text", "told"), [("big", "'big' is no size"), ("1000x1000", "is no multiple of 16")])
def test_sizes_that_are_none(text, told):
    with pytest.raises(InputError, match=told):
        parse_size(text)


def test_everybody_has_a_name_of_their_own(tmp_path):
    files = [tmp_path / name for name in ("ana.jpg", "ben_k.png", "sub/ana.png", "other/ana.jpg")]
    assert names_of(files) == ["ana", "ben k", "ana 2", "ana 3"]


@pytest.mark.parametrize("words, told", [
    (["from-photo", "nope.jpg"], "nope.jpg: cannot be opened"), (["from-photo", "{photo}", "--refs", "nope"], "nope: "),
    (["from-photo", "{photo}", "--size", "3x3"], "--size"), (["from-photo", "{photo}", "-o", "x.txt"], "does not end in .json"),
    (["from-photo", "{photo}", "--threshold", "0.5"], "--threshold: is for known people. Name them with --refs"),
    (["from-photo", "{photo}", "--captioner", "nope"], "--captioner: 'nope' is no captioner"),
])  # fmt: skip
def test_what_is_wrong_is_told_before_a_face_pack_is_fetched(run, tmp_path, monkeypatch, examples, words, told):
    from anyphoto_cli.faces import packs

    monkeypatch.delenv("ANYPHOTO_FACE_PACK", raising=False)
    monkeypatch.setattr(packs, "open_faces", lambda *_, **__: pytest.fail("opened"))
    monkeypatch.chdir(tmp_path)
    photo = examples / "drawn_people" / "mia.png"
    code, _, err = run("layout", *(word.format(photo=photo) for word in words))
    assert code == 2 and told in err, err
    code, _, err = run("faces", "calibrate", "nope")
    assert code == 2 and "nope" in err


def test_two_selfies_become_a_layout_that_can_be_rendered(run, tmp_path):
    small_layout(tmp_path)
    (tmp_path / "trip").mkdir()
    out = tmp_path / "trip" / "beach.json"
    code, said, err = run("layout", "arrange", "--people", tmp_path / "ana.png", tmp_path / "ben.png", "--size", "512x384",
                          "--prompt", "a photo of two friends, [ 3, 4 ] on a board", "-o", out)  # fmt: skip
    assert code == 0 and "2 people, 512x384" in said, err
    assert "1 person, 1024x1024" in run("layout", "arrange", tmp_path / "ana.png", "-o", tmp_path / "one.json")[1]
    layout = load_layout(out)
    assert [face.reference for face in layout.faces] == ["beach_refs/ana.png", "beach_refs/ben.png"]
    assert layout.reference_path(0).read_bytes() == (tmp_path / "ana.png").read_bytes()
    assert not check_layout(layout).cautions and layout.prompt == "a photo of two friends, [ 3, 4 ] on a board"
    assert "[" in out.read_text().split('"landmarks"')[1].split("\n")[1]  # a line a point, for people
    before = out.read_bytes()
    code, _, err = run("layout", "arrange", tmp_path / "ana.png", "-o", out)
    assert code == 2 and "exists" in err and out.read_bytes() == before
    code, said, _ = run("layout", "arrange", tmp_path / "ana.png", "-o", out, "--overwrite", "--json")
    assert json.loads(said)["faces"] == ["ana"]


def test_references_inside_the_layouts_folder_stay_where_they_are(run, tmp_path):
    small_layout(tmp_path)
    assert run("layout", "arrange", tmp_path / "ben.png", "-o", tmp_path / "one.json")[0] == 0
    assert load_layout(tmp_path / "one.json").faces[0].reference == "ben.png"
    assert not (tmp_path / "one_refs").exists()
    code, _, err = run("layout", "arrange", tmp_path / "nobody.png", "-o", tmp_path / "x" / "two.json")
    assert code == 2 and "nobody.png" in err and not (tmp_path / "x").exists()
    assert run("layout", "arrange", "-o", tmp_path / "none.json")[0] == 2
    for name in ("nobody.png", "one.json", "."):  # also where nothing has to be copied
        code, _, err = run("layout", "arrange", tmp_path / name, "-o", tmp_path / "three.json")
        assert code == 2 and not (tmp_path / "three.json").exists(), err


def test_nobody_takes_anothers_photo(run, tmp_path):
    """Names that are one as files, and a file that lies there already: each person keeps a picture of their own."""
    small_layout(tmp_path)
    photos = [tmp_path / "Photo (1).png", tmp_path / "Photo 1.png", tmp_path / "mia.png"]
    for photo, source in zip(photos, ("ana.png", "ben.png", "ana.png"), strict=True):
        photo.write_bytes((tmp_path / source).read_bytes())
    refs = tmp_path / "trip" / "t_refs"
    refs.mkdir(parents=True)
    (refs / "mia.png").write_bytes(b"somebody else")
    out = refs.parent / "t.json"
    for more in ((), ("--overwrite",)):  # once more, the same files
        assert run("layout", "arrange", *photos, "-o", out, *more)[0] == 0
        layout = load_layout(out)
        assert [face.reference for face in layout.faces] == [
            "t_refs/Photo_1.png", "t_refs/Photo_1_2.png", "t_refs/mia_2.png",
        ]  # fmt: skip
        for index, photo in enumerate(photos):
            assert layout.reference_path(index).read_bytes() == photo.read_bytes()
    assert (refs / "mia.png").read_bytes() == b"somebody else" and len([*refs.iterdir()]) == 4
