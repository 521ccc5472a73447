"""The papers' rows, ranked by their rules: what their text claims comes out, and nobody is ranked who must not be."""

import csv
import io
import json
import warnings
from dataclasses import replace

import pytest

from anyphoto_cli.bench import tables
from anyphoto_cli.bench.charts import _bars
from anyphoto_cli.bench.measured import OWN_ENCODERS, Measured
from anyphoto_cli.bench.standing import rows_for, run_names, tables_for
from anyphoto_cli.bench.summing import METRICS, sum_up
from anyphoto_cli.bench.tables import ABLATION, Row, ablation_rows, ablation_tables, published_rows, ranks


def rank_of(system: str, subset: str, rows=None) -> dict[str, int | None]:
    rows = rows or published_rows(subset)
    place = next(k for k, row in enumerate(rows) if row.system == system)
    return {column: ranks(rows, subset).get((place, column)) for column in tables.COLUMNS}


def test_all_published_rows_are_there():
    systems = {subset: [row.system for row in published_rows(subset)] for subset in ("p1", "p2", "p3")}
    assert {subset: len(names) for subset, names in systems.items()} == {"p1": 18, "p2": 10, "p3": 10}
    assert set(systems["p1"]) == {
        "DreamO", "OmniGen", "OmniGen2", "FLUX.1 Kontext", "Qwen-Image-Edit", "GPT-4o-Image", "UNO", "USO", "UMO",
        "UniPortrait", "ID-Patch", "InfU", "PuLID", "InstantID", "WithAnyone", "AnyPhoto", "GT", "Ref",
    }  # fmt: skip
    for rows in map(published_rows, ("p1", "p2", "p3")):
        for row in rows:
            assert all(value is None or -1 <= value <= 10 for value in row.values.values())
            assert row.values["sim_gt"] is not None


def test_what_the_paper_says_about_itself():
    one, two, three = (rank_of("AnyPhoto", subset) for subset in ("p1", "p2", "p3"))
    assert one["copy_paste"] == 2
    assert (two["sim_gt"], two["sim_ref"], two["copy_paste"]) == (2, 2, 3)
    assert (three["sim_gt"], three["sim_ref"], three["copy_paste"]) == (1, 1, 2)


def test_who_is_not_ranked():
    assert not any(rank_of("GT", "p1").values()) and not any(rank_of("Ref", "p1").values())
    gpt = rank_of("GPT-4o-Image", "p3")
    assert (gpt["sim_gt"], gpt["sim_ref"], gpt["copy_paste"]) == (None, None, None) and gpt["clip_i"] == 1
    patch = rank_of("ID-Patch", "p2")  # its Sim(GT) is .350: on the gate, not above it
    assert patch["copy_paste"] is None and patch["sim_gt"] is not None
    assert rank_of("OmniGen2", "p1")["copy_paste"] is None


def test_our_rows_are_ranked_among_them_and_ties_share_a_rank():
    rows = [*published_rows("p2"), Row("mine", "p2", {"sim_gt": 0.405, "sim_ref": 0.9, "copy_paste": 0.161})]
    assert rank_of("mine", "p2", rows)["sim_gt"] == rank_of("WithAnyone", "p2", rows)["sim_gt"] == 1
    assert rank_of("AnyPhoto", "p2", rows)["sim_gt"] == 3
    assert rank_of("mine", "p2", rows)["sim_ref"] == 1 and rank_of("mine", "p2", rows)["clip_i"] is None


def test_a_run_that_another_face_model_judged_is_not_ranked_among_the_published():
    mine = Row("mine", "p2", {"sim_gt": 0.9}, measured=Measured({"mini": "0"}))
    rows = [*published_rows("p2"), mine]
    assert rank_of("mine", "p2", rows)["sim_gt"] is None and rank_of("WithAnyone", "p2", rows)["sim_gt"] == 1
    told = "mine: judged by mini, published rows by buffalo_l, facenet, adaface: not ranked with them"
    assert told in tables.markdown(rows, "p2") and told.replace("_", r"\_") in tables.latex(rows, "p2")
    assert rank_of("mine", "p2", [mine])["sim_gt"] == 1 and "not ranked" not in tables.markdown([mine], "p2")


