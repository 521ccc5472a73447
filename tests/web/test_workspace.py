"""What the editor's page is told of files as they lie there. No server, no browser, no torch."""

import io
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.faces.norm_crop import face_patch
from anyphoto_cli.layout.schema import load_layout
from anyphoto_cli.web.jobs import Jobs
from anyphoto_cli.web.server import build_app, open_workspace
from tests.conftest import ROOT


@pytest.fixture
def workspace(friends):
    return open_workspace(friends, GenerateConfig(model="mini"))


def test_a_page_that_read_an_older_file_does_not_replace_it(workspace, friends):
    """Two tabs: what one opened or saved is not what the other knows."""
    document, first = workspace.opened()
    friends.write_text(friends.read_text().replace("at the beach", "in the snow"))
    newer, second = workspace.opened()
    with pytest.raises(InputError, match="was changed on disk"):
        workspace.save(document, first)
    assert "in the snow" in friends.read_text()
    third = workspace.save(newer | {"prompt": "two friends by the sea"}, second)
    assert workspace.save(newer | {"prompt": "two friends at night"}, third) == workspace.opened()[1]
    with pytest.raises(InputError, match="was changed on disk"):
        workspace.save(document, second)
    workspace.save(document, None)  # asked twice
    assert load_layout(friends).prompt == document["prompt"]


def test_a_new_file_that_somebody_else_made_first_is_not_replaced(tmp_path, friends):
    workspace = open_workspace(tmp_path / "new.json", GenerateConfig(model="mini"))
    document, read = workspace.opened()
    shutil.copyfile(friends, tmp_path / "new.json")
    with pytest.raises(InputError, match="was changed on disk"):
        workspace.save(document, read)


def test_a_layout_as_python_writes_it_opens(workspace, friends):
    """model_dump_json says null where nothing is said."""
    layout = load_layout(friends)
    friends.write_text(layout.model_dump_json())
    assert "null" in friends.read_text()
    document, read = workspace.opened()
    workspace.save(document, read)
    again = load_layout(friends)
    for face, other in zip(layout.faces, again.faces, strict=True):
        assert abs(face.place - other.place).max() < 0.01
    assert again.model_dump(exclude={"faces"}) == layout.model_dump(exclude={"faces"})


def test_a_box_beyond_any_number_is_refused_in_one_line(workspace, friends):
    """And never saved, so that what was saved opens again."""
    from starlette.testclient import TestClient

    document = json.loads(friends.read_text())
    document["faces"][0].pop("landmarks")
    document["faces"][0]["bbox"] = [-1e308, 0, 1e308, 128]
    with pytest.raises(
        InputError, match=r"two_friends.json: faces\[0\].bbox: is too far out to be shown. Give corners"
    ):
        workspace.save(document, None)
    assert "1e+308" not in friends.read_text()
    friends.write_text(json.dumps(document))
    answer = TestClient(build_app(workspace, None)).get("/api/layout")
    assert answer.status_code == 422 and "too far out" in answer.json()["error"]["message"]


