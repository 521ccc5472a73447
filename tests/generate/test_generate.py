"""`generate` as a function: real photos end to end, resume, records, rendering again."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.generate import prepare_faces, render, render_again
from anyphoto_cli.generate.png_metadata import read_record, write_png
from anyphoto_cli.layout.schema import load_layout
from anyphoto_cli.model.adapter import AdapterCard, FacePackCard, save_adapter
from anyphoto_cli.runtime.progress import Listener
from tests.conftest import small_layout


def toy(**options) -> GenerateConfig:
    """The toy of random numbers, not the embedded default."""
    return GenerateConfig(**{"model": "tiny-random", **options})


class Heard(Listener):
    """Keeps what was said."""

    def __init__(self):
        self.notices, self.cautions, self.pictures, self.steps, self.stages = [], [], [], 0, []

    def notice(self, text):
        self.notices.append(text)

    def caution(self, text):
        self.cautions.append(text)

    def stage(self, text):
        self.stages.append(text)

    def step(self):
        self.steps += 1

    def picture(self, path, skipped):
        self.pictures.append((path.name, skipped))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def adapter(tmp_path):
    """An adapter for tiny-random, tied to the tiny face pack, with numbers that are not zero."""
    import torch

    from anyphoto_cli.model import bases
    from anyphoto_cli.model.location_lora import lora_parameters
    from anyphoto_cli.model.transformer import AnyPhotoTransformer

    folder = bases.base_folder(bases.TINY_RANDOM)
    transformer = AnyPhotoTransformer.from_pretrained(folder / "transformer")
    transformer.add_anyphoto(MethodConfig(lora_rank=4, t5_length=64))
    g = torch.Generator().manual_seed(0)
    for p in [*lora_parameters(transformer).values(), *transformer.id_projector.parameters()]:
        p.data = torch.randn(p.shape, generator=g) * 0.3
    pack = FacePackCard(name="tiny-random", sha256=open_faces("tiny-random").sha256)
    save_adapter(tmp_path / "adapter", transformer, AdapterCard(base_model="tiny-random", face_pack=pack, train_step=9))
    return tmp_path / "adapter"


def test_two_real_photos_end_to_end(photos, face_pack_folder, tmp_path):
    """References found by a real detector, embedded by a real recogniser, rendered by the tiny model."""
    for person in ("obama/obama.jpg", "biden/biden.jpg"):
        shutil.copy(photos / "refs" / person, tmp_path)
    faces = [
        {"name": "Barack", "reference": "obama.jpg", "bbox": [16, 48, 112, 144]},
        {"name": "Joe", "reference": "biden.jpg", "bbox": [144, 48, 240, 144]},
    ]
    value = {"version": 1, "prompt": "two men at a desk", "width": 256, "height": 192, "steps": 3, "faces": faces}
    (tmp_path / "desk.json").write_text(json.dumps(value))
    heard = Heard()
    result = render([tmp_path / "desk.json"], tmp_path / "out", toy(face_pack=str(face_pack_folder)), listener=heard)
    assert [p.path.name for p in result.pictures] == ["desk_seed0.png"]
    assert pixels(result.pictures[0].path).shape == (192, 256, 3)
    assert heard.steps == 3
    assert any("Barack: face at 379,83 - 607,429, score 0.81" in n for n in heard.notices)
    assert any("carries no trained identity" in n for n in heard.cautions)
    record = read_record(result.pictures[0].path)
    assert record["face_pack"]["name"] == "mbf512_scrfd2.5g" and set(record["references"]) == {"obama.jpg", "biden.jpg"}


def test_conditions_of_a_real_photo(photos, face_pack, tmp_path):
    """The canvas shows the face where the layout puts it: the detector finds it there."""
    shutil.copy(photos / "refs" / "obama" / "obama.jpg", tmp_path)
    points = [[300, 200], [390, 200], [345, 255], [308, 300], [382, 300]]
    value = {"version": 1, "prompt": "a man", "width": 640, "height": 512,
             "faces": [{"name": "B", "reference": "obama.jpg", "landmarks": points}]}  # fmt: skip
    (tmp_path / "one.json").write_text(json.dumps(value))
    [face] = prepare_faces(load_layout(tmp_path / "one.json"), face_pack).faces
    [found] = face_pack.detect([face.canvas])[0][:1]
    assert np.abs(found.landmarks - points).max() < 12
    assert face.tokens.shape == (32, 40) and 200 < face.tokens.sum() < 400
    rows, columns = np.nonzero(face.tokens)
    assert rows.min() * 16 <= 200 and columns.max() * 16 >= 382


def test_resume_skips_and_a_batch_does_not_change_its_members(layout_file, tmp_path):
    out, heard = tmp_path / "out", Heard()
    render([layout_file], out, toy(seed=5))
    first = (out / "trip_seed5.png").read_bytes()
    result = render([layout_file], out, toy(seed=4, num_images=3), listener=heard)
    assert [(p.path.name, p.skipped) for p in result.pictures] == [
        ("trip_seed4.png", False), ("trip_seed5.png", True), ("trip_seed6.png", False),
    ]  # fmt: skip
    assert heard.steps == 4
    assert (out / "trip_seed5.png").read_bytes() == first
    alone = render([layout_file], tmp_path / "alone", toy(seed=6)).pictures[0].path
    assert alone.read_bytes() == (out / "trip_seed6.png").read_bytes()
    before = Heard()
    render([layout_file], out, toy(seed=4, num_images=3), listener=before)
    assert before.steps == 0 and "Loading the model" not in before.stages


def test_another_picture_of_the_same_name_is_refused_before_rendering(layout_file, tmp_path):
    out = tmp_path / "out"
    render([layout_file], out, toy())
    small_layout(tmp_path, prompt="two enemies")
    with pytest.raises(
        InputError, match="exists and was made from something else: other prompt, steps\\. .*--overwrite"
    ):
        render([layout_file], out, toy(steps=3))
    with pytest.raises(InputError, match="exists and was made from something else: other prompt\\. "):
        render([layout_file], out, toy())
    old = (out / "trip_seed0.png").read_bytes()
    render([layout_file], out, toy(), overwrite=True)
    assert (out / "trip_seed0.png").read_bytes() != old
    (out / "trip_seed0.png").write_bytes(b"a stranger's file")
    with pytest.raises(InputError, match="exists and was made from something else"):
        render([layout_file], out, toy())


def test_several_layouts_a_folder_and_refusals(tmp_path):
    small_layout(tmp_path, "a.json")
    small_layout(tmp_path, "b.json", width=130)
    with pytest.raises(InputError, match=r"b\.json: width: must be a multiple of 16"):
        render([tmp_path], tmp_path / "out", toy())
    assert not (tmp_path / "out").exists()
    result = render([tmp_path], tmp_path / "out", toy(), keep_going=True)
    assert [p.layout for p in result.pictures] == ["a.json"] and result.refused == (
        "b.json: width: must be a multiple of 16",
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.json files"):
        render([tmp_path / "empty"], tmp_path / "out", toy())
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "a.json", tmp_path / "other")
    with pytest.raises(InputError, match="has the same name as"):
        render([tmp_path / "a.json", tmp_path / "other" / "a.json"], tmp_path / "out", toy())


def test_what_is_refused_late_leaves_out_no_more_than_itself(tmp_path):
    """A picture of that name from something else, and references that change or go while others are rendered."""
    for name in "abcd":
        (tmp_path / name).mkdir()
    files = [small_layout(tmp_path / name, f"{name}.json", num_images=2) for name in "abcd"]
    out, made = tmp_path / "out", []
    out.mkdir()
    (out / "b_seed1.png").write_bytes(b"a stranger's file")

    class Meddler(Heard):
        def picture(self, path, skipped):
            made.append(path.name)
            (tmp_path / "c" / "ana.png").write_bytes(b"another")
            (tmp_path / "d" / "ana.png").unlink(missing_ok=True)

    result = render(files, out, toy(batch=2), keep_going=True, listener=Meddler())
    assert [one.path.name for one in result.pictures] == made == ["a_seed0.png", "a_seed1.png", "b_seed0.png"]
    assert [line.partition(": ")[2][:30] for line in result.refused] == [
        "exists and was made from somet", "changed while it was being ren", "cannot be opened (No such file",
    ]  # fmt: skip
    assert not (out / "c_seed0.png").exists() and (out / "b_seed1.png").read_bytes() == b"a stranger's file"
    with pytest.raises(InputError, match="exists and was made from something else"):
        render(files[:2], out, toy())


def test_one_path_is_one_layout(layout_file, tmp_path):
    """Not a list of its letters."""
    result = render(str(layout_file), tmp_path / "out", toy(), dry_run=True)
    assert [one.path.name for one in result.pictures] == ["trip_seed0.png"]


def test_calls_in_several_threads_render_one_after_another(layout_file, tmp_path):
    """With models of their own and with shared ones: the same pictures as alone, and no foreign errors."""
    from concurrent.futures import ThreadPoolExecutor

    from anyphoto_cli.generate import find_models

    [alone] = render([layout_file], tmp_path / "alone", toy()).pictures
    shared = find_models(toy())
    with ThreadPoolExecutor(4) as threads:
        calls = [
            threads.submit(render, [layout_file], tmp_path / str(k), toy(), models=shared if k % 2 else None)
            for k in range(4)
        ]
        made = [call.result().pictures[0] for call in calls]
    assert all(np.array_equal(pixels(one.path), pixels(alone.path)) for one in made)


def test_dry_run_makes_nothing(layout_file, tmp_path):
    result = render([layout_file], tmp_path / "out", toy(num_images=2), dry_run=True)
    assert [p.path.name for p in result.pictures] == ["trip_seed0.png", "trip_seed1.png"]
    assert not (tmp_path / "out").exists()


def test_dry_run_says_of_each_picture_what_a_run_would(layout_file, adapter, tmp_path, run):
    """Finished before, to be rendered, or refused; and refuses an adapter that was damaged."""
    from unittest import mock

    from anyphoto_cli.model import bases

    out, command = tmp_path / "out", ("generate", layout_file, "-o", tmp_path / "out", "-n", "3", "--dry-run", "-q")
    render([layout_file], out, toy(seed=0))
    (out / "trip_seed2.png").write_bytes(b"a stranger's file")
    for here in (bases.folder_here, lambda base: None):  # also where the model is not on the machine
        with mock.patch.object(bases, "folder_here", here), mock.patch.object(bases, "base_folder", None):
            code, said, _ = run(*command)
        assert code == 2 and [line.rpartition("  ")[2] for line in said.splitlines()] == [
            "(finished before)", "(not rendered: dry run)", "(refused)",
        ]  # fmt: skip
    code, said, _ = run(*command, "--keep-going", "--json")
    told = json.loads(said)
    assert code == 3 and [one["skipped"] for one in told["pictures"]] == [True, False] and len(told["refused"]) == 1
    assert run(*command, "--overwrite")[0] == 0
    assert run(*command, "--steps", "1")[1].count("(refused)") == 2
    weights = adapter / "id_projector.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    code, _, err = run("generate", layout_file, "-o", tmp_path / "new", "--adapter", adapter, "--dry-run")
    assert code == 2 and "id_projector.safetensors: does not match its sha256" in err


def test_a_reference_without_landmarks_needs_a_detector(tmp_path):
    file = small_layout(tmp_path)
    value = json.loads(file.read_text())
    del value["faces"][1]["reference_landmarks"]
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"^trip.json: faces\[1\].reference: ben.png: .*has no detector"):
        render([file], tmp_path / "out", toy())


def test_record_round_trip(layout_file, tmp_path):
    path = render([layout_file], tmp_path / "out", toy(seed=3)).pictures[0].path
    record = read_record(path)
    assert record["layout"]["seed"] == 3 and record["layout"]["num_images"] == 1 and record["layout"]["steps"] == 2
    assert record["model"]["name"] == "tiny-random" and len(record["model"]["revision"]) == 64
    assert record["refs"] == ".." and record["adapter"] is None and record["precision"] == "float32"
    assert str(tmp_path) not in json.dumps(record)
    with Image.open(path) as image:
        assert image.info["parameters"].startswith("two friends\nSteps: 2, Sampler: Euler, CFG scale: 1")
        assert "Seed: 3, Size: 128x128, Model: tiny-random" in image.info["parameters"]
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
        copy = image.copy()
    strange = record | {"layout": record["layout"] | {"prompt": 'Zoë & 李 <b>\n"quoted" 🏖'}}
    write_png(copy, tmp_path / "x.png", strange)
    assert read_record(tmp_path / "x.png") == strange
    (tmp_path / "no.png").write_bytes(b"no")
    for other in (tmp_path / "no.png", tmp_path / "ana.png", tmp_path / "gone.png"):
        with pytest.raises(InputError):
            read_record(other)


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda r: r.pop("layout"), "record.layout: is damaged or was edited"),
        (lambda r: r.update(references=[]), "record.references: is damaged"),
        (lambda r: r["asked"].update(memory=3), "record.asked.memory: is damaged"),
        (lambda r: r["asked"].update(extra=3), "record.asked.extra: is damaged"),
        (lambda r: r["layout"].update(prompt="other"), "record.layout: is damaged or was edited"),
        (lambda r: r["layout"].update(width="x"), "trip.json: width: must be a whole number"),
        (lambda r: r["layout"]["faces"][0].update(reference="../../x.png"), "lies outside"),
        (lambda r: r.update(layout_name="../../trip.json", refs=".."), None),
        (lambda r: r.update(adapter={"sha256": "0", "train_step": 1}), "was made with another adapter"),
        (lambda r: r["model"].update(revision="0"), "was made with another model"),
        (lambda r: r.update(format=99), "record of another version"),
    ],
)
def test_an_edited_record_is_refused_in_one_line(layout_file, tmp_path, edit, words):
    path = render([layout_file], tmp_path / "out", toy()).pictures[0].path
    record = read_record(path)
    edit(record)
    with Image.open(path) as image:
        edited = image.copy()
    try:
        write_png(edited, path, record)
    except KeyError:  # what writes `parameters` needs a layout; a stranger's tool would not
        from PIL import PngImagePlugin

        info = PngImagePlugin.PngInfo()
        info.add_itxt("anyphoto", json.dumps(record))
        edited.save(path, pnginfo=info)
    if words is None:
        assert render_again(path)[1]
        return
    with pytest.raises(InputError, match=words):
        render_again(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_rendered_again_is_identical_also_after_the_folder_moved(layout_file, adapter, tmp_path):
    config = toy(seed=8, adapter=str(adapter), attention="split")
    (tmp_path / "job").mkdir()
    for name in ("trip.json", "ana.png", "ben.png"):
        shutil.move(tmp_path / name, tmp_path / "job")
    path = render([tmp_path / "job" / "trip.json"], tmp_path / "job" / "out", config).pictures[0].path
    shutil.move(tmp_path / "job", tmp_path / "moved")
    moved = tmp_path / "moved" / "out" / path.name
    again, same = render_again(moved)
    assert same and again.path.name == "trip_seed8_again.png"
    assert again.path.read_bytes() == moved.read_bytes()
    changed, same = render_again(moved, tmp_path / "elsewhere", refs_root=tmp_path / "moved")
    assert same and changed.path.parent == tmp_path / "elsewhere"
    Image.new("RGB", (112, 112)).save(tmp_path / "moved" / "ana.png")
    with pytest.raises(InputError, match="was made with other references: ana.png"):
        render_again(moved, tmp_path / "third")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copy(moved, tmp_path / "deep" / "er" / "lost.png")
    with pytest.raises(InputError, match="no such file|cannot be opened|--refs-root"):
        render_again(tmp_path / "deep" / "er" / "lost.png")


def test_adapter_changes_the_picture_and_is_tied_to_its_face_pack(layout_file, adapter, tmp_path, face_pack_folder):
    plain = render([layout_file], tmp_path / "plain", toy()).pictures[0].path
    heard = Heard()
    config = toy(adapter=str(adapter))
    with_it = render([layout_file], tmp_path / "with", config, listener=heard).pictures[0].path
    assert not np.array_equal(pixels(plain), pixels(with_it))
    assert not any("no trained identity" in n for n in heard.cautions)
    assert read_record(with_it)["adapter"]["train_step"] == 9
    with pytest.raises(
        InputError, match=r"is not the face pack of this adapter.*Leave --face-pack out, or --adapter none"
    ):
        render([layout_file], tmp_path / "x", toy(adapter=str(adapter), face_pack=str(face_pack_folder)))


def test_a_face_may_be_given_less_weight(tmp_path):
    """strength 1 is the same picture to the bit; others are not, and the record says so, for rendering again."""
    one = small_layout(tmp_path)
    value = json.loads(one.read_text())
    for name, strengths in (("same.json", (1, 1.0)), ("less.json", (0.3, None))):
        faces = [
            face | ({} if s is None else {"strength": s}) for face, s in zip(value["faces"], strengths, strict=True)
        ]
        (tmp_path / name).write_text(json.dumps(value | {"faces": faces}))
    layouts = [tmp_path / name for name in ("trip.json", "same.json", "less.json")]
    written = {one.path.name: one.path for one in render(layouts, tmp_path / "out", toy()).pictures}
    plain, same, less = (pixels(written[f"{name}_seed0.png"]) for name in ("trip", "same", "less"))
    assert np.array_equal(plain, same) and not np.array_equal(plain, less)
    faces = read_record(written["less_seed0.png"])["layout"]["faces"]
    assert faces[0]["strength"] == 0.3 and "strength" not in faces[1]
    assert render_again(written["less_seed0.png"])[1]
    asked = render(layouts[2:], tmp_path / "asked", toy(strength=0.5)).pictures[0].path
    assert [face["strength"] for face in read_record(asked)["layout"]["faces"]] == [0.5, 0.5]
    assert render_again(asked)[1]


def test_layout_values_win_over_the_base_and_options_over_the_layout(layout_file, tmp_path):
    record = read_record(render([layout_file], tmp_path / "a", toy(steps=1)).pictures[0].path)
    assert record["layout"]["steps"] == 1
    file = small_layout(
        tmp_path, "guided.json", negative_prompt="rain", true_cfg_scale=2.0, guidance_scale=5.0, seed=12
    )
    heard = Heard()
    path = render([file], tmp_path / "b", toy(), listener=heard).pictures[0].path
    assert path.name == "guided_seed12.png" and heard.steps == 2
    assert not np.array_equal(
        pixels(path), pixels(render([layout_file], tmp_path / "c", toy(seed=12)).pictures[0].path)
    )


def test_a_base_may_bring_an_adapter(adapter, monkeypatch):
    """It is used where none is named; a named one, or none, wins."""
    from dataclasses import replace

    from anyphoto_cli.generate.weights import find_weights
    from anyphoto_cli.model import bases

    assert find_weights(toy()).adapter is None
    monkeypatch.setattr(bases, "resolve_base", lambda name: replace(bases.TINY_RANDOM, adapter=lambda: adapter))
    assert find_weights(toy()).adapter_folder == adapter
    assert find_weights(toy()).adapter.train_step == 9
    assert find_weights(toy(adapter="none")).adapter is None
    with pytest.raises(InputError, match="no such folder"):
        find_weights(toy(adapter="gone"))


def test_an_empty_negative_prompt_is_one(layout_file, tmp_path):
    """As in diffusers: true guidance, away from no prompt."""
    value = json.loads(layout_file.read_text())
    made = {}
    for name, more in (("none", {}), ("empty", {"negative_prompt": ""})):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(value | {"true_cfg_scale": 3} | more))
        heard = Heard()
        made[name] = pixels(render([file], tmp_path / "out", toy(), listener=heard).pictures[0].path)
        assert any("has no effect without" in caution for caution in heard.cautions) is (name == "none")
    assert not np.array_equal(made["none"], made["empty"])


def test_what_a_base_was_not_trained_for_is_told(layout_file):
    from dataclasses import replace

    from anyphoto_cli.generate.planning import unusual
    from anyphoto_cli.registry import find

    layout, mini = load_layout(layout_file), find("bases", "mini")

    def told(width, height, guidance):
        return unusual(layout.model_copy(update={"width": width, "height": height, "guidance_scale": guidance}), mini)

    assert told(192, 128, 3.5) == told(128, 128, 1) == told(128, 128, 7) == []
    assert told(128, 192, 3.5) == ["128x192 is higher than the 128 px that mini was trained on"]
    assert told(256, 256, 20) == [
        "256x256 is outside the 128-192 px that mini was trained on",
        "guidance_scale 20 is outside the 1 to 7 that mini can be told",
    ]
    assert unusual(layout, replace(mini, sides=(16, 4096), tallest=None, guidance=None)) == []


def test_an_adapter_of_other_weights_is_told(adapter, layout_file, tmp_path):
    """Names and revisions of both; nothing is said where one is a hub's commit and the other a folder's hash."""
    from anyphoto_cli.model import bases

    def cautions(revision: str) -> list[str]:
        heard, file = Heard(), adapter / "anyphoto.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_revision": revision}))
        render([layout_file], tmp_path / "out", toy(adapter=str(adapter)), overwrite=True, listener=heard)
        return heard.cautions

    right = bases.revision_of(bases.base_folder(bases.TINY_RANDOM))
    assert cautions(right) == cautions("") == cautions("c" * 40) == []
    [told] = cautions("b" * 64)
    assert f"trained on tiny-random of revision {'b' * 12}, this is tiny-random-2 of revision {right[:12]}" in told


def test_a_reference_that_changes_meanwhile_is_refused(layout_file):
    """Canvases are made when they are rendered: from the very file whose hash the picture's record tells."""
    layout = load_layout(layout_file)
    conditions = prepare_faces(layout, open_faces("tiny-random"))
    first = conditions.faces
    assert [face.name for face in first] == [face.name for face in layout.faces]
    with layout.reference_path(0).open("ab") as file:
        file.write(b"0")
    with pytest.raises(InputError, match="changed while it was being rendered"):
        conditions.faces  # noqa: B018
