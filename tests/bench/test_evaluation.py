"""From files to a table: who is like whom, who is missing, and a run that was cut off."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from anyphoto_cli.bench.cases import only_subsets, read_cases
from anyphoto_cli.bench.choosing import chosen, worst_first
from anyphoto_cli.bench.evaluation import evaluate
from anyphoto_cli.bench.models import open_models
from anyphoto_cli.bench.report import write_report
from anyphoto_cli.bench.results import LINES, all_lines
from anyphoto_cli.config.bench import PROTOCOLS, BenchConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.calibration import find_calibration
from anyphoto_cli.mini.photos import PhotosConfig, draw_photos
from anyphoto_cli.runtime.progress import Listener
from tests.bench.test_models import clip_folder  # noqa: F401 - a fixture

MINI = BenchConfig(face_packs=("mini",), clip=None, batch=3)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Eight drawn photos as the benchmark, a portrait of each person as reference; folders `gt` and `blank` of results."""
    folder = tmp_path_factory.mktemp("bench")
    draw_photos(folder / "w", PhotosConfig(people=9, groups=8, references=1, held_out=True, seed=4))
    (folder / "gt").mkdir()
    (folder / "blank").mkdir()
    lines = []
    for truth in map(json.loads, (folder / "w" / "truth.jsonl").read_text().splitlines()):
        id_ = truth["file"].partition("/")[2].partition(".")[0]
        references = [f"w/refs/{person['name']}/01.png" for person in truth["people"]]
        lines.append({"id": id_, "prompt": truth["caption"], "references": references, "gt": f"w/{truth['file']}"})
        shutil.copy(folder / "w" / truth["file"], folder / "gt" / f"{id_}.png")
        Image.fromarray(np.full((128, 128, 3), 255, np.uint8)).save(folder / "blank" / f"{id_}.png")
    (folder / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """They remember what they saw, from test to test."""
    return open_models(MINI, tmp_path_factory.mktemp("seen"))


class Heard(Listener):
    """Keeps its cautions."""

    def __init__(self):
        self.cautions = []

    def caution(self, text):
        self.cautions.append(text)


def rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / LINES).read_text().splitlines()]


def test_the_photo_itself_as_result(run, bench, tmp_path):
    out = tmp_path / "scores"
    code, said, err = run(
        "bench", "score", bench / "cases.jsonl", "--results", bench / "gt", "-o", out, "--face-pack", "mini", "--clip",
        "none",
    )  # fmt: skip
    assert code == 0 and "8 of 8 cases scored" in said and "CLIP-I: n/a (not asked for)" in said, err + said
    assert re.search(r"  faces found for 100.0% of (\d+) people; at their places 100.0% of the \1 whose places are known, "
                     r"off by 0.000 face heights; 0 swapped, 0 strangers, 0 doubled", said)  # fmt: skip
    whole = json.loads((out / "summary.json").read_text())["subsets"]["all"]
    assert whole["metrics"]["sim_gt"]["mean"] == pytest.approx(1) and whole["coverage"] == 1
    assert whole["metrics"]["copy_paste"]["mean"] == pytest.approx(-1, abs=1e-6)
    assert whole["swapped"] == whole["duplicates"] == whole["extra_faces"] == 0 and whole["place_error"] == 0
    assert whole["metrics"]["clip_i"] == {
        "mean": None, "n": 0, "low": None, "high": None, "filtered_mean": None, "outliers": 0,
        "by_model": {},
    }  # fmt: skip
    assert 0.3 < whole["metrics"]["sim_ref"]["mean"] < 0.95
    code, said, _ = run("bench", "table", out, "--subset", "p1")
    assert (
        code == 0
        and f"| {tmp_path.name} | 1.000 |" in said
        and "not ranked with them" in said
        and "| AnyPhoto | 0.448 |" in said
    )
    code, said, _ = run("bench", "table", out, "--format", "csv", "--no-published", "-o", tmp_path / "t.csv")
    assert code == 0 and (tmp_path / "t.csv").read_text().startswith("system,subset,published,sim_gt,sim_gt_rank")


