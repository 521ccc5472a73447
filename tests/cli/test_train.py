"""`anyphoto train` as it is typed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.config.train_file import config_text
from anyphoto_cli.errors import InputError
from anyphoto_cli.runtime.signals import StopSignal
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.estimate import Estimate
from anyphoto_cli.train.presets import PRESETS
from anyphoto_cli.train.wide_groups import WideGroups
from tests.cli.test_cli import one_after_another
from tests.conftest import ROOT
from tests.train.conftest import mini_shards  # noqa: F401

SMALL = ["max_train_steps=2", "train_batch_size=1", "data.workers=0", "data.resolution=128", "method.patch_size=112",
         "method.lora_rank=2", "device=cpu", "face_pack=mini", "gradient_checkpointing=false"]  # fmt: skip


@pytest.fixture
def config_file(run, mini_shards, tmp_path) -> Path:  # noqa: F811
    code, out, err = run("train", "init", "--model", "tiny-random", "--shards", mini_shards, "-o", tmp_path / "run.yaml",
                         "--output-dir", tmp_path / "run")  # fmt: skip
    assert code == 0 and str(tmp_path / "run.yaml") in out, err
    return tmp_path / "run.yaml"


def test_init_writes_every_key_and_reads_back_as_the_defaults(run, config_file, tmp_path):
    text = config_file.read_text()
    parsed = load_config(TrainConfig, config_file)
    assert parsed.data.resolution == 128 and parsed.method.patch_size == 112 and parsed.model == "tiny-random"
    plain = tmp_path / "plain.yaml"
    assert run("train", "init", "-o", plain, "--shards", "s", "--output-dir", "o")[0] == 0
    assert load_config(TrainConfig, plain) == TrainConfig(output_dir="o", data={"shards": "s"})
    for key in TrainConfig.model_fields:
        assert f"\n{key}:" in text, key
    assert "# Highest probability of another photo. Paper 4.1." in text
    code, _, err = run("train", "init", "-o", plain)
    assert code == 2 and "plain.yaml: --out: exists. Name another file, or give --overwrite" in err


@pytest.mark.parametrize("text", ["output_dir: 2026-13-45", "seed: 0x_", "a: " + "[" * 5000])
def test_values_that_are_none_are_one_line(text, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError, match=r"run.yaml: (holds what is no value \(.+\). Put quotes|is not YAML)") as told:
        load_config(TrainConfig, tmp_path / "run.yaml")
    assert len(str(told.value)) < 400


def test_a_run_from_the_file_with_changes_goes_on_when_typed_again(run, config_file, tmp_path):
    code, out, err = run("train", config_file, *SMALL)
    assert code == 0 and "trained for 2 steps" in out and f"--adapter {tmp_path / 'run' / 'adapter'}" in out, err
    code, out, err = run("train", config_file, *SMALL, "--json")
    told = json.loads(out)
    assert code == 0 and told["step"] == 2 and told["finished"] is True and told["loss"] > 0, err
    (tmp_path / "run" / "metrics.jsonl").unlink()
    code, out, err = run("train", config_file, *SMALL, "--json")
    assert code == 0 and json.loads(out)["loss"] is None, err
    assert run("train", config_file, *SMALL)[1].splitlines()[0].endswith("adapter: trained for 2 steps")
    code, _, err = run("train", config_file, *SMALL, "--no-resume")
    assert code == 2 and "holds a run at step 2" in err


@pytest.mark.parametrize(
    "name",
    ["2026_11_28", "2026-11-28", "2026-13-45", "1_000", "12_", "1e5", "0x10", "-5", "-", "True", "Null", "run-2"],
)
def test_a_name_in_the_file_that_init_writes_is_read_back_as_it_is(tmp_path, name):
    (tmp_path / "run.yaml").write_text(config_text({"output_dir": name, "data.shards": name}))
    read = load_config(TrainConfig, tmp_path / "run.yaml")
    assert (read.output_dir, read.data.shards) == (name, name)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_and_differs_where_it_says(run, config_file, tmp_path, name):
    code, _, err = run("train", config_file, *SMALL, f"output_dir={tmp_path / name}", "--preset", name)
    assert code == 0, err
    card = json.loads((tmp_path / name / "adapter" / "anyphoto.json").read_text())
    told = json.loads((tmp_path / name / "training.json").read_text())
    for key, value in PRESETS[name][1].items():
        part, inner = key.split(".")
        assert told[part][inner] == value
        if part == "method":
            assert card["method"][inner] == value


def test_dry_run_says_what_it_would_be_and_trains_nothing(run, config_file, tmp_path):
    code, out, err = run("train", config_file, *SMALL, "--dry-run")
    assert code == 0 and "samples a second over all devices" in out and "computed from parameter counts" in out, err
    assert not (tmp_path / "run").exists()
    code, _, err = run("train", config_file, *SMALL, "--dry-run", "face_pack=tiny-random")
    assert code == 2 and "were made with another face pack than tiny-random" in err
    code, _, err = run("train", config_file, *SMALL, "--dry-run", "method.patch_size=448")
    assert code == 2 and "holds patches of 112 px, the method wants 448" in err
    code, out, _ = run(
        "train", config_file, *SMALL, "device=auto", "model=flux-dev", "method.lora_rank=128", "--dry-run", "--json"
    )
    told = json.loads(out)
    # METHOD: 11.9 billion numbers, and 3.62 M trained ones a rank beside the projector.
    assert code == 0 and 11_800 < told["base"] < 12_000 and 460 < told["trained"] < 490 and 30 < told["gigabytes"] < 80
    groups = told.pop("wide_groups")
    assert groups["looked_at"] == groups["groups"] > 10 and groups["lost"] == 0  # drawn photos are square
    wide = WideGroups(3, 3, 1, 3, 1)
    assert Estimate(**told, wide_groups=wide).lines()[-1] == wide.line() and wide.line() not in out


def test_dry_run_knows_what_lies_on_a_device(monkeypatch):
    from anyphoto_cli.train.estimate import frozen_gigabytes, ranks

    def gigabytes(**settings):
        return frozen_gigabytes(TrainConfig(output_dir="o", data={"shards": "s"}, **settings), 11.9e9)

    plain = gigabytes()
    assert plain == pytest.approx(23.8 + 9.5 + 0.6, abs=0.1)
    assert plain - gigabytes(text_embeddings="cached") == pytest.approx(9.8, abs=0.1)
    assert gigabytes(mixed_precision="no") == pytest.approx(2 * plain)
    assert gigabytes(base_storage="fp8") == pytest.approx(plain - 11.9)
    assert gigabytes(base_storage="nf4") == pytest.approx((23.8 + 9.5) * 0.57 / 2 + 0.6, abs=0.1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ranks() == 4
    assert gigabytes() == plain and gigabytes(sharding="fsdp") == pytest.approx(plain - 23.8 * 0.75)


def test_preview_draws_what_the_model_will_see(run, config_file, tmp_path):
    code, _, err = run("train", "preview", config_file, "-o", tmp_path / "p.png", "--rows", 3, *SMALL)
    assert code == 0, err
    with Image.open(tmp_path / "p.png") as sheet:
        # A title, the pictures, and at least a line under them.
        assert sheet.width == 996 and sheet.height >= 3 * 234 and len(set(sheet.convert("L").getdata())) > 50


@pytest.mark.parametrize("more", [(), ("--degradations",)])
def test_preview_refuses_another_ending_before_it_reads_anything(run, config_file, tmp_path, more):
    code, _, err = run("train", "preview", config_file, "-o", tmp_path / "p.jpg", *more, "data.shards=nowhere")
    assert code == 2 and err == f"Error: {tmp_path}/p.jpg: --out: does not end in .png\n"


def test_preview_shows_each_degradation_of_one_reference(run, config_file, tmp_path):
    code, _, err = run("train", "preview", config_file, "-o", tmp_path / "d.png", "--degradations", *SMALL)
    assert code == 0, err
    with Image.open(tmp_path / "d.png") as sheet:
        corners = [(6 + 198 * (k % 5), 6 + 216 * (k // 5)) for k in range(14)]
        tiles = [sheet.crop((x, y, x + 192, y + 192)).tobytes() for x, y in corners]
        names = [sheet.crop((x, y + 192, x + 192, y + 210)) for x, y in corners]
    assert len(set(tiles)) == 14  # each is to be seen, and none is the reference as it is
    assert len({name.tobytes() for name in names}) == 14
    assert all(name.convert("L").crop((190, 0, 192, 18)).getextrema() == (255, 255) for name in names)  # none cut off


def test_signals_end_after_the_step_with_a_checkpoint(config_file, tmp_path):
    """Sent to the whole group, loader processes too, and twice: as torchrun does. Two runs of one process."""
    folders = {signal.SIGTERM: tmp_path / "one", signal.SIGUSR1: tmp_path / "two"}
    more = [*SMALL, "max_train_steps=5000", "logging_steps=1", "data.workers=1"]
    words = one_after_another(*(["train", config_file, *more, f"output_dir={out}"] for out in folders.values()))
    worker = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 120
    for sign, out in folders.items():
        while not (out / "metrics.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(worker.pid, sign)
        os.kill(worker.pid, sign)
    said, err = worker.communicate(timeout=60)  # until the loader processes, which write there too, are gone
    assert "exit code 143" in said and worker.returncode == 138 and "Traceback" not in err, err
    assert said.count("stopped at step") == 2
    for sign, out in folders.items():
        assert f"{sign.name}: stopping at the next good place; again after 5 s: at once" in err
        [checkpoint] = out.glob("checkpoint-*")
        assert f"step {checkpoint.name.split('-')[1]};" in said


def test_a_signal_that_comes_again_later_ends_at_once():
    text = """
