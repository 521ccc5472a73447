"""One file, several runs: planned before any is trained, gone on with, and laid side by side."""

import contextlib
import csv
import json
import subprocess
import sys

import pytest

from anyphoto_cli.config.train_file import config_text
from anyphoto_cli.train import sweep
from anyphoto_cli.train.distributed import Ranks
from tests.conftest import ROOT
from tests.train.test_run import config


@pytest.fixture
def files(mini_shards, tmp_path):
    told = config(mini_shards, tmp_path / "unused", max_train_steps=2).told()
    flat = {key: value for key, value in told.items() if not isinstance(value, dict)}
    flat |= {f"{part}.{key}": value for part in ("data", "loss", "method") for key, value in told[part].items()}
    (tmp_path / "run.yaml").write_text(config_text(flat))
    vary = {"loss.face_weight": [0, 0.1], "method.lora_rank": [2, 4]}
    sweep = {"config": "run.yaml", "output_dir": str(tmp_path / "sweep"), "vary": vary}
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))  # JSON is YAML
    return tmp_path


def test_every_combination_is_trained_once_and_stands_in_the_table(run, files):
    names = [f"face_weight={weight},lora_rank={rank}" for weight in ("0", "0.1") for rank in (2, 4)]
    code, said, err = run("train", "sweep", files / "sweep.yaml", "--dry-run")
    assert code == 0 and [line.rpartition("/")[2] for line in said.splitlines()] == names, err
    code, said, err = run("train", "sweep", files / "sweep.yaml", "--only", "2/2")
    assert code == 0 and "sweep.csv: 2 of 2 runs are finished" in said, err
    code, said, err = run("train", "sweep", files / "sweep.yaml")
    assert code == 0 and f"{names[1]}: finished before" in err and "4 of 4" in said
    rows = list(csv.DictReader((files / "sweep" / "sweep.csv").open()))
    assert [(row["loss.face_weight"], row["method.lora_rank"]) for row in rows] == [
        ("0", "2"), ("0", "4"), ("0.1", "2"), ("0.1", "4"),
    ]  # fmt: skip
    assert all(row["step"] == "2" and float(row["flow"]) > 0 for row in rows)
    assert float(rows[0]["face"]) == 0 and float(rows[2]["face"]) > 0
    code, _, err = run("train", "sweep", files / "sweep.yaml", "learning_rate=0.5", "--dry-run")
    assert code == 2 and f"{names[0]}: learning_rate: this run is finished, with 0.001; now it is 0.5. Remove" in err
    assert run("train", "sweep", files / "sweep.yaml", "logging_steps=3", "--dry-run")[0] == 0
    told = files / "sweep" / names[0] / "training.json"
    older = json.loads(told.read_text())
    del older["guidance_scale"]  # as if it was there before the key
    told.write_text(json.dumps(older))
    assert run("train", "sweep", files / "sweep.yaml", "--dry-run")[0] == 0
    card = json.loads((files / "sweep" / names[3] / "adapter" / "anyphoto.json").read_text())
    assert card["method"]["lora_rank"] == 4


def test_what_varies_is_set_by_nothing_else(run, files):
    code, _, err = run("train", "sweep", files / "sweep.yaml", "method.lora_rank=8", "--dry-run")
    assert code == 2 and "vary.method.lora_rank: varies in this sweep. Leave out method.lora_rank=8" in err


@pytest.mark.parametrize(
    "change, line",
    [
        ({"vary": {"method.lora_rang": [2]}}, "sweep.yaml: vary (lora_rang=2): "),
        ({"vary": {"method.lora_rank": [2, 2]}}, "method.lora_rank needs values, each once"),
        ({"vary": {"output_dir": ["x"]}}, "output_dir follows from the values"),
        ({"vary": {"method.lora_rank": [0]}}, "greater than or equal to 1"),
        ({"config": "gone.yaml"}, "gone.yaml"),
        ({"what": 1}, "is no key here"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(run, files, change, line):
    told = json.loads((files / "sweep.yaml").read_text()) | change
    (files / "sweep.yaml").write_text(json.dumps(told))
    code, _, err = run("train", "sweep", files / "sweep.yaml")
    assert code == 2 and line in err and len(err.splitlines()) == 1, err
    assert not (files / "sweep").exists()


@pytest.mark.slow  # what it needs is known in a second; to launch it twice takes ten
def test_two_ranks_train_several_runs_in_turn(files):
    vary = {"config": "run.yaml", "output_dir": str(files / "sweep"), "vary": {"loss.face_weight": [0, 0.1]}}
    (files / "sweep.yaml").write_text(json.dumps(vary))
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "anyphoto_cli",
        "train",
        "sweep",
    ]
    done = subprocess.run([sys.executable, *words, str(files / "sweep.yaml"), "max_train_steps=1"], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0 and "2 of 2 runs are finished" in done.stdout, done.stderr
    assert done.stderr.count("Run 2 of 2") == 1


class Second(Ranks):
    """Of two, on a machine whose disk does not show yet what the first one wrote."""

    def gather(self, value):
        return [[True] * len(value) if isinstance(value, list) else True, value]


def test_which_runs_are_finished_is_for_the_first_rank_to_say(files, monkeypatch):
    """The second one trained alone, and waited for the first."""
    monkeypatch.setattr(sweep, "joined", lambda *_: contextlib.nullcontext(Second(1, 2)))
    monkeypatch.setattr(sweep, "train", lambda *_, **__: pytest.fail("trained alone"))
    runs = sweep.plan(files / "sweep.yaml")
    assert sweep.sweep(runs) == (runs, 0)


def test_parts_are_asked_for_as_i_of_n(run, files):
    code, _, err = run("train", "sweep", files / "sweep.yaml", "--only", "3/2")
    assert code == 2 and "--only: '3/2' is no part. Give i/n, as in 2/8" in err
