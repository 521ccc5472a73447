"""The ablation's arithmetic and page, on made-up scores; and all of it, small, in a slow test."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from anyphoto_cli.mini import ablation
from anyphoto_cli.mini.ablation import Plan, kept_beside, main
from anyphoto_cli.mini.ablation_page import BEGIN, END, ORDERINGS, write_page
from anyphoto_cli.mini.ablation_rows import difference, measured, read_kept, read_scores, verdict, write_kept
from anyphoto_cli.mini.shipped import fingerprint
from anyphoto_cli.train.presets import PRESETS


def scores(folder, name, values, swapped=0, end=""):
    """rowsEND/NAME/scores/cases.jsonl: a case a value; None: no face was found."""
    lines = []
    for k, value in enumerate(values):
        found = value is not None
        leg = dict.fromkeys(("sim_gt", "sim_ref", "copy_paste", "blending"), value) | {"faces": []}
        lines.append({
            "id": str(k), "subset": "p1", "status": "scored" if found else "no face", "legs": {"mini": leg},
            "placement": {"expected": 1, "placed": int(found), "error": 0.1 if found else None, "swapped": swapped},
        })  # fmt: skip
    (folder / f"rows{end}" / name / "scores").mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"rows{end}" / name / "scores" / "cases.jsonl").write_text(text)
    (folder / f"rows{end}" / name / "scores" / "summary.json").write_text("{}")


def table_of(folder, *rows):
    """What a plan that began in `folder` would keep of its rows; each is (name, end)."""
    return {(name, end): read_scores(folder, name, end, 16) for name, end in rows}


def test_a_row_is_the_mean_over_its_seeds_case_by_case(tmp_path):
    scores(tmp_path, "full-0", [0.2, 0.4, None, None])
    scores(tmp_path, "full-1", [0.4, None, 0.6, None])
    table = table_of(tmp_path, ("full-0", ""), ("full-1", ""))
    row = measured(table, "full", ["full-0", "full-1", "full-2"])
    assert row.seeds == 2
    assert np.allclose(row.cases["sim_gt"], [0.3, 0.4, 0.6, np.nan], equal_nan=True)
    assert row.found == pytest.approx(4 / 8) and row.off == pytest.approx(0.1)
    assert measured(table, "location", ["location-0"]) is None and measured(table, "full", ["full-0"], "_worn") is None
    assert read_scores(tmp_path, "location-0", "", 16) is None
    (tmp_path / "rows" / "full-1" / "scores" / "summary.json").unlink()  # cut off while it was scored
    assert read_scores(tmp_path, "full-1", "", 16) is None


def test_differences_are_paired(tmp_path):
    """Two rows that differ by .02 in every case, among cases that differ by far more."""
    base = np.random.default_rng(0).uniform(-1, 1, 40)
    gap = difference(base, base + 0.02)
    assert gap[0] == pytest.approx(0.02) and gap[1] == pytest.approx(0.02) and gap[3] == 40
    assert verdict(gap) == "holds" and verdict(difference(base, base - 0.02)) == "**reversed**"
    assert verdict(difference(base, np.random.default_rng(1).permutation(base))) == "open"
    assert verdict(difference(np.array([np.nan]), np.array([1.0]))) == "not measured"


def test_the_page_keeps_what_was_written_by_hand_and_says_what_is_owed(tmp_path):
    page = tmp_path / "docs" / "ablation.md"
    page.parent.mkdir()
    page.write_text(f"# By hand\n\nbefore\n\n{BEGIN}\nstale\n{END}\n\nafter\n")
    scores(tmp_path, "no adapter", [0.0, 0.1])
    scores(tmp_path, "no-modulation-0", [0.3, 0.4])
    scores(tmp_path, "full-0", [0.5, 0.6])
    scores(tmp_path, "full-1", [0.9, 0.9])  # its sibling is owed: in the table, in no difference
    scores(tmp_path, "full-0", [0.7, 0.8], end="_worn")
    for name, slower in (("full-0", 1), ("full-1", 3)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        lines = [{"step": 10, "samples_per_s": 2.0 / slower}, {"step": 20, "samples_per_s": 4.0 / slower}]
        (tmp_path / "runs" / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    names = [("no adapter", ""), ("no-modulation-0", ""), ("full-0", ""), ("full-1", ""), ("full-0", "_worn")]
    table = table_of(tmp_path, *names)
    made = Plan(tmp_path, steps=7).made
    write_page(made, table, page)
    text = page.read_text()
    assert text.startswith("# By hand\n\nbefore") and text.endswith("after\n") and "stale" not in text
    assert "; 7 steps of 16 samples a row." in text
    assert "| Sim(GT): no-modulation < full | +0.200 [+0.200, +0.200], 2 cases |  | holds |" in text
    assert "| CP: full < no-modulation | -0.200 [-0.200, -0.200], 2 cases |  | **reversed** |" in text
    assert text.count("| owed | | owed |") == 2 * len(ORDERINGS) - 2
    assert "| full | 2 | 0.725" in text and "| full | 1 | 0.750" in text.split("### Worn references")[1]
    assert "| 0.000 | 2 |" in text  # 160 samples at 2 and 160 at 4 a second; the other seed had a third of it
    assert "| (e) no-modulation | 1 | 0.350" in text and "| 0.365 |" in text
    for name in ("ablation.png", "ablation_worn.png"):
        assert (page.parent / "images" / name).stat().st_size > 5000
    write_page(made, table, page)
    assert page.read_text() == text
    scores(tmp_path, "no-modulation-1", [0.5, 0.7])
    write_page(made, table | table_of(tmp_path, ("no-modulation-1", "")), page)
    assert "| Sim(GT): no-modulation < full | +0.250 [+0.200, +0.300], 2 cases | +0.200, +0.300 | holds |" in (
        page.read_text()
    )


def test_where_nobody_was_found_the_table_says_so(tmp_path):
    scores(tmp_path, "no adapter", [None, None])
    write_page(Plan(tmp_path).made, table_of(tmp_path, ("no adapter", "")), tmp_path / "a.md")
    [row] = [line for line in (tmp_path / "a.md").read_text().splitlines() if line.startswith("| no adapter |")]
    assert "| 0.00 | n/a | 0.000 |" in row and "nan" not in row


def test_every_row_is_a_preset_of_train():
    assert {row for _, *rows in ORDERINGS for row in rows} == set(PRESETS)


def test_the_command_writes_an_honest_page_without_any_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", "--folder", str(tmp_path), "--page", str(tmp_path / "a.md"), "--only-page"])
    main()
    assert "owed" in (tmp_path / "a.md").read_text()


def test_kept_rows_are_not_made_again_on_another_machine(tmp_path, monkeypatch, capsys):
    """What was benched lies beside the page; the folder of the work may be gone."""
    page, plan = tmp_path / "docs" / "a.md", Plan(tmp_path / "old", seeds=(0,), rows=("full",))
    page.parent.mkdir()
    for end in ("", "_worn"):
        for name in ("no adapter", "untrained adapter", "full-0"):
            scores(plan.folder, name, [0.5, None], end=end)
    common = ["x", "--page", str(page), "--rows", "full", "--folder"]
    monkeypatch.setattr("sys.argv", [*common, str(plan.folder), "--seeds", "0", "--only-page"])
    main()
    before, kept = page.read_text(), kept_beside(page).read_bytes()
    made, table = read_kept(kept_beside(page))
    assert made == plan.made and len(table) == 6 and table["full-0", "_worn"].cases["sim_gt"] == [0.5, None]
    asked = []
    monkeypatch.setattr(
        ablation, "run_command", lambda folder, words, launcher=(), said=None, beside=1: asked.append(words[0]) or 1.0
    )
    monkeypatch.setattr("sys.argv", [*common, str(tmp_path / "new"), "--seeds", "0"])
    main()
    assert asked == [] and page.read_text() == before and kept_beside(page).read_bytes() == kept
    monkeypatch.setattr("sys.argv", [*common, str(tmp_path / "new"), "--seeds", "0,1"])
    main()
    assert "rows were made" not in capsys.readouterr().err
    assert asked.count("train") == 2 and asked.count("bench") == 2  # init and training, both sets: of seed 1 only
    monkeypatch.setattr("sys.argv", [*common, str(tmp_path / "new"), "--seeds", "0,1", "--minutes", "0"])
    main()
    assert capsys.readouterr().err == "0 of 1 rows were made. Run again to go on\n"


def test_rows_beside_the_page_that_were_made_another_way_end_it(tmp_path, monkeypatch, capsys):
    page = tmp_path / "a.md"
    scores(tmp_path / "f", "no adapter", [0.5])
    common = ["x", "--page", str(page), "--folder"]
    monkeypatch.setattr("sys.argv", [*common, str(tmp_path / "f"), "--only-page"])
    main()
    before = page.read_text(), kept_beside(page).read_bytes()
    monkeypatch.setattr("sys.argv", [*common, str(tmp_path / "g"), "--steps", "700", "--only-page"])
    main()  # what is kept is written as it was made
    assert (page.read_text(), kept_beside(page).read_bytes()) == before and "; 600 steps" in before[0]
    monkeypatch.setattr("sys.argv", [*common, str(tmp_path / "g"), "--steps", "700"])
    with pytest.raises(SystemExit) as ended:
        main()
    [said] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert "a_rows.jsonl" in said and "steps: these rows were made with 600, now it is 700" in said
    assert not (tmp_path / "g").exists()
    for broken in ('["no"]\n{"row": 1}\n', "7\n", "{}\n"):
        kept_beside(page).write_text(broken)
        with pytest.raises(SystemExit) as ended:
            main()
        [said] = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and "a_rows.jsonl" in said and "holds no rows of an ablation" in said


def test_where_the_page_s_rows_are_of_another_base_this_one_has_a_page_of_its_own(tmp_path, monkeypatch, capsys):
    """As in every checkout: the base that the shipped rows were made with is not shipped any more."""
    monkeypatch.chdir(tmp_path)
    scores(tmp_path / ".ablation", "no adapter", [0.5])
    plan, shipped_page = Plan(tmp_path / ".ablation"), ablation.PAGE
    shipped_page.parent.mkdir()
    made = plan.made | {"models": "b48c0ffee123"}
    write_kept(kept_beside(shipped_page), made, table_of(tmp_path / ".ablation", ("no adapter", "")))
    kept = kept_beside(shipped_page).read_bytes()
    (tmp_path / ".ablation").rename(tmp_path / "away")
    monkeypatch.setattr("sys.argv", ["x", "--only-page"])
    main()
    assert capsys.readouterr().out == "docs/ablation.md\n" and not (tmp_path / ".ablation").exists()
    chart = (tmp_path / "docs" / "images" / "ablation.png").read_bytes()
    monkeypatch.setattr(ablation, "_make_sets", lambda plan: None)
    monkeypatch.setattr(ablation, "_bench", lambda folder, name, adapter: scores(folder, name, [0.7]))
    monkeypatch.setattr(ablation, "_train", lambda *_: "")
    monkeypatch.setattr("sys.argv", ["x", "--rows", "full", "--seeds", "0"])
    main()
    told, own = capsys.readouterr(), f"docs/ablation_{fingerprint()}.md"
    assert told.out == f"{own}\n"
    assert told.err == f"docs/ablation_rows.jsonl holds rows of another base: those of this one go to {own}\n"
    assert "0.700" in (tmp_path / own).read_text() and kept_beside(shipped_page).read_bytes() == kept
    assert (tmp_path / "docs" / "images" / "ablation.png").read_bytes() == chart
    assert (tmp_path / "docs" / "images" / f"ablation_{fingerprint()}.png").is_file()


def test_a_command_that_fails_ends_it_with_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "mine.txt").write_text("not ours")
    monkeypatch.setattr("sys.argv", ["x", "--folder", str(tmp_path), "--page", str(tmp_path / "a.md")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "`anyphoto mini photos" in line and "is not an empty folder" in line
    assert not (tmp_path / "a.md").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--seeds", "0,x"), "Error: --seeds: '0,x' is no list of numbers. Like this: 0,1,2"),
        (("--seeds=-1",), "Error: --seeds: '-1' is no list of numbers. Like this: 0,1,2"),
        (("--steps", "0"), "Error: --steps: 0 is not 1 or more"),
        (("--processes", "0"), "Error: --processes: 0 is not 1 or more"),
        (("--rows", "full,fool"), "Error: --rows: 'fool' is no preset. Presets: full, base-roi"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_made(tmp_path, monkeypatch, capsys, options, line):
    monkeypatch.setattr("sys.argv", ["x", "--folder", str(tmp_path / "f"), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    [said] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and said.startswith(line) and not (tmp_path / "f").exists()


def test_rows_of_other_steps_are_not_put_into_one_table(tmp_path, monkeypatch, capsys):
    """Finished rows are kept: a table of 600 and 1200 steps would look as if both were the same."""
    page = tmp_path / "a.md"
    common = ["x", "--folder", str(tmp_path / "f"), "--page", str(page), "--only-page", "--steps"]
    monkeypatch.setattr("sys.argv", [*common, "600"])
    main()
    monkeypatch.setattr("sys.argv", [*common, "900"])
    main()  # nothing is made yet
    scores(tmp_path / "f", "full-0", [0.5])
    before = page.read_text()
    monkeypatch.setattr("sys.argv", [*common, "1200"])
    with pytest.raises(SystemExit) as ended:
        main()
    [said] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and "steps: this run began with 900, now it is 1200" in said and "--folder" in said
    assert page.read_text() == before


def test_commands_side_by_side_end_with_it_when_it_is_terminated(tmp_path):
    """They were left running, both of them."""
    code = f"""