THEIRS = Measured(
    dict.fromkeys(("adaface", "buffalo_l", "facenet"), "0"), "always", "models/clip-vit-base-patch16",
    ("v2.5", "head.pth", "google/siglip-so400m-patch14-384"),
)  # fmt: skip
"""As the published rows were measured."""


@pytest.mark.parametrize(("change", "lost", "told"), [
    ({}, (), ""),
    ({"padding": "needed"}, ("sim_gt", "sim_ref", "copy_paste", "blending"),
     "references padded where needed, published rows with all padded"),
    ({"clip": "openai/clip-vit-large-patch14"}, ("clip_i", "clip_t"), "CLIP is openai/clip-vit-large-patch14, of"),
    ({"aesthetic": ("laion", "head.pth", "clip-vit-large-patch14")}, ("aesthetic",), "Aes by laion on clip-vit"),
    ({"aesthetic": ("v2.5", "head.pth", "other")}, ("aesthetic",), "Aes by v2.5 on other, of published rows by v2.5"),
])  # fmt: skip
def test_a_run_is_ranked_among_the_published_where_it_was_measured_like_them(change, lost, told):
    values = dict.fromkeys(tables.COLUMNS, 0.5)
    rows = [*published_rows("p2"), Row("mine", "p2", values, measured=replace(THEIRS, **change))]
    assert {column for column, rank in rank_of("mine", "p2", rows).items() if rank is None} == set(lost)
    text = tables.markdown(rows, "p2")
    assert (f"mine: {told}" in text and "not ranked with them" in text) if lost else "not ranked" not in text


@pytest.mark.parametrize(("change", "lost"), [
    ({}, ()), ({"clip": "openai/clip-vit-base-patch16"}, ()),
    ({"faces": {"buffalo_l": "1"}}, ("sim_gt", "sim_ref", "copy_paste", "blending")),
    ({"padding": "needed"}, ("sim_gt", "sim_ref", "copy_paste", "blending")),
    ({"clip": "other"}, ("clip_i", "clip_t")), ({"aesthetic": ("v2.5", "mine.pth", "x")}, ("aesthetic",)),
])  # fmt: skip
def test_without_published_rows_nobody_is_ranked_where_runs_were_measured_differently(change, lost):
    one = replace(THEIRS, faces={"buffalo_l": "0"})
    values = dict.fromkeys(tables.COLUMNS, 0.5)
    rows = [Row("one", "p2", values, measured=one), Row("other", "p2", values, measured=replace(one, **change))]
    assert {column for column in tables.COLUMNS if (0, column) not in ranks(rows, "p2")} == set(lost)
    line = f"{', '.join(tables.TITLES[column] for column in lost)}: not measured alike, nobody is ranked"
    assert (line in tables.markdown(rows, "p2")) is bool(lost)
    alone = [rows[0], replace(rows[1], values=dict.fromkeys(lost))]
    assert rank_of("one", "p2", alone)["sim_gt"] == 1  # who has no number in a column is nobody to compare with


def test_the_encoders_are_those_of_the_predictors():
    from anyphoto_cli.bench.aesthetics import ENCODERS

    assert {kind: source.rpartition("/")[2] for kind, source in ENCODERS.items()} == OWN_ENCODERS


def test_the_ablations_are_the_presets_of_training():
    from anyphoto_cli.train.presets import PRESETS

    rows = {row.system: row.values for row in ablation_rows()}
    assert set(rows) == set(PRESETS)
    order = [rows[name]["sim_gt"] for name in ("base-roi", "no-face-loss", "no-modulation", "full")]
    assert order == sorted(order)
    pasted = [rows[name]["copy_paste"] for name in ("full", "no-modulation", "location", "modulation")]
    assert pasted == sorted(pasted)