def test_the_reference_as_result_of_one_person(bench, tmp_path):
    cases = read_cases(bench / "cases.jsonl")
    alone = [case for case in cases.cases if case.people == 1]
    (tmp_path / "made").mkdir()
    for case in alone:
        shutil.copy(case.references[0].file, tmp_path / "made" / f"{case.id}.png")
    summary = evaluate(cases, tmp_path / "made", tmp_path / "out", MINI, open_models(MINI))
    one = summary["subsets"]["p1"]
    assert one["scored"] == len(alone) >= 1 and one["metrics"]["sim_ref"]["mean"] == pytest.approx(1)
    assert one["metrics"]["copy_paste"]["mean"] == pytest.approx(1, abs=1e-6)
    padded = MINI.model_copy(update={"pad_references": "always"})
    other = evaluate(cases, tmp_path / "made", tmp_path / "padded", padded, open_models(padded))
    assert 0.8 < other["subsets"]["p1"]["metrics"]["sim_ref"]["mean"] < 1
    whole = summary["subsets"]["all"]
    assert (whole["cases"], whole["missing"]) == (8, 8 - len(alone))
    assert {row["reason"] for row in rows(tmp_path / "out") if row["status"] == "missing"} == {"no picture was made"}


def test_nobody_found_is_counted_and_in_no_mean(run, bench, tmp_path):
    code, said, _ = run(
        "bench", "score", bench / "cases.jsonl", "--results", bench / "blank", "-o", tmp_path / "s", "--face-pack",
        "mini", "--clip", "none", "--json",
    )  # fmt: skip
    whole = json.loads(said)["subsets"]["all"]
    assert code == 3 and (whole["no face"], whole["scored"], whole["cases"]) == (8, 0, 8)
    assert whole["metrics"]["sim_gt"]["mean"] is None and whole["coverage"] == 0


