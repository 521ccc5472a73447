"""The benchmark rendered by itself: places, shares, refusals, resuming; our model and the baselines."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import diffusers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anyphoto_cli.bench.cases import read_cases
from anyphoto_cli.bench.origins import Origins
from anyphoto_cli.bench.placing import write_layout
from anyphoto_cli.bench.running import RenderJob, refusals, render_cases, with_places
from anyphoto_cli.bench.sources import FileSource
from anyphoto_cli.bench.systems import open_system, settings_of
from anyphoto_cli.bench.systems.editing import side_by_side
from anyphoto_cli.bench.systems.flux_kontext import FluxKontext
from anyphoto_cli.bench.systems.omnigen import OmniGen
from anyphoto_cli.bench.systems.qwen_image_edit import QwenImageEdit
from anyphoto_cli.config.bench import RunConfig
from anyphoto_cli.errors import EnvironmentFault, InputError, PictureFault
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.geometry import face_height, fitting_size, upright_landmarks
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.photos import PhotosConfig, draw_photos
from anyphoto_cli.model.adapter import read_card
from anyphoto_cli.model.bases import revision_of
from anyphoto_cli.types import Box

QUICK = RunConfig(steps=1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Five photos of held-out people as cases: cases.jsonl, photos/, layouts/refs/."""
    folder = tmp_path_factory.mktemp("bench") / "drawn"
    draw_photos(folder, PhotosConfig(people=8, groups=5, references=1, held_out=True, layouts=True))
    return folder


def entries(folder):
    return [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]


def rewritten(folder, name, change):
    """Another JSONL beside the first."""
    lines = [json.dumps(change(entry)) + "\n" for entry in entries(folder)]
    (folder / name).write_text("".join(lines))
    return folder / name


def without(*keys):
    return lambda entry: {key: value for key, value in entry.items() if key not in keys}


def pictures(out):
    return {file.name: file.read_bytes() for file in sorted((out / "pictures").iterdir())}


def test_run_renders_scores_and_goes_on(run, drawn, tmp_path):
    command = ["bench", "run", drawn / "cases.jsonl", "-o", tmp_path / "run", "--steps", "1", "--face-pack", "mini"]
    code, said, _ = run(*command, "--clip", "none", "--json")
    summary = json.loads(said)
    assert summary["subsets"]["all"]["cases"] == 5
    assert summary["subsets"]["all"]["missing"] == summary["subsets"]["all"]["broken"] == 0
    people = sum(len(entry["references"]) for entry in entries(drawn))
    assert summary["subsets"]["all"]["expected_faces"] == people
    made = pictures(tmp_path / "run")
    assert list(made) == [f"{k:06d}_seed0.png" for k in range(1, 6)]

    (tmp_path / "run" / "pictures" / "000003_seed0.png").unlink()
    kept = (tmp_path / "run" / "pictures" / "000001_seed0.png").stat().st_mtime_ns
    assert run(*command, "--clip", "none")[0] == code
    assert pictures(tmp_path / "run") == made
    assert (tmp_path / "run" / "pictures" / "000001_seed0.png").stat().st_mtime_ns == kept

    code, _, err = run(*command[:-4], "--steps", "2", "--face-pack", "mini", "--clip", "none")
    assert code == 2
    assert "steps: holds pictures made with 1" in err


def test_shares_and_workers_make_the_same_pictures(drawn, tmp_path):
    cases = read_cases(drawn / "cases.jsonl")
    assert render_cases(cases, tmp_path / "whole", QUICK) == 0
    for index in (1, 2, 3):
        render_cases(cases, tmp_path / "shares", QUICK, shard=(index, 3))
    render_cases(cases, tmp_path / "workers", QUICK, executor="local", workers=2)

    assert pictures(tmp_path / "shares") == pictures(tmp_path / "whole")
    assert pictures(tmp_path / "workers") == pictures(tmp_path / "whole")