def test_five_formats_say_the_same(tmp_path):
    rows = [*published_rows("p3"), Row("my_run <1> & co", "p3", {"sim_gt": 0.5, "clip_t": None},
                                         measured=replace(THEIRS, clip='"hi"'))]  # fmt: skip
    text = tables.markdown(rows, "p3")
    assert "| AnyPhoto | <u>0.424</u> | **0.587** |" in text and "Sim(GT) ↑" in text and "CP ↓" in text
    assert "| my_run &lt;1> & co | **0.500** | n/a |" in text
    assert "| a\\|b |" in tables.markdown([Row("a|b", "p3", {"sim_gt": 0.5})], "p3")
    tex = tables.latex(rows, "p3")
    assert r"my\_run <1> \& co & \textbf{0.500}" in tex and tex.count(r"\\") == len(rows) + 1
    parsed = list(csv.DictReader(io.StringIO(tables.comma_separated(rows, "p3"))))
    assert parsed[-1]["sim_gt"] == "0.5" and parsed[-1]["sim_gt_rank"] == "1" and parsed[-1]["clip_t"] == ""
    document = json.loads(json.dumps(tables.as_json(rows, "p3")))
    assert document[-1]["values"]["sim_gt"] == 0.5 and document[-1]["ranks"]["sim_gt"] == 1
    page = tables.as_html(rows, "p3")
    assert (
        "my_run &lt;1&gt; &amp; co" in page
        and "references padded; CLIP &quot;hi&quot;; Aes by v2.5" in page
        and page.count("<tr") == len(rows) + 1
    )


def test_a_run_has_one_colour_in_all_panels_and_may_be_called_anything(tmp_path):
    from anyphoto_cli.bench.charts import _colours, write_charts

    parts = sum_up([], {"buffalo_l": "x"}, {})
    part = sum_up([{"subset": "p1", "status": "missing"}], {"mini": "x"}, {})["subsets"]["p1"]
    for name, subsets in (("名前 one", ["p2", "p3"]), ("other", ["p1", "p2", "p3"])):
        (tmp_path / name).mkdir()
        told = json.dumps(parts | {"subsets": dict.fromkeys(subsets, part), "face_models": {"mini": "x"}})
        (tmp_path / name / "summary.json").write_text(told)
    runs = [tmp_path / "名前 one", tmp_path / "other"]
    for order in (runs, runs[::-1]):
        colours = _colours(tables_for(order))
        assert sorted(colours) == ["other", "名前 one"] and len(set(colours.values())) == 2
    with warnings.catch_warnings(record=True) as heard:
        warnings.resetwarnings()  # pytest has a filter of its own for all of them
        write_charts(runs, tmp_path / "charts")
    assert not [one for one in heard if "Glyph" in str(one.message)]


def test_what_leaves_nothing_to_show_is_told(run, tmp_path):
    (tmp_path / "s").mkdir()
    part = sum_up([{"subset": "", "status": "broken"}], {"mini": "x"}, {})
    (tmp_path / "s" / "summary.json").write_text(json.dumps(part))
    for command, told in (
        (["table", tmp_path / "s"], "holds no case of p1, p2 or p3"), (["chart", tmp_path / "s"], "holds no case of p1"),
        (["table", tmp_path / "s", "--subset", "p2", "--no-published"], "holds no case of p2"),
        (["table", "--no-published"], "--no-published: leaves no row to show"),
        (["table", "--ablation", "--subset", "p1", "--subset", "p2"], "--subset: with --ablation takes one"),
        (["table", "--ablation", "--no-published"], "--no-published: with --ablation leaves nothing"),
    ):  # fmt: skip
        code, said, err = run("bench", *command)
        assert code == 2 and told in err and not said, err
    del part["subsets"]["all"]["metrics"]["aesthetic"]
    (tmp_path / "s" / "summary.json").write_text(json.dumps(part))
    code, _, err = run("bench", "table", tmp_path / "s")
    assert code == 2 and "summary.json is not whole" in err


def test_the_html_table_is_a_page_that_marks_the_best(run, tmp_path):
    code, _, err = run("bench", "table", "--subset", "p1", "--format", "html", "-o", tmp_path / "t.html")
    text = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert code == 0 and text.startswith("<!doctype html>") and 'charset="utf-8"' in text, err
    assert ".first { font-weight: 700 }" in text and 'class="first"' in text and text.count("<table>") == 1