def test_a_reference_that_this_machine_cannot_read_is_a_warning(workspace, friends, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    (friends.parent / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    document, _ = workspace.opened()
    document["faces"][0]["reference"] = "x.heic"
    checked = workspace.checked(document)
    assert checked["error"] is None
    assert any("anyphoto[heif]" in caution["message"] for caution in checked["cautions"]), checked["cautions"]


def test_a_face_is_that_at_the_layouts_own_points_as_the_model_will_see_it(workspace, friends):
    """Of a picture of several people, and where no detector finds one; none is asked."""
    from starlette.testclient import TestClient

    folder = friends.parent / "drawn_people"
    picture = np.hstack([np.asarray(Image.open(folder / f"{name}.png").convert("RGB")) for name in ("mia", "theo")])
    Image.fromarray(picture).save(folder / "both.png")
    points = np.array([[40, 52], [72, 52], [56, 70], [43, 86], [69, 86]]) + [picture.shape[1] // 2, 0]
    workspace.open_analyzer = lambda: pytest.fail("a detector was asked")
    client = TestClient(build_app(workspace, None))
    for given in (points, points - [picture.shape[1] // 2, 0]):
        asked = {"path": "drawn_people/both.png", "landmarks": json.dumps(given.tolist())}
        assert client.get("/api/reference", params=asked).json()["told"] == "landmarks from the layout"
        patch = Image.open(io.BytesIO(client.get("/api/reference/patch", params=asked).content))
        assert np.array_equal(np.asarray(patch), face_patch(picture, given.astype(float), 224))
    for none in ("[[1, 2]]", "[[1, 2], [3, 4], [5, 6], [7, 8], [9, NaN]]", "{", ""):
        answer = client.get("/api/reference", params={"path": "drawn_people/both.png", "landmarks": none})
        assert answer.status_code == 422 and "5 points" in answer.json()["error"]["message"]

    document, _ = workspace.opened()
    for face in document["faces"]:
        face |= {"reference": "drawn_people/both.png", "reference_landmarks": points.tolist()}
    assert workspace.checked(document)["cautions"] == []
    document["faces"][1]["reference_landmarks"][0] = [900, 52]
    [told] = workspace.checked(document)["cautions"]
    assert told["field"] == "faces[1].reference_landmarks" and "a point lies outside the reference" in told["message"]


def test_a_machine_that_could_not_look_for_faces_looks_again(workspace):
    """Not at once: what waits for a network that is not there would hold up all requests."""
    opens, tries = workspace.open_analyzer, []

    def opened_at_the_second_try():
        tries.append(1)
        if len(tries) == 1:
            raise EnvironmentFault("cannot be fetched", remedy="Try again")
        return opens()

    workspace.open_analyzer = opened_at_the_second_try
    for _ in range(2):
        found = workspace.reference("drawn_people/mia.png")
        assert found.problem == "cannot be fetched. Try again" and found.passing and len(tries) == 1
    workspace.again_s = 0.0
    workspace.reference("drawn_people/theo.png")
    assert workspace.reference("drawn_people/theo.png").patch and len(tries) == 2


def test_pictures_of_one_name_that_come_at_once_are_all_kept(workspace, friends):
    shown = [np.full((8, 8, 3), value, np.uint8) for value in range(0, 240, 10)]
    pictures = []
    for pixels in shown:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda data: workspace.add("me.png", data), pictures))
    assert [(friends.parent / path).read_bytes() for path in paths] == pictures


def test_a_render_whose_layout_cannot_be_written_does_not_wait_for_ever(workspace, friends, monkeypatch):
    """As on a full disk; eight of these and no render was taken any more."""

    def full(file):
        raise OSError(28, "No space left on device")

    document, _ = workspace.opened()
    jobs = Jobs(friends, GenerateConfig(model="mini"))
    try:
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(EnvironmentFault, match="cannot write here"):
            jobs.ask(document)
        assert jobs.running() == [] and list(jobs.folder.iterdir()) == []
        jobs.folder.rmdir()
        jobs.folder.write_bytes(b"no folder")
        with pytest.raises(EnvironmentFault, match="cannot write here"):
            jobs.ask(document)
    finally:
        jobs.close()


def test_references_are_looked_at_with_the_adapters_own_pack_and_method(friends, tmp_path):
    shipped = ROOT / "anyphoto_cli" / "mini" / "weights" / "adapter" / "anyphoto.json"
    card = json.loads(shipped.read_text())
    card["face_pack"]["name"], card["method"]["patch_size"] = "tiny-random", 224
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "anyphoto.json").write_text(json.dumps(card))
    mine = open_workspace(friends, GenerateConfig(model="mini", adapter=str(tmp_path / "mine")))
    assert mine._analyzer.name == "tiny-random" and mine.method.patch_size == 224
    with pytest.raises(InputError, match="--adapter"):
        open_workspace(friends, GenerateConfig(model="mini", adapter=str(tmp_path / "gone")))
    without = open_workspace(friends, GenerateConfig(model="mini", face_pack="tiny-random"))
    assert without.facts()["note"].startswith("The adapter that came with mini is left out")
    named = GenerateConfig(model="mini", adapter=str(shipped.parent), face_pack="tiny-random")
    with pytest.raises(InputError, match="is not the face pack of this adapter"):
        open_workspace(friends, named)


def test_references_of_another_folder_are_found_and_added_to(friends):
    (friends.parent / "trip").mkdir()
    layout = friends.rename(friends.parent / "trip" / friends.name)
    workspace = open_workspace(layout, GenerateConfig(model="mini"), friends.parent)
    document, read = workspace.opened()
    assert not any("drawn_people" in caution["message"] for caution in workspace.checked(document)["cautions"])
    added = workspace.add("theo.png", (friends.parent / "drawn_people" / "theo.png").read_bytes())
    assert added == "two_friends_refs/theo.png" and not workspace.reference(added).problem
    document["faces"][1]["reference"] = added
    workspace.save(document, read)
    assert load_layout(layout, friends.parent).reference_path(1).is_file()
    with pytest.raises(InputError, match="--refs-root: no such folder"):
        open_workspace(layout, GenerateConfig(model="mini"), friends.parent / "gone")


@pytest.mark.parametrize("told", ["{oops", "[]", '{"faces": [{"name": "Mia"}]}'])
def test_a_damaged_verdict_is_none_and_hides_nothing(friends, told):
    folder = friends.parent / "two_friends_pictures" / "001"
    folder.mkdir(parents=True)
    (folder / "layout_seed7.png").write_bytes(b"")
    (folder / "layout_seed7.verify.json").write_text(told)
    jobs = Jobs(friends, GenerateConfig(model="mini"))
    try:
        [render] = jobs.history()
        assert render["results"][0]["faces"] == [] and render["results"][0]["score"] is None
    finally:
        jobs.close()


@pytest.mark.parametrize(("option", "told"), [
    ({"device": "gpu"}, "'gpu' is no device"), ({"face_pack": "minni"}, "'minni' is no face pack. Did you mean mini"),
])  # fmt: skip
def test_options_that_are_none_are_refused_at_the_start(friends, option, told):
    with pytest.raises(InputError, match=told):
        open_workspace(friends, GenerateConfig(model="mini", **option))


def test_the_page_is_told_how_far_off_and_who_is_there_twice(friends):
    folder = friends.parent / "two_friends_pictures" / "001"
    folder.mkdir(parents=True)
    (folder / "layout_seed7.png").write_bytes(b"")
    verdict = {"faces": [{"name": "Mia", "state": "off", "cosine": 0.5, "off": 0.31, "box": [0, 0, 9, 9]}],
               "extra": [{"box": [9, 9, 20, 20], "twice": "Mia"}, {"box": [0, 9, 9, 20]}]}  # fmt: skip
    (folder / "layout_seed7.verify.json").write_text(json.dumps(verdict))
    jobs = Jobs(friends, GenerateConfig(model="mini"))
    try:
        [result] = jobs.history()[0]["results"]
        assert result["faces"][0]["off"] == 0.31 and result["extra"] == [{"twice": "Mia"}, {"twice": ""}]
    finally:
        jobs.close()


def test_other_pictures_beside_renders_are_not_taken_for_them(friends):
    folder = friends.parent / "two_friends_pictures" / "001"
    folder.mkdir(parents=True)
    names = ("layout_seed7.png", "layout_seed7_again.png", "layout_seed7.verify.png", "a_seedling.png", "x_seed12.png")
    for name in names:
        (folder / name).write_bytes(b"")
    jobs = Jobs(friends, GenerateConfig(model="mini"))
    try:
        [render] = jobs.history()
        assert [one["seed"] for one in render["results"]] == [7, 12]
        assert jobs.picture("001", "layout_seed7.png") and jobs.picture("001", "layout_seed7_again.png") is None
    finally:
        jobs.close()