@pytest.fixture(scope="module")
def finished(drawn, tmp_path_factory):
    """A run of the first two cases; what it says of itself, and its cases. Copy it to change it."""
    cases = read_cases(drawn / "cases.jsonl")
    two = replace(cases, cases=cases.cases[:2])
    out = tmp_path_factory.mktemp("finished") / "run"
    render_cases(two, out, QUICK)
    return out, two


def test_pictures_of_other_people_are_not_taken_for_these(finished, tmp_path):
    out, two = finished
    one, other = two.cases
    before = pictures(out)
    assert render_cases(two, out, QUICK) == 0 and pictures(out) == before
    assert render_cases(replace(two, cases=(other,)), out, QUICK) == 0
    mixed = shutil.copytree(out, tmp_path / "mixed") / "pictures"
    shutil.copy(mixed / f"{other.id}_seed0.png", mixed / f"{one.id}_seed0.png")
    with pytest.raises(InputError, match=f"{one.id}_seed0.png: is the picture of another case, {other.id}. Remove it"):
        render_cases(two, mixed.parent, QUICK)
    for change, field in (
        ({"references": (other.references[0], *one.references[1:])}, "references"), ({"prompt": "x"}, "prompt"),
        ({"gt": other.gt}, "original"),
    ):  # fmt: skip
        told = f"{one.id}_seed0.png: {field}: exists and was made from something else. Name another folder"
        with pytest.raises(InputError, match=told):
            render_cases(replace(two, cases=(replace(one, **change), other)), out, QUICK)
    assert pictures(out) == before


def test_pictures_of_older_weights_are_not_taken_for_the_new_ones(finished, tmp_path):
    out, two = finished
    one = two.cases[0]
    Origins(tmp_path, {"adapter": "a", "base": "x"}).keep(one)
    picture = FileSource(out / "pictures" / f"{one.id}_seed0.png")
    Origins(tmp_path, {"adapter": "a", "base": "x"}).check(one, picture)
    Origins(tmp_path, {"adapter": "a"}).check(one, picture)  # a base of the hub goes by its name
    for field, weights in (("adapter", {"adapter": "b", "base": "x"}), ("base", {"adapter": "a", "base": "y"})):
        with pytest.raises(InputError, match=f"{field}: exists and was made from something else"):
            Origins(tmp_path, weights).check(one, picture)
    card, base = read_card(shipped.adapter_folder()), revision_of(shipped.base_folder())
    told = settings_of(RunConfig(model="mini"))
    assert told == {"side_used": 128, "weights": {"adapter": card.sha256, "base": base}}
    with pytest.raises(InputError, match="--model-face-pack: The adapter that came with mini is left out"):
        open_system(RunConfig(model="mini", model_face_pack="tiny-random"))
    with pytest.raises(InputError, match="base: exists and was made from something else"):  # its PNG knows
        Origins(tmp_path / "older", {"adapter": card.sha256, "base": "y"}).check(one, picture)