@pytest.mark.parametrize("subset", ["p1", "p2", "p3"])
def test_published_copy_paste_follows_from_published_similarities(subset):
    """(acos Sim(GT) - acos Sim(Ref)) / θ, with the θ of the reference row where it is printed."""
    import numpy as np

    between = np.arccos({"p1": 0.521, "p2": 0.519, "p3": 0.551}[subset])
    for row in published_rows(subset):
        told = row.values
        if row.system not in ("GT", "Ref"):
            expected = (np.arccos(told["sim_gt"]) - np.arccos(told["sim_ref"])) / between
            assert told["copy_paste"] == pytest.approx(expected, abs=0.025), row.system


def scored(folder, value, missing=0, subsets=("p1",), lacking=None):
    """A folder of scores in which cases have about this value; so many more of each subset have no picture."""
    lines = []
    for subset in subsets:
        placement = {"error": 0.0, "expected": 1, "placed": 1, "swapped": 0, "duplicates": 0, "extra": 0,
                     "strangers": 0}  # fmt: skip
        for k in range(3):
            leg = dict.fromkeys(METRICS, value + k / 100)
            lines.append({"subset": subset, "status": "scored", "legs": {"mini": leg}, "placement": placement,
                          "people": 1, "faces": {"result": {"boxes": [[0, 0, 9, 9]]}}, **leg})  # fmt: skip
        lines += [{"subset": subset, "status": "missing", "people": 1}] * missing
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(sum_up(lines, {"mini": "0"}, lacking or {})))
    return folder


def test_runs_of_one_name_are_told_apart_and_keep_their_own_whiskers(tmp_path):
    runs = [scored(tmp_path / name, value) for name, value in (("x/full/scores", 0.2), ("y/full/scores", 0.7))]
    assert run_names(runs) == ["x/full", "y/full"] and run_names(runs[:1]) == ["full"]
    assert run_names([tmp_path / "x" / "full", tmp_path / "z"]) == ["full", "z"]
    rows = rows_for("p1", [tmp_path / "x" / "full", runs[1]], filtered=False, with_published=False)
    assert [row.system for row in rows] == ["x/full", "y/full"]
    for row, value in zip(rows, (0.2, 0.7), strict=True):
        low, high = row.intervals["sim_gt"]
        assert value - 1e-9 <= low < row.values["sim_gt"] < high <= value + 0.02 + 1e-9
    figure = _bars(tables_for(runs, ["p1"]), True)
    whiskers = [
        one.lines[2][0].get_segments()[0][:, 0] for one in figure.axes[0].containers if hasattr(one, "has_xerr")
    ]
    assert [pair.tolist() for pair in whiskers] == [pytest.approx(row.intervals["sim_gt"]) for row in rows]
    told = ablation_tables(rows_for("p1", runs, False, with_published=False))
    assert [row.system for row in told["Table A: attention"] if row.subset != ABLATION] == [
        "isolated, x/full, ours (one person)", "isolated, y/full, ours (one person)",
    ]  # fmt: skip


def test_a_run_that_lacks_cases_says_so_below(run, tmp_path):
    whole, part = scored(tmp_path / "whole", 0.5, subsets=("p1", "p2")), scored(tmp_path / "sysB", 0.6, missing=5)
    people = "faces found for 37.5% of 8 people; at their places 100.0% of the 3 whose places are known"
    for form, line in (
        ("markdown", f"sysB: 3 of 8 cases; {people}"),
        ("html", f"<p>sysB: 3 of 8 cases; {people}"),
        ("latex", r"\par{\footnotesize sysB: 3 of 8 cases; " + people.replace("%", r"\%")),
    ):
        code, said, _ = run("bench", "table", whole, part, "--format", form)
        assert code == 0 and line in said and "whole: judged by" in said
    code, said, _ = run("bench", "table", whole, part, "--format", "csv", "--no-published")
    rows = list(csv.DictReader(io.StringIO(said)))
    kept = ("system", "subset", "scored", "cases", "found", "people", "coverage", "expected_faces")
    assert [" ".join(row[name] for name in kept) for row in rows] == [
        "whole p1 3 3 1.0 3 1.0 3", "sysB p1 3 8 0.375 8 1.0 3", "whole p2 3 3 1.0 3 1.0 3",
    ]  # fmt: skip
    assert len(said.splitlines()) == 4 and "" not in said.splitlines()
    told = json.loads(run("bench", "table", part, "--format", "json", "--no-published")[1])
    assert (told[0]["scored"], told[0]["cases"], told[0]["found"], told[0]["people"]) == (3, 8, 0.375, 8)


