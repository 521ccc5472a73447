"""The papers' rows, ranked by their rules: what their text claims comes out, and nobody is ranked who must not be."""

import csv
import io
import json

import pytest

from anyphoto_cli.bench import tables
from anyphoto_cli.bench.tables import Row, ablation_rows, published_rows, ranks


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


def test_the_ablations_are_the_presets_of_training():
    from anyphoto_cli.train.presets import PRESETS

    rows = {row.system: row.values for row in ablation_rows()}
    assert set(rows) == set(PRESETS)
    order = [rows[name]["sim_gt"] for name in ("base-roi", "no-face-loss", "no-modulation", "full")]
    assert order == sorted(order)
    pasted = [rows[name]["copy_paste"] for name in ("full", "no-modulation", "location", "modulation")]
    assert pasted == sorted(pasted)


def test_five_formats_say_the_same(tmp_path):
    rows = [*published_rows("p3"), Row("my_run <1> & co", "p3", {"sim_gt": 0.5, "clip_t": None}, note='says "hi"')]
    text = tables.markdown(rows, "p3")
    assert "| AnyPhoto | <u>0.424</u> | **0.587** |" in text and "Sim(GT) ↑" in text and "CP ↓" in text
    assert "| my_run <1> & co | **0.500** | n/a |" in text
    tex = tables.latex(rows, "p3")
    assert r"my\_run <1> \& co & \textbf{0.500}" in tex and tex.count(r"\\") == len(rows) + 1
    parsed = list(csv.DictReader(io.StringIO(tables.comma_separated(rows, "p3"))))
    assert parsed[-1]["sim_gt"] == "0.5" and parsed[-1]["sim_gt_rank"] == "1" and parsed[-1]["clip_t"] == ""
    document = json.loads(json.dumps(tables.as_json(rows, "p3")))
    assert document[-1]["values"]["sim_gt"] == 0.5 and document[-1]["ranks"]["sim_gt"] == 1
    page = tables.as_html(rows, "p3")
    assert (
        "my_run &lt;1&gt; &amp; co" in page
        and 'title="says &quot;hi&quot;"' in page
        and page.count("<tr") == len(rows) + 1
    )


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