import os, signal
from anyphoto_cli.runtime.signals import stop_on_signals
with stop_on_signals() as stop:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    print(stop.number, flush=True)
    stop._since -= 5
    os.kill(os.getpid(), signal.SIGINT)
    print("on")
"""
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT and done.stdout == "15\n" and done.stderr.count("\n") == 1, done


@pytest.mark.parametrize(
    "words, line",
    [
        (["data.resolutoin=64"], "data.resolutoin: is no key here. Did you mean data.resolution?"),
        (["data.resolution=100"], "data.resolution: 100: input should be a multiple of 16"),
        (["loss.face_weight=much"], "loss.face_weight: 'much': input should be a valid number"),
        (["data.degradations={melting: 1}"], "'melting' is no degradation"),
        (["rank=8"], "rank: is no key here. Here: method.lora_rank"),
        (["push_to_hub=true"], "push_to_hub: is no key here. Here: a command afterwards: anyphoto export"),
        (["method.lora_rnk=8"], "method.lora_rnk: is no key here. Did you mean method.lora_rank?"),
        (["max_train_steps"], "'max_train_steps' is no KEY=VALUE"),
        (["--preset", "best"], "--preset: 'best' is no preset. Presets: full, base-roi, location"),
        (["model=nowhere/at/all"], "'nowhere/at/all' is no model"),
        (["device=banana"], "Error: device: 'banana' is no device"),
        (["learning_rate=.inf"], "learning_rate: inf: input should be a finite number"),
        (["data.shards=nowhere"], "nowhere: has no manifest.json. Run preprocess to its end"),
    ],
)
def test_refusals_are_one_line(run, config_file, words, line):
    code, out, err = run("train", config_file, *SMALL, *words)
    assert code == 2 and line in err and "Traceback" not in err and not out, err


def test_a_key_that_is_given_wins_over_a_preset(config_file):
    from anyphoto_cli.cli.train import _config

    told = _config(config_file, ["loss.face_weight=0.7"], "location")
    assert told.loss.face_weight == 0.7 and told.method.modulation is False


def test_one_of_several_ranks_speaks(run, config_file, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert "steps on 1 device" in run("train", config_file, *SMALL, "--dry-run")[1]  # left over from something else
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("train", config_file, *SMALL, "--dry-run")[:2] == (0, "")
    monkeypatch.setenv("RANK", "0")
    assert "steps on 2 devices" in run("train", config_file, *SMALL, "--dry-run")[1]


class Another(Ranks):
    """Alone, but for a rank that heard SIGTERM where this one heard USR1."""

    def gather(self, value):
        return [value, signal.SIGTERM] if value == signal.SIGUSR1 else [value]


def test_ranks_end_with_the_exit_code_of_one_signal(run, config_file, monkeypatch):
    """Not all hear one themselves: those that do not ended with 128."""
    from anyphoto_cli.train import loop

    monkeypatch.setattr(loop, "joined", lambda *_: contextlib.nullcontext(Another()))
    monkeypatch.setattr(StopSignal, "__call__", lambda stop: signal.SIGUSR1)
    code, out, err = run("train", config_file, *SMALL)
    assert code == 143 and "stopped at step 1; the same command goes on" in out, err


def test_half_a_launch_is_told(run, config_file, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run("train", config_file, *SMALL)
    assert code == 1 and "WORLD_SIZE is 2, and RANK is not set. Launch with torchrun, or unset WORLD_SIZE" in err


def test_curves_are_one_offline_page_and_show_what_there_is(run, tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    assert run("train", "plot", folder, "-o", tmp_path / "c.html")[0] == 2
    assert "ends neither in .html nor in .png" in run("train", "plot", folder, "-o", tmp_path / "c.jpg")[2]
    rows = [
        {"step": n, "loss": 1 / n, "flow": 0.9 / n, "lr": 1e-4, "cosine": None if n == 2 else 0.1 * n}
        for n in (1, 2, 3)
    ]
    text = "\n".join(map(json.dumps, [*rows, {"step": 3, "validation_found": 0.5, "validation_cosine": None}]))
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 4, "lo')
    code, out, err = run("train", "plot", folder, "-o", tmp_path / "c.html")
    assert code == 0 and "c.html: 4 lines of metrics" in out, err
    page = (tmp_path / "c.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("<polyline") == 5
    assert "Gradient norm" not in page and "flow matching: 0.3" in page and "share found: 0.5" in page
    assert 'points="0.0,' in page and "nan" not in page.lower()