def test_a_table_says_which_mean_it_shows_and_by_what_runs_were_measured(run, tmp_path):
    folder = scored(tmp_path / "sys", 0.5, lacking={"clip_i": "gone", "clip_t": "gone", "facenet": "no weights"})
    settings = {"pad_references": "needed", "clip": "x/clip", "aesthetic": "laion", "aesthetic_head": "h.pth"}
    (folder / "bench.json").write_text(json.dumps(settings))
    lines = [
        "sys: 3 of 3 cases; faces found for 100.0% of 3 people; at their places 100.0% of the 3 whose places are known, "
        "off by 0.000 face heights; 0 swapped, 0 strangers, 0 doubled, 0 more than asked",
        "sys: faces by mini (0), references padded where needed; Aes by laion, h.pth, clip-vit-large-patch14",
        "sys: CLIP-I, CLIP-T n/a (gone); facenet n/a (no weights)",
    ]
    for option, mean, label in (
        ([], "without outliers", "Means without outliers (1.5 interquartile ranges), as published."),
        (["--plain"], "plain", "Plain means. Published rows: without outliers."),
    ):
        for form, around in (("markdown", "\n{}\n"), ("latex", "\\par{{\\footnotesize {}}}"), ("html", "<p>{}</p>")):
            code, said, err = run("bench", "table", folder, "--format", form, *option)
            plain = said.replace(r"\%", "%")
            assert code == 0 and all(around.format(line) in plain for line in (label, *lines)), err + said
        [row] = csv.DictReader(
            io.StringIO(run("bench", "table", folder, "--format", "csv", "--no-published", *option)[1])
        )
        [told] = json.loads(run("bench", "table", folder, "--format", "json", "--no-published", *option)[1])
        assert row["mean"] == told["mean"] == mean and row["padding"] == told["padding"] == "needed"
        assert row["faces"] == told["faces"] == "mini 0" and row["clip"] == told["clip"] == ""
        assert row["aesthetic"] == told["aesthetic"] == "laion, h.pth, clip-vit-large-patch14"
        assert [float(row["sim_gt_low"]), float(row["sim_gt_high"])] == told["intervals"]["sim_gt"]
        assert told["intervals"]["sim_gt"][0] < 0.51 < told["intervals"]["sim_gt"][1]
        counted = ("place_error", "swapped", "strangers", "duplicates", "extra_faces")
        assert [float(row[name]) for name in counted] == [told[name] for name in counted] == [0] * 5
        assert row["not_available"] == "CLIP-I, CLIP-T n/a (gone); facenet n/a (no weights)"
        assert told["not_available"]["facenet"] == "no weights"
    assert "Plain means.\n" in run("bench", "table", folder, "--plain", "--no-published")[1]
    published = json.loads(run("bench", "table", "--format", "json", "--plain")[1])
    assert {row["mean"] for row in published} == {"without outliers"}


def test_summaries_of_older_versions_are_read(run, tmp_path):
    """They do not know how many faces were found at all."""
    folder = scored(tmp_path / "old", 0.5, missing=1)
    summary = json.loads((folder / "summary.json").read_text())
    for part in summary["subsets"].values():
        del part["people"], part["found"], part["strangers"]
    (folder / "summary.json").write_text(json.dumps(summary))
    code, said, err = run("bench", "table", folder)
    assert code == 0 and "old: 3 of 4 cases; at their places 100.0% of the 3 whose places are known" in said, err
    assert run("bench", "chart", folder, "-o", tmp_path / "charts")[0] == 0