def test_people_of_pictures_that_are_not_there_are_not_at_their_places(bench, models, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = read_cases(bench / "cases.jsonl")
    whole = evaluate(cases, tmp_path / "empty", tmp_path / "s", MINI, models)["subsets"]["all"]
    people = sum(case.people for case in cases.cases)
    assert (whole["missing"], whole["coverage"], whole["expected_faces"]) == (8, 0, people)
    evaluate(cases, None, tmp_path / "own", MINI, models)
    told = "names no picture, nor was a folder of results given"
    assert {row["reason"] for row in rows(tmp_path / "own")} == {told}


def test_a_picture_too_thin_for_a_face_is_one_without(bench, models, tmp_path):
    """At the detector's size its shorter side would be no pixel."""
    cases = read_cases(bench / "cases.jsonl")
    made = shutil.copytree(bench / "gt", tmp_path / "gt")
    for case, size in zip(cases.cases, ((1, 5000), (5000, 1)), strict=False):
        Image.new("RGB", size).save(made / f"{case.id}.png")
    whole = evaluate(cases, made, tmp_path / "s", MINI, models)["subsets"]["all"]
    assert (whole["no face"], whole["scored"]) == (2, 6)


def test_what_was_not_available_may_be_measured_later(bench, clip_folder, tmp_path):  # noqa: F811
    """And what was measured may not go; a folder in which nothing was scored is bound to nothing."""
    cases, out, heard = read_cases(bench / "cases.jsonl"), tmp_path / "s", Heard()

    def score(results="gt", cases=cases, **told):
        config = MINI.model_copy(update=told)
        return evaluate(cases, bench / results, out, config, open_models(config), heard)["subsets"]["all"]

    (tmp_path / "empty").mkdir()
    score(tmp_path / "empty", least_score=0.9)
    assert score(clip=str(tmp_path / "nowhere"))["metrics"]["clip_i"]["mean"] is None
    assert not heard.cautions
    settings, lines = (out / "bench.json").read_bytes(), (out / LINES).read_bytes()
    with pytest.raises(InputError, match=r"--subset: clip_i, clip_t can be measured now.* Leave --subset out"):
        score(cases=only_subsets(cases, ("p1",)), clip=str(clip_folder))
    assert (settings, lines) == ((out / "bench.json").read_bytes(), (out / LINES).read_bytes())
    whole = score(clip=str(clip_folder))
    assert whole["metrics"]["clip_i"]["n"] == 8 and "clip_i, clip_t can be measured now" in heard.cautions[-1]
    with pytest.raises(InputError, match="clip: holds scores made with"):
        score(clip=None)
    with pytest.raises(InputError, match="least_score: holds scores made with 0.45"):
        score(clip=str(clip_folder), least_score=0.9)


def test_pictures_that_belong_to_no_case_are_told(bench, models, tmp_path):
    """Not so other seeds of a case, other subsets' pictures, or what is no picture at all."""
    cases, heard = read_cases(bench / "cases.jsonl"), Heard()
    made, [first, second, *_] = tmp_path / "made", cases.ids
    made.mkdir()
    shutil.copy(bench / "gt" / f"{first}.png", made / f"{first}_seed3.png")
    for name in (
        f"{first}_seed4.png",
        f"{second}.png",
        "notes.txt",
        f"{first}_seed3.verify.png",
        f"{second}_seed1.jpg",
    ):
        (made / name).write_bytes(b"")
    one = only_subsets(cases, (cases.cases[0].subset,))
    evaluate(replace(one, cases=one.cases[:1]), made, tmp_path / "s", MINI, models, heard)
    assert not heard.cautions
    for name in ("alice.png", "zoe_seed1.png", "else/out.webp"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_bytes(b"")
    evaluate(replace(one, cases=one.cases[:1]), made, tmp_path / "s", MINI, models, heard)
    told = f"3 pictures of {made} belong to no case, as alice.png: a picture is called <id>.png, <id>_seed<n>.png or"
    assert len(heard.cautions) == 1 and heard.cautions[0].startswith(told)


def test_another_benchmark_in_the_same_folder_is_told(bench, models, tmp_path):
    cases, heard = read_cases(bench / "cases.jsonl"), Heard()
    evaluate(cases, bench / "gt", tmp_path, MINI, models)
    evaluate(replace(cases, cases=cases.cases[:3]), bench / "gt", tmp_path, MINI, models, heard)
    assert "5 lines are of cases that this benchmark does not hold" in heard.cautions[0]


def test_damaged_files_of_a_folder_are_told_or_done_again(bench, models, tmp_path):
    cases = read_cases(bench / "cases.jsonl")
    evaluate(cases, bench / "gt", tmp_path, MINI, models)
    lines = (tmp_path / LINES).read_bytes()
    (tmp_path / LINES).write_bytes(b'{"x": 5}\n\xff\xfe\n' + lines)
    evaluate(cases, bench / "gt", tmp_path, MINI, models)
    assert (tmp_path / LINES).read_bytes() == lines
    for text in ("{", "[]"):
        (tmp_path / "bench.json").write_text(text)
        with pytest.raises(InputError, match="bench.json: (cannot be read|is no record)"):
            evaluate(cases, bench / "gt", tmp_path, MINI, models)


@pytest.mark.parametrize(("options", "told"), [
    (["--device", "tpu"], "'tpu' is no device"), (["--workers", "0"], "--workers"), (["--workers", "-3"], "--workers"),
    (["--face-pack", "minni"], "'minni' is no face pack. Did you mean mini"),
    (["--face-pack", "mini"], "--face-pack: mini is the second one called mini. Numbers are told apart by it"),
])  # fmt: skip
def test_options_that_are_none_are_refused(run, bench, tmp_path, options, told):
    code, _, err = run("bench", "score", bench / "cases.jsonl", "-o", tmp_path / "s", "--clip", "none", "--face-pack",
                       "mini", *options)  # fmt: skip
    assert code == 2 and told in err and not (tmp_path / "s").exists()


def test_a_cut_off_run_goes_on_and_bad_cases_stop_nobody(bench, tmp_path):
    cases = read_cases(bench / "cases.jsonl")
    made, out = tmp_path / "made", tmp_path / "out"
    shutil.copytree(bench / "gt", made)
    ids = [case.id for case in cases.cases]
    (made / f"{ids[1]}.png").write_bytes(b"no picture")
    (made / f"{ids[2]}.png").unlink()
    first = evaluate(cases, made, out, MINI, open_models(MINI, tmp_path / "seen"))
    assert [row["id"] for row in rows(out)] == ids
    assert [row["status"] for row in rows(out)][:4] == ["scored", "broken", "missing", "scored"]
    assert first["subsets"]["all"]["broken"] == 1
    # Their people are not at their places either: who leaves out hard cases gains nothing.
    people = sum(case.people for case in cases.cases)
    lost = cases.cases[1].people + cases.cases[2].people
    counted = first["subsets"]["all"]
    assert counted["expected_faces"] == people and counted["coverage"] == pytest.approx(1 - lost / people, abs=1e-5)
    assert (counted["people"], counted["found"]) == (people, counted["coverage"])
    whole = rows(out)
    with (out / LINES).open("w") as file:  # as a killed run leaves it: some lines, the last one torn
        file.write("".join(json.dumps(row) + "\n" for row in whole[:3]) + json.dumps(whole[3])[:40])
    shutil.copy(bench / "gt" / f"{ids[1]}.png", made)
    shutil.copy(bench / "gt" / f"{ids[2]}.png", made)
    asked = []
    models = open_models(MINI, tmp_path / "seen")
    eyes = models.faces["mini"]
    look = eyes._look
    eyes._look = lambda pictures, padded: asked.extend(pictures) or look(pictures, padded)
    again = evaluate(cases, made, out, MINI, models)
    assert again["subsets"]["all"]["scored"] == 8 and [row["id"] for row in rows(out)] == ids
    assert rows(out)[3] == whole[3] and len(asked) < 10  # the two cases that were broken; all others were seen before
    with pytest.raises(InputError, match="same_person: holds scores made with 0.24.*Name another folder"):
        evaluate(cases, made, out, MINI.model_copy(update={"same_person": 0.3}), models)


def test_scores_are_of_the_pictures_that_lie_there(bench, models, tmp_path):
    """Another system's pictures, another benchmark with the same ids, an older version's lines: scored again."""
    cases = read_cases(bench / "cases.jsonl")
    first = evaluate(cases, bench / "gt", tmp_path / "out", MINI, models)
    scored = rows(tmp_path / "out")
    assert evaluate(cases, bench / "blank", tmp_path / "out", MINI, models)["subsets"]["all"]["no face"] == 8
    assert evaluate(cases, bench / "gt", tmp_path / "out", MINI, models) == first and rows(tmp_path / "out") == scored
    one, *others = cases.cases
    stranger = next(case for case in others if case.references[0] != one.references[0])
    swapped = replace(one, references=(stranger.references[0], *one.references[1:]), prompt="others")
    evaluate(replace(cases, cases=(swapped, *others)), bench / "gt", tmp_path / "out", MINI, models)
    now = rows(tmp_path / "out")
    assert now[0]["legs"] != scored[0]["legs"] and now[0]["prompt"] == "others" and now[1:] == scored[1:]
    with (tmp_path / "out" / LINES).open("w") as file:
        for line in scored:
            del line["made_of"]
            file.write(json.dumps(line | {"legs": {}}) + "\n")
    assert evaluate(cases, bench / "gt", tmp_path / "out", MINI, models) == first


def test_who_is_one_person_is_said_by_the_face_pack_s_calibration(bench, models, tmp_path, monkeypatch):
    """A folder goes on by its own; one of an older version, which took strangers for swapped people, is scored anew."""
    cases, out, heard = read_cases(bench / "cases.jsonl"), tmp_path / "out", Heard()
    first = evaluate(cases, bench / "gt", out, MINI, models)
    kept, scored = json.loads((out / "bench.json").read_text()), rows(out)
    own = find_calibration(models.faces["mini"].analyzer)
    assert kept["same_person"] == own.threshold != 0.4
    for other in (None, own.model_copy(update={"different_pairs": 99})):  # too few people are no measure
        monkeypatch.setattr("anyphoto_cli.faces.calibration.find_calibration", lambda analyzer, other=other: other)
        assert models.same_person(MINI) == 0.4
    assert evaluate(cases, bench / "gt", out, MINI, models) == first
    assert json.loads((out / "bench.json").read_text()) == kept
    monkeypatch.undo()

    def age():
        (out / "bench.json").write_text(json.dumps(kept | {"same_person": 0.4}))
        older = [line | {"placement": without(line["placement"], "strangers") | {"swapped": 1}} for line in scored]
        (out / LINES).write_text("".join(json.dumps(line) + "\n" for line in older))

    age()
    assert evaluate(cases, bench / "gt", out, MINI, models) == first and rows(out) == scored
    assert json.loads((out / "bench.json").read_text()) == kept
    age()
    part = only_subsets(cases, (scored[0]["subset"],))
    evaluate(part, bench / "gt", out, MINI, models, heard)
    assert f"{8 - len(part.cases)} lines of other subsets are of an older version" in heard.cautions[0]


def without(told, key):
    return {name: value for name, value in told.items() if name != key}


def test_a_subset_leaves_the_others_scores_alone(bench, models, tmp_path):
    cases = read_cases(bench / "cases.jsonl")
    whole = evaluate(cases, bench / "gt", tmp_path / "whole", MINI, models)
    subsets = sorted({case.subset for case in cases.cases}, reverse=True)
    for name in subsets:
        parts = evaluate(only_subsets(cases, (name,)), bench / "gt", tmp_path / "parts", MINI, models)
    assert len(subsets) > 1 and parts == whole and set(parts["subsets"]) == {"all", *subsets}
    assert (tmp_path / "parts" / LINES).read_text() == (tmp_path / "whole" / LINES).read_text()


def test_a_doubled_id_takes_nobody_s_place_and_an_id_leads_nowhere(bench, tmp_path):
    [first, second, *_] = map(json.loads, (bench / "cases.jsonl").read_text().splitlines())
    for line in (first, second):
        line["references"] = [str(bench / name) for name in line["references"]]
        line["gt"] = line["result"] = str(bench / line["gt"])
    file = tmp_path / "cases.jsonl"
    lines = [first, second, first, second | {"id": "../../out"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    cases = read_cases(file)
    assert [case.id for case in cases.cases] == [first["id"], second["id"], ".._.._out"]
    for _ in range(2):  # also when it goes on
        whole = evaluate(cases, None, tmp_path / "out", MINI, open_models(MINI))["subsets"]["all"]
        assert (whole["cases"], whole["scored"], whole["broken"]) == (4, 3, 1)
        assert whole["people"] == 2 * len(first["references"]) + 2 * len(second["references"])
        assert [row["id"] for row in rows(tmp_path / "out")][-1] == f"{first['id']} (2)"


def test_clip_and_several_face_models(bench, tmp_path, clip_folder, face_pack_folder):  # noqa: F811
    config = BenchConfig(face_packs=("mini", str(face_pack_folder)), clip=str(clip_folder), least_score=0.3)
    cases = read_cases(bench / "cases.jsonl")
    summary = evaluate(cases, bench / "gt", tmp_path / "out", config, open_models(config))
    assert len(summary["face_models"]) == 2 and "aesthetic" in summary["not_available"]
    whole = summary["subsets"]["all"]["metrics"]
    assert whole["clip_i"]["mean"] == pytest.approx(1, abs=1e-5) and -1 <= whole["clip_t"]["mean"] <= 1
    lines = rows(tmp_path / "out")
    values = [leg["sim_gt"] for line in lines for leg in line["legs"].values() if leg["sim_gt"] is not None]
    assert whole["sim_gt"]["n"] == len(values) > 8  # pooled


def test_the_shared_samples_score(run, testdata, tmp_path, face_pack_folder):
    for form, count in (("multiid_bench_eval", 1), ("multiid_bench_hf2bench", 5)):
        code, said, err = run(
            "bench", "score", testdata / "formats" / form, "-o", tmp_path / form, "--face-pack", face_pack_folder,
            "--clip", "none", "--json",
        )  # fmt: skip
        whole = json.loads(said)["subsets"]["all"]
        assert code == 3 and whole["cases"] == count and whole["broken"] == 0, err


def test_real_photos_as_their_own_results(photos, real, tmp_path):
    """Photos with known people as the benchmark: the photo scores 1 and -1, also with a stranger beside them."""
    lines = [
        {"id": "obama", "prompt": "a man", "references": [_ref(photos, "obama")], "gt": "obama1.jpg"},
        {"id": "two", "prompt": "two men", "references": [_ref(photos, "obama"), _ref(photos, "biden")],
         "gt": "two_people.jpg"},
        {"id": "kit", "prompt": "two", "references": [_ref(photos, "kit_harington"), _ref(photos, "rose_leslie")],
         "gt": "kit_with_rose.jpg"},
    ]  # fmt: skip
    for line in lines:
        line["gt"] = line["result"] = str(photos / "groups" / line["gt"])
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    summary = evaluate(read_cases(tmp_path / "cases.jsonl"), None, tmp_path / "out", *real)
    whole = summary["subsets"]["all"]
    assert whole["scored"] == 3 and whole["metrics"]["sim_gt"]["mean"] == pytest.approx(1)
    assert whole["metrics"]["copy_paste"]["mean"] == pytest.approx(-1, abs=1e-6) and whole["coverage"] == 1
    assert whole["swapped"] == 0 and 0.4 < whole["metrics"]["sim_ref"]["mean"] < 0.95


@pytest.fixture(scope="module")
def real(face_pack_folder, tmp_path_factory):
    """(config, models) for real photos; they remember what they saw."""
    config = BenchConfig(face_packs=(str(face_pack_folder),), clip=None)
    return config, open_models(config, tmp_path_factory.mktemp("seen"))


def test_the_evaluator_s_and_hf2bench_s_trees_score_as_the_lines_of_the_same_cases(photos, real, tmp_path):
    """Two cases of real people: one, whose result is another photo of them, and two, whose is theirs in a mirror."""
    config, models = real
    groups, made, mirrored, lines = photos / "groups", tmp_path / "made", tmp_path / "mirrored.jpg", []
    made.mkdir()
    with Image.open(groups / "two_people.jpg") as whole:
        ImageOps.mirror(whole.convert("RGB")).save(mirrored)
    for id_, names, gt, result in (
        ("0001", ("obama",), groups / "obama1.jpg", photos / "refs" / "obama" / "obama2.jpg"),
        ("0002", ("obama", "biden"), groups / "two_people.jpg", mirrored),
    ):
        references, subset = [_ref(photos, name) for name in names], f"p{len(names)}"
        lines.append({"id": id_, "prompt": "people", "references": references, "gt": str(gt)})
        shutil.copy(result, made / f"{id_}.jpg")
        case = tmp_path / "evaluator" / subset / id_
        untar = tmp_path / "hf2bench" / subset / "untar"
        for folder in (case, untar):
            folder.mkdir(parents=True)
        shutil.copy(gt, case / "ori.jpg")
        shutil.copy(gt, untar / f"{id_}.jpg")
        shutil.copy(result, case / "out.jpg")
        for k, reference in enumerate(references, 1):
            shutil.copy(reference, case / f"ref_{k}.jpg")
            shutil.copy(reference, untar / f"{id_}_{k}.jpg")
        (case / "meta.json").write_text('{"prompt": "people"}')
        entry = {"prompt": "people", "image_paths": [f"{id_}_{k + 1}.jpg" for k in range(len(names))]}
        (tmp_path / "hf2bench" / f"{subset}.json").write_text(json.dumps([entry | {"ori_img_path": f"{id_}.jpg"}]))
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    forms = {"cases.jsonl": made, "evaluator": None, "hf2bench": made}
    summaries, scored = [], []
    for form, results in forms.items():
        summaries.append(evaluate(read_cases(tmp_path / form), results, tmp_path / f"{form} scores", config, models))
        scored.append(rows(tmp_path / f"{form} scores"))
    one, two = (next(iter(line["legs"].values())) for line in scored[0])
    assert all(isinstance(leg[m], float) for leg in (one, two) for m in ("sim_gt", "sim_ref", "copy_paste"))
    assert 0.4 < min(one["sim_gt"], two["sim_gt"]) < max(one["sim_gt"], two["sim_gt"]) < 1 and two["blending"] < 0.3
    assert summaries[0] == summaries[1] == summaries[2] and scored[0] == scored[1] == scored[2]


def test_grey_pictures_score_as_the_same_in_colour_and_of_two_faces_the_best_is_taken(photos, real, tmp_path):
    config, models = real
    pictures = {"gt": photos / "groups" / "obama1.jpg", "result": photos / "refs" / "obama" / "obama2.jpg",
                "reference": photos / "refs" / "obama" / "obama3.jpg", "both": photos / "groups" / "two_people.jpg"}  # fmt: skip
    for name, file in pictures.items():
        with Image.open(file) as whole:
            grey = whole.convert("L")
        grey.thumbnail((640, 640))
        grey.save(tmp_path / f"{name}_L.png")
        grey.convert("RGB").save(tmp_path / f"{name}_RGB.png")
    (tmp_path / "cases.jsonl").write_text("\n".join(
        json.dumps({"id": f"{reference} {mode}", "prompt": "a man", "references": [f"{reference}_{mode}.png"],
                    "gt": f"gt_{mode}.png", "result": f"result_{mode}.png"})
        for reference in ("reference", "both") for mode in ("L", "RGB")
    ))  # fmt: skip
    heard = Heard()
    evaluate(read_cases(tmp_path / "cases.jsonl"), None, tmp_path / "out", config, models, heard)
    alone, twin, both, both_twin = rows(tmp_path / "out")
    for grey, colour in ((alone, twin), (both, both_twin)):
        assert grey["legs"] == colour["legs"] and grey["placement"] == colour["placement"]
    assert [len(line["faces"]["references"][0]["boxes"]) for line in (alone, both)] == [1, 2]
    assert [caution.partition(":")[0] for caution in heard.cautions] == ["2 references of 2 cases show several faces"]
    seen, other = (eyes_of(models, tmp_path / f"{name}_RGB.png") for name in ("both", "result"))
    [leg] = both["legs"].values()
    assert seen.scores[0] >= seen.scores[1] and leg["sim_ref"] == pytest.approx(
        float(other.embeddings[0] @ seen.embeddings[0]), abs=1e-5
    )


def eyes_of(models, file):
    """What the first face model sees in a picture."""
    [eyes] = models.faces.values()
    return eyes.see([np.asarray(Image.open(file))], [file.read_bytes()])[0]


def _ref(photos, name: str) -> str:
    return str(sorted((photos / "refs" / name).iterdir())[0])


def test_refusals(run, bench, tmp_path):
    for words, line in (
        (("bench", "score", bench / "cases.jsonl", "--results", "gone", "-o", tmp_path / "x"), "--results: no such folder"),
        (("bench", "score", tmp_path, "-o", tmp_path / "x"), "is no benchmark"),
        (("bench", "score", bench / "cases.jsonl", "-o", tmp_path / "x", "--subset", "p9"), "'p9' is no subset"),
        (("bench", "table", tmp_path), "holds no summary.json. Name a folder that `anyphoto bench score -o` wrote"),
        (("bench", "table", "--subset", "p9"), "'p9' is no subset"),
    ):  # fmt: skip
        code, _, err = run(*words)
        assert code == 2 and line in err and len(err.splitlines()) <= 2, err


def test_the_report_shows_every_case_and_escapes_what_is_said(run, bench, tmp_path):
    evil = "<script>alert(1)</script> & a beach"
    cases = [json.loads(line) | {"gt": None} for line in (bench / "cases.jsonl").read_text().splitlines()]
    cases[0]["prompt"] = evil
    cases[1]["references"] = ["gone.png"]
    for case in cases:
        case["references"] = [str(bench / name) for name in case["references"]]
        case["gt"] = str(bench / "gt" / f"{case['id']}.png")
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, cases)))
    shutil.copytree(bench / "gt", tmp_path / "pictures")
    (tmp_path / "pictures" / f"{cases[2]['id']}.png").unlink()
    command = ["bench", "score", tmp_path / "cases.jsonl", "--results", tmp_path / "pictures", "-o", tmp_path / "s"]
    code, said, _ = run(*command, "--face-pack", "mini", "--clip", "none")
    page = (tmp_path / "s" / "report.html").read_text()

    assert code == 3 and "report.html" in said
    assert evil not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; a beach" in page
    assert page.count('<li class="cell') == page.count("<tr data-subset") == len(cases)
    first, second = re.findall(r'<bdi class="id">(.*?)</bdi>', page)[:2]
    assert {first, second} == {cases[1]["id"], cases[2]["id"]}  # what cannot be scored comes first, and says why
    assert "gone.png" in page and "no picture was made" in page
    assert "http" not in page.replace("http-equiv", "") and "default-src 'none'" in page
    assert run(*command, "--face-pack", "mini", "--clip", "none")[0] == 3
    assert (tmp_path / "s" / "report.html").read_text() == page


def test_of_many_cases_some_of_each_kind_have_pictures(bench, models, tmp_path):
    cases = read_cases(bench / "cases.jsonl")
    summary = evaluate(cases, bench / "gt", tmp_path, MINI, models)
    lines = all_lines(tmp_path)
    write_report(tmp_path / "r.html", "r", cases.cases, bench / "gt", lines, summary, shown=3)
    page = (tmp_path / "r.html").read_text()
    shown = re.findall(r'<bdi class="id">(.*?)</bdi>', page)
    assert shown == [line["id"] for line in chosen(lines, 3)] and page.count("<tr data-subset") == len(lines)
    assert "Pictures of 3 of 8 cases, taken in turn from those without a picture or a face" in " ".join(page.split())
    write_report(tmp_path / "r.html", "r", cases.cases, bench / "gt", lines, summary)
    assert "Pictures of 8 of 8 cases. </p>" in (tmp_path / "r.html").read_text()


def scored_line(id_, sim_ref, copy_paste=0.0, error=0.0, placed=1, status="scored"):
    placement = {"expected": 1, "placed": placed, "error": error if placed else None}
    leg = {"sim_ref": sim_ref, "sim_gt": None, "copy_paste": copy_paste}
    return {"id": id_, "status": status, "placement": placement, "legs": {"mini": leg}}


def test_cases_are_chosen_in_turn_by_what_is_wrong_with_them():
    """The most copy-pasted are the most like their references: by likeness alone none of them would be seen."""
    plain = [scored_line(f"plain{k}", 0.3 + k / 1000) for k in range(40)]
    odd = [
        scored_line("pasted", 0.9, copy_paste=0.8), scored_line("pasted less", 0.8, copy_paste=0.5),
        scored_line("away", 0.7, error=0.9), scored_line("nowhere", 0.7, placed=0), scored_line("best", 0.95),
        {"id": "gone", "status": "missing"}, scored_line("pasted and away", 0.6, copy_paste=0.7, error=0.8),
    ]  # fmt: skip
    lines = plain[20:] + odd + plain[:20]
    taken = [line["id"] for line in chosen(lines, 8)]
    assert taken == ["gone", "plain0", "plain1", "pasted and away", "away", "nowhere", "pasted", "best"]
    assert chosen(lines, 100) == worst_first(lines) and len({line["id"] for line in chosen(lines, 30)}) == 30


def test_charts_and_ablation_tables(run, bench, tmp_path):
    out = tmp_path / "full" / "scores"
    out.parent.mkdir()
    (out.parent / "run.json").write_text("{}")
    run("bench", "score", bench / "cases.jsonl", "--results", bench / "gt", "-o", out, "--face-pack", "mini",
        "--clip", "none")  # fmt: skip
    code, said, err = run("bench", "chart", tmp_path / "full", "-o", tmp_path / "charts")
    assert code == 0, err
    for name in ("scatter.png", "bars.png"):
        with Image.open(tmp_path / "charts" / name) as chart:
            assert chart.width > 1000 and len(chart.convert("RGB").getcolors(2**24)) > 50
    code, said, err = run("bench", "table", tmp_path / "full", "--ablation")
    assert code == 0, err
    ours = [line for line in said.splitlines() if line.startswith("|") and ", ours" in line]
    assert len(ours) == 3 and all("| 1.000 |" in line for line in ours)  # in each of the three tables
    assert "(d) no-face-loss, paper | 0.215 | 0.278 | 0.071" in said and "**" not in said
    assert run("bench", "chart", tmp_path, "-o", tmp_path / "charts")[0] == 2


def test_the_protocol_of_withanyone_pools_what_can_be_had(run, bench, tmp_path, monkeypatch):
    """Without network nor facexlib two of its three models are missing: told, never 0."""
    monkeypatch.setitem(PROTOCOLS["withanyone"], "face_packs", ("mini", "facenet", "adaface"))
    monkeypatch.delenv("ANYPHOTO_ADAFACE", raising=False)
    code, said, err = run(
        "bench", "score", bench / "cases.jsonl", "--results", bench / "gt", "-o", tmp_path, "--clip", "none",
        "--protocol", "withanyone",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["face_models"]) == ["mini"]
    assert "facenet-pytorch" in summary["not_available"]["facenet"] and "adaface: n/a (AdaFace's weights" in said
    assert json.loads((tmp_path / "bench.json").read_text())["pad_references"] == "always"
    code, _, err = run("bench", "score", bench / "cases.jsonl", "--results", bench / "gt", "-o", tmp_path / "x",
                       "--clip", "none", "--face-pack", "facenet")  # fmt: skip
    assert code == 1 and "facenet-pytorch cannot be imported" in err


def test_two_face_models_are_pooled_and_told_apart(run, bench, tmp_path):
    code, said, err = run(
        "bench", "score", bench / "cases.jsonl", "--results", bench / "gt", "-o", tmp_path, "--clip", "none",
        "--face-pack", "mini", "--face-pack", second_pack(tmp_path / "second"),
    )  # fmt: skip
    assert code == 0, err
    told = json.loads((tmp_path / "summary.json").read_text())["subsets"]["all"]["metrics"]["sim_ref"]
    assert set(told["by_model"]) == {"mini", "second"} and told["n"] == 16
    assert told["mean"] == pytest.approx(sum(told["by_model"].values()) / 2, abs=1e-6)
    assert "mini 0." in said and "second 0." in said


def second_pack(folder):
    """The small world's pack under another name."""
    from anyphoto_cli.mini.shipped import face_pack_folder

    return shutil.copytree(face_pack_folder(), folder)


def test_workers_give_the_same_lines(bench, tmp_path):
    cases, models = read_cases(bench / "cases.jsonl"), open_models(MINI)
    alone = evaluate(cases, bench / "gt", tmp_path / "alone", MINI, models)
    two = evaluate(cases, bench / "gt", tmp_path / "two", MINI, models, workers=2)
    for one, other in zip(rows(tmp_path / "alone"), rows(tmp_path / "two"), strict=True):
        assert one["id"] == other["id"] and one["status"] == other["status"]
        assert one["legs"]["mini"]["sim_ref"] == pytest.approx(other["legs"]["mini"]["sim_ref"], abs=1e-5)
    assert alone["subsets"]["all"]["cases"] == two["subsets"]["all"]["cases"]


def test_a_second_system_asks_only_about_its_own_pictures(bench, tmp_path, clip_folder, monkeypatch):  # noqa: F811
    """References, originals and prompts are those of the first: remembered, and every number the same."""
    config = MINI.model_copy(update={"clip": str(clip_folder)})
    cases, cache = read_cases(bench / "cases.jsonl"), tmp_path / "cache"
    evaluate(cases, bench / "blank", tmp_path / "first", config, open_models(config, cache), cache=cache)
    models = open_models(config, cache)
    looked, heard, detected = [], [], []
    monkeypatch.setattr(models.clip, "_look", counted(models.clip._look, looked))
    monkeypatch.setattr(models.clip, "_hear", counted(models.clip._hear, heard))
    analyzer = models.faces["mini"].analyzer
    monkeypatch.setattr(analyzer, "detect", counted(analyzer.detect, detected))
    other = tmp_path / "other"
    other.mkdir()
    for file in (bench / "gt").iterdir():
        Image.open(file).rotate(90).save(other / file.name)
    evaluate(cases, other, tmp_path / "second", config, models, cache=cache)
    assert (sum(looked), sum(heard), sum(detected)) == (8, 0, 8)
    evaluate(cases, other, tmp_path / "anew", config, open_models(config))
    assert rows(tmp_path / "second") == rows(tmp_path / "anew")


def counted(ask, counts):
    def asked(what, *more):
        counts.append(len(what))
        return ask(what, *more)

    return asked