def test_a_base_that_was_trained_on_makes_other_pictures(drawn, tmp_path):
    """A folder keeps its name while its weights change."""
    cases, base = read_cases(drawn / "cases.jsonl"), shutil.copytree(shipped.base_folder(), tmp_path / "base")
    one, config = (
        replace(cases, cases=cases.cases[:1]),
        QUICK.model_copy(update={"model": str(base), "model_face_pack": "mini"}),
    )
    render_cases(one, tmp_path / "run", config)
    assert render_cases(one, tmp_path / "run", config) == 0
    (base / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(InputError, match="base: exists and was made from something else"):
        render_cases(one, tmp_path / "run", config)


def test_settings_that_older_versions_did_not_write_down(finished, tmp_path):
    out, two = finished
    told = json.loads((out / "run.json").read_text())
    assert (told["precision"], told["side"], told["side_used"]) == ("as dtype", None, 128)
    assert settings_of(RunConfig(system="flux-kontext")) == {"side_used": 1024}
    with pytest.raises(InputError, match="precision: holds pictures made with 'as dtype'"):
        render_cases(two, out, QUICK.model_copy(update={"memory": "fp8"}))
    render_cases(two, out, QUICK.model_copy(update={"memory": "full"}))

    old = shutil.copytree(out, tmp_path / "old")
    shutil.rmtree(old / "asked")
    older = {key: value for key, value in told.items() if key not in ("precision", "side_used")}
    (old / "run.json").write_text(json.dumps(older))
    swapped = replace(two.cases[0], references=two.cases[1].references)
    with pytest.raises(InputError, match="references: exists and was made from something else"):
        render_cases(replace(two, cases=(swapped,)), old, QUICK)  # its PNG knows
    assert render_cases(two, old, QUICK) == 0 and json.loads((old / "run.json").read_text()) == told
    assert {file.name: file.read_text() for file in (old / "asked").iterdir()} == {
        file.name: file.read_text() for file in (out / "asked").iterdir()
    }


def test_ray_makes_the_same_pictures(drawn, tmp_path):
    pytest.importorskip("ray")
    cases = read_cases(drawn / "cases.jsonl")
    two = cases.__class__(cases.form, cases.cases[:2])
    render_cases(two, tmp_path / "here", QUICK)
    assert render_cases(two, tmp_path / "ray", QUICK, executor="ray", workers=1) == 0
    assert pictures(tmp_path / "ray") == pictures(tmp_path / "here")


def test_real_people_stand_where_the_real_photo_has_them(run, photos, face_pack_folder, face_pack, tmp_path):
    """Whoever is named first; and the command goes through, although a random model draws nobody."""
    from anyphoto_cli.faces.norm_crop import norm_crop
    from anyphoto_cli.files.images import read_picture

    home = photos / "refs"
    for who in (("biden", "obama"), ("obama", "biden")):
        references = [str(sorted((home / name).iterdir())[0]) for name in who]
        entry = {"id": "-".join(who), "prompt": "two men", "references": references,
                 "gt": str(photos / "groups" / "obama_and_biden.jpg")}  # fmt: skip
        (tmp_path / "cases.jsonl").write_text(json.dumps(entry) + "\n")
        out = tmp_path / entry["id"]
        code, _, err = run(
            "bench", "run", tmp_path / "cases.jsonl", "-o", out, "--model", "tiny-random", "--model-face-pack",
            face_pack_folder, "--face-pack", face_pack_folder, "--clip", "none", "--steps", "1", "--side", "256",
        )  # fmt: skip
        assert code == 3 and len(pictures(out)) == 1, err
        told = json.loads((out / "layouts" / f"{entry['id']}.json").read_text())
        original = read_picture(photos / "groups" / "obama_and_biden.jpg")
        scale = (original.shape[1] / told["width"], original.shape[0] / told["height"])
        there = face_pack.embed(np.stack([
            norm_crop(original, np.array(face["landmarks"]) * scale) for face in told["faces"]
        ]))  # fmt: skip
        wanted = []
        for name in references:
            picture = read_picture(Path(name))
            wanted.append(norm_crop(picture, max(face_pack.detect([picture])[0], key=lambda f: f.box.area).landmarks))
        similar = there @ face_pack.embed(np.stack(wanted)).T
        assert similar.diagonal().min() > 0.4 > 0.2 > max(similar[0, 1], similar[1, 0])


def test_places_from_the_original_are_the_right_persons(drawn, tmp_path):
    bare = read_cases(rewritten(drawn, "bare.jsonl", without("landmarks", "width", "height")))
    faces = open_faces("mini")
    for entry, case in zip(entries(drawn), bare.cases, strict=True):
        document = json.loads(write_layout(case, tmp_path, faces, QUICK, 256).read_text())
        assert (document["width"], document["height"]) == (256, 256)
        for face, true in zip(document["faces"], entry["landmarks"], strict=True):
            true = 2 * np.array(true)
            away = np.linalg.norm(np.mean(face["landmarks"], 0) - true.mean(0))
            assert away < 0.1 * face_height(true)


def test_a_person_without_a_found_face_takes_the_free_box(drawn, tmp_path):
    case = next(case for case in read_cases(drawn / "cases.jsonl").cases if case.people == 2)
    hidden = np.array(case.landmarks[1])
    (x0, y0), (x1, y1) = hidden.min(0) - 14, hidden.max(0) + 14
    photo = tmp_path / "photo.png"
    pixels = np.array(Image.open(case.gt.file))
    pixels[int(y0) : int(y1), int(x0) : int(x1)] = 128
    Image.fromarray(pixels).save(photo)
    boxes = [[*(np.array(points).min(0) - 8), *(np.array(points).max(0) + 8)] for points in case.landmarks]
    entry = {"id": "a", "prompt": "two", "references": [str(s.file) for s in case.references], "gt": str(photo)}
    (tmp_path / "boxes.jsonl").write_text(json.dumps(entry | {"boxes": boxes}) + "\n")
    doubled = {"boxes": [[2 * x for x in box] for box in boxes], "width": 256, "height": 256}
    (tmp_path / "doubled.jsonl").write_text(json.dumps(entry | doubled) + "\n")
    (tmp_path / "none.jsonl").write_text(json.dumps(entry) + "\n")

    documents = []
    for name in ("boxes.jsonl", "doubled.jsonl"):  # the same places in px of another picture
        [boxed] = read_cases(tmp_path / name).cases
        documents.append(json.loads(write_layout(boxed, tmp_path / "l", open_faces("mini"), QUICK, 128).read_text()))
    middle = np.mean(documents[0]["faces"][1]["landmarks"], 0)
    assert np.linalg.norm(middle - hidden.mean(0)) < 0.5 * face_height(hidden)
    assert documents[0] == documents[1]
    [bare] = read_cases(tmp_path / "none.jsonl").cases
    with pytest.raises(InputError, match="its original shows 1 faces for 2 people"):
        write_layout(bare, tmp_path / "l", open_faces("mini"), QUICK, 128)


def test_without_a_photo_people_stand_in_their_boxes(drawn, tmp_path):
    """In px of the picture whose size the case names; as many boxes as people, or nobody knows whose is whose."""
    case = next(case for case in read_cases(drawn / "cases.jsonl").cases if case.people == 2)
    boxes = [[10, 20, 50, 60], [70, 30, 110, 70]]
    entry = {"id": "a", "prompt": "two", "references": [str(s.file) for s in case.references], "boxes": boxes}
    (tmp_path / "boxes.jsonl").write_text(json.dumps(entry | {"width": 128, "height": 96}) + "\n")
    [boxed] = read_cases(tmp_path / "boxes.jsonl").cases
    document = json.loads(write_layout(boxed, tmp_path, open_faces("mini"), QUICK, 256).read_text())
    scale = (document["width"] / 128, document["height"] / 96)
    for face, box in zip(document["faces"], boxes, strict=True):
        assert np.allclose(face["landmarks"], upright_landmarks(Box(*box)) * scale, atol=0.01)
    for left, told in ((boxes[:1], "has no original to take the places from, and 1 boxes for 2 people"),
                       ([], "has no original to take the places from. Use")):  # fmt: skip
        fewer = replace(boxed, boxes=tuple(Box(*box) for box in left))
        with pytest.raises(InputError, match=told):
            write_layout(fewer, tmp_path, open_faces("mini"), QUICK, 256)


def test_places_from_the_references_stand_in_strips(drawn, tmp_path):
    case = max(read_cases(drawn / "cases.jsonl").cases, key=lambda case: case.people)
    config = RunConfig(layout_from="reference")
    document = json.loads(write_layout(case, tmp_path, open_faces("mini"), config, 256).read_text())
    middles = [np.mean(face["landmarks"], 0)[0] for face in document["faces"]]
    strip = document["width"] / case.people
    assert [int(x // strip) for x in middles] == list(range(case.people))
    assert all("strength" not in face for face in document["faces"])
    softer = RunConfig(layout_from="reference", strength=0.5)
    document = json.loads(write_layout(case, tmp_path, open_faces("mini"), softer, 256).read_text())
    assert [face["strength"] for face in document["faces"]] == [0.5] * case.people


@pytest.mark.parametrize(("width", "height", "side", "size"), [
    (128, 128, 512, (512, 512)), (1000, 500, 512, (720, 368)), (100, 1000, 512, (368, 720)), (1, 1, 64, (64, 64)),
])  # fmt: skip
def test_pictures_keep_the_proportions(width, height, side, size):
    assert fitting_size(width, height, side) == size


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(64, 1536))
def test_no_side_is_beyond_twice_the_other(width, height, side):
    across, down = fitting_size(width, height, side)
    assert max(across, down) <= 2 * min(across, down) and across % 16 == down % 16 == 0
    assert 0.6 < across * down / side**2 < 1.7 or side < 128


def test_a_refused_case_is_counted_and_stops_nobody(run, drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "drawn")
    Image.new("RGB", (96, 96), "white").save(folder / "nobody.png")
    cases = entries(folder)
    cases[1]["references"] = ["nobody.png"] * len(cases[1]["references"])
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    command = ["bench", "run", folder / "cases.jsonl", "-o", tmp_path / "run", "--steps", "1", "--face-pack", "mini"]

    code, _, err = run(*command, "--clip", "none")

    assert code == 3
    assert "1 cases could not be rendered" in err
    assert len(pictures(tmp_path / "run")) == 4
    lines = [json.loads(line) for line in (tmp_path / "run" / "scores" / "cases.jsonl").read_text().splitlines()]
    assert lines[1]["status"] == "missing"
    assert "found no face in the reference" in lines[1]["reason"]


def test_a_picture_of_broken_numbers_is_its_case_s_fault_and_other_faults_are_the_machine_s(finished, tmp_path):
    _, cases = finished
    job = RenderJob(cases.cases, tmp_path, QUICK, Origins(tmp_path, {}))

    def run(error):
        return job.run(SimpleNamespace(make=mock.Mock(side_effect=error)), 0, lambda place: None, frozenset())

    assert run(PictureFault("came out as numbers that are not finite")) == 1
    assert list(refusals(tmp_path, cases.cases).values()) == ["came out as numbers that are not finite"]
    with pytest.raises(EnvironmentFault):
        run(EnvironmentFault("the device ran out of memory"))
    assert run(None) == 0 and not refusals(tmp_path, cases.cases)


def test_a_damaged_adapter_is_no_cases_fault(run, drawn, tmp_path):
    adapter = shutil.copytree(shipped.adapter_folder(), tmp_path / "adapter")
    with (adapter / "id_projector.safetensors").open("ab") as file:
        file.write(b"x")
    code, _, err = run("bench", "run", drawn / "cases.jsonl", "-o", tmp_path / "run", "--adapter", adapter)
    assert code == 2
    assert "does not match its sha256" in err
    assert not (tmp_path / "run" / "refused").exists()


def test_placement_is_judged_against_the_layout(drawn, tmp_path):
    cases = read_cases(rewritten(drawn, "placed.jsonl", without("gt", "landmarks")))
    config = RunConfig(steps=1, layout_from="reference")
    render_cases(cases, tmp_path, config)
    [one, *_] = with_places(cases, tmp_path).cases
    layout = json.loads((tmp_path / "layouts" / f"{one.id}.json").read_text())
    assert np.allclose(one.landmarks, [face["landmarks"] for face in layout["faces"]])
    assert one.size == (layout["width"], layout["height"])


@pytest.mark.parametrize(("options", "told"), [
    (["--system", "nano"], "'nano' is not a known name"),
    (["--shard", "5/4"], "5/4 is no share"),
    (["--shard", "one"], "'one' is no share"),
    (["--system", "flux-kontext", "--adapter", "x"], "flux-kontext takes no AnyPhoto weights"),
    (["--system", "flux-kontext", "--strength", "0.5"], "--strength: is for AnyPhoto alone"),
    (["--system", "flux", "--strength", "0.5"], "--strength: is for AnyPhoto alone"),
    (["--system", "flux-kontext", "--memory", "nf4"], "nf4 is for AnyPhoto alone"),
    (["--side", "3"], "greater than or equal to 64"),
])  # fmt: skip
def test_refusals(run, drawn, tmp_path, options, told):
    code, _, err = run("bench", "run", drawn / "cases.jsonl", "-o", tmp_path / "run", *options)
    assert code == 2
    assert told in err
    assert "Traceback" not in err


def test_settings_with_which_nothing_was_made_bind_nobody(drawn, tmp_path):
    """A mistyped face pack ends before the first picture: put right, the same folder does."""
    cases = read_cases(drawn / "cases.jsonl")
    one = replace(cases, cases=cases.cases[:1])
    with pytest.raises(InputError, match="'minni' is no face pack. Did you mean mini"):
        render_cases(one, tmp_path / "run", QUICK.model_copy(update={"model_face_pack": "minni"}))
    assert render_cases(one, tmp_path / "run", QUICK) == 0
    with pytest.raises(InputError, match="steps: holds pictures made with 1"):
        render_cases(one, tmp_path / "run", QUICK.model_copy(update={"steps": 2}))
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(InputError, match="run.json: cannot be read"):
        render_cases(one, tmp_path / "run", QUICK)
    with pytest.raises(InputError, match="--out: is no folder"):
        render_cases(one, drawn / "cases.jsonl", QUICK)


@pytest.fixture(scope="module")
def kontext(tmp_path_factory):
    """FLUX.1 Kontext has the parts of FLUX.1-dev: a random one of stamp size."""
    from anyphoto_cli.model.tiny_random import build_tiny_random

    folder = tmp_path_factory.mktemp("kontext") / "tiny"
    build_tiny_random(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxKontextPipeline"}))
    return folder


def test_the_kontext_baseline_renders(drawn, kontext, tmp_path):
    cases = read_cases(drawn / "cases.jsonl")
    config = RunConfig(system="flux-kontext", model=str(kontext), steps=1, side=64)
    two = cases.__class__(cases.form, cases.cases[:2])
    assert render_cases(two, tmp_path, config) == 0
    with Image.open(tmp_path / "pictures" / f"{two.cases[0].id}.png") as picture:
        assert picture.size == (64, 64)
        assert json.loads(picture.text["anyphoto-bench"])["prompt"] == two.cases[0].prompt
    before = pictures(tmp_path)
    assert render_cases(two, tmp_path, config) == 0
    assert pictures(tmp_path) == before


def test_a_baseline_s_picture_of_broken_numbers_is_refused_and_the_next_one_made(drawn, kontext, tmp_path):
    """Infinity, too: a pipeline clamps it to white."""
    system = open_system(RunConfig(system="flux-kontext", model=str(kontext), steps=1, side=64, dtype="bfloat16"))
    [case, *_] = read_cases(drawn / "cases.jsonl").cases
    last = system._pipeline.vae.decoder.conv_out.bias.data
    whole = last.clone()
    for wrong in (float("nan"), float("inf")):
        last[0] = wrong
        with pytest.raises(PictureFault, match=f"{case.id}: came out as numbers that are not .* Try --dtype float32"):
            system.make(case, tmp_path)
        assert not (tmp_path / "pictures").exists()
    last.copy_(whole)
    system.make(case, tmp_path)
    assert len(pictures(tmp_path)) == 1


@pytest.mark.parametrize("said", ["MPS backend out of memory (MPS allocated: 18.13 GB)", "CUDA out of memory."])
def test_a_full_device_is_one_line_whatever_its_kind(drawn, kontext, tmp_path, said):
    system = open_system(RunConfig(system="flux-kontext", model=str(kontext), steps=1, side=64))
    [case, *_] = read_cases(drawn / "cases.jsonl").cases
    system._pipeline = mock.Mock(side_effect=RuntimeError(said))
    with pytest.raises(EnvironmentFault, match="ran out of memory. Use --memory offload, or --side"):
        system.make(case, tmp_path)
    system._pipeline.side_effect = RuntimeError("sizes must match")
    with pytest.raises(RuntimeError, match="must match"):
        system.make(case, tmp_path)


def test_the_floor_is_stock_flux_by_the_prompt_alone(drawn, tmp_path):
    import torch
    from diffusers import FluxPipeline

    from anyphoto_cli.mini.shipped import base_folder

    cases = read_cases(drawn / "cases.jsonl")
    one = cases.__class__(cases.form, cases.cases[:1])
    assert render_cases(one, tmp_path, RunConfig(system="flux", model="mini", steps=2, seed=3)) == 0
    stock = FluxPipeline.from_pretrained(base_folder(), dtype=torch.float32)
    wanted = stock(
        one.cases[0].prompt, width=128, height=128, num_inference_steps=2, guidance_scale=3.5, max_sequence_length=48,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    with Image.open(tmp_path / "pictures" / f"{one.cases[0].id}.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(wanted))


def test_a_baseline_refuses_another_pipelines_folder(drawn, tmp_path):
    from anyphoto_cli.mini.shipped import base_folder

    config = RunConfig(system="flux-kontext", model=str(base_folder()), steps=1)
    with pytest.raises(InputError, match="is a FluxPipeline, not a FluxKontextPipeline"):
        render_cases(read_cases(drawn / "cases.jsonl"), tmp_path, config)


@pytest.mark.parametrize("system", ["omnigen", "qwen-image-edit"])
def test_baselines_say_what_they_need(drawn, tmp_path, system):
    if find_spec("torchvision"):
        pytest.skip("torchvision is installed")
    with pytest.raises(EnvironmentFault, match=f"{system} needs torchvision"):
        render_cases(read_cases(drawn / "cases.jsonl"), tmp_path, RunConfig(system=system))


def called(system, pipeline_class):
    """What a system would call its pipeline with, for two references."""
    made = system.__new__(system)
    made._pipeline = type(pipeline_class, (), {})()
    return made.arguments("a beach", [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))], 7, 2.0)


@pytest.mark.parametrize(("system", "pipeline_class", "takes_several"), [
    (OmniGen, "OmniGenPipeline", True), (QwenImageEdit, "QwenImageEditPlusPipeline", True),
    (QwenImageEdit, "QwenImageEditPipeline", False), (FluxKontext, "FluxKontextPipeline", False),
])  # fmt: skip
def test_baselines_call_their_pipelines_with_arguments_these_have(system, pipeline_class, takes_several):
    told = called(system, pipeline_class)
    known = inspect.signature(getattr(diffusers, pipeline_class).__call__).parameters
    assert not told.keys() - known.keys()
    assert told["num_inference_steps"] == 7
    pictures_given = told.get("input_images", told.get("image"))
    assert isinstance(pictures_given, list) is takes_several
    if system is OmniGen:
        assert told["prompt"] == "a beach The picture shows the person in <img><|image_1|></img> and the person in " \
                                 "<img><|image_2|></img>."  # fmt: skip


def test_references_side_by_side():
    row = side_by_side([Image.new("RGB", (10, 20), "red"), Image.new("RGB", (10, 10), "blue")])
    assert row.size == (30, 20)
    assert row.getpixel((5, 10)) == (255, 0, 0)
    assert row.getpixel((20, 10)) == (0, 0, 255)