import sys
from anyphoto_cli.mini import ablation, commands
script = "trap 'touch ended-$$; exit 1' TERM; touch begun-$$; while :; do sleep .02; done"
real = commands.Popen
commands.Popen = lambda words, **more: real(["sh", "-c", script], **more)
ablation._make_sets = lambda plan: None
commands.HEARD_S = .05
sys.argv = ["x", "--folder", {str(tmp_path)!r}, "--page", {str(tmp_path / "a.md")!r}]
ablation.main()
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("begun-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        process.terminate()
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "Terminated. What is finished is kept" in told.splitlines()[-1]
    assert {file.name[6:] for file in tmp_path.glob("begun-*")} == {file.name[6:] for file in tmp_path.glob("ended-*")}
    assert len(list(tmp_path.glob("ended-*"))) == 2


@pytest.mark.slow
def test_one_seed_of_three_rows_shows_that_training_is_what_gains(tmp_path):
    """The whole of `make ablation`, small: photos, shards, training, pictures of held-out people, scores, the page."""
    plan = ablation.Plan(tmp_path / "work", steps=160, seeds=(0,), rows=("full",), people=60, photos=400, layouts=32)
    page = tmp_path / "ablation.md"
    ablation.run(plan, page)
    _, table = read_kept(kept_beside(page))
    names = ("no adapter", "untrained adapter", "full-0")
    rows = [measured(table, name, [name]) for name in names]
    base, untrained, trained = (float(np.nanmean(row.cases["sim_ref"])) for row in rows)
    assert base < untrained + 0.02 and trained > untrained + 0.01, (base, untrained, trained)
    assert rows[2].off < rows[1].off < rows[0].off  # places: learnt, by aligned tokens, at random
    worn = measured(table, "full", ["full-0"], "_worn")
    assert np.nanmean(worn.cases["sim_gt"]) < np.nanmean(rows[2].cases["sim_gt"])
    text = page.read_text()
    assert "owed" in text and all(f"| {name.removesuffix('-0')} |" in text for name in names)
