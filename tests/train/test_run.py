"""Runs from shards to adapter: it learns, it goes on bit for bit, ranks agree, and refusals are one line."""

import contextlib
import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.model import memory
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.train import loop
from anyphoto_cli.train.checkpoint import checkpoints, newest_whole, read_checkpoint
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.estimate import estimate
from anyphoto_cli.train.loop import run as train
from anyphoto_cli.train.out_of_memory import LOADING, out_of_memory_told
from tests.conftest import ROOT


def config(shards, out, **more) -> TrainConfig:
    base = dict(
        model="tiny-random", face_pack="mini", output_dir=str(out), max_train_steps=6, train_batch_size=2,
        learning_rate=1e-3, lr_warmup_steps=2, checkpointing_steps=2, logging_steps=1, device="cpu",
        data={"shards": str(shards), "resolution": 128, "workers": 0},
        method={"patch_size": 112, "lora_rank": 4}, loss={"face_t_max": 0.9},
    )  # fmt: skip
    for key, value in more.items():
        base[key] = base[key] | value if isinstance(base.get(key), dict) else value
    return TrainConfig.model_validate_json(json.dumps(base))


class Heard(Listener):
    """Keeps what was said."""

    def __init__(self):
        self.cautions, self.notices = [], []

    def caution(self, text):
        self.cautions.append(text)

    def notice(self, text):
        self.notices.append(text)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    lora = load_file(folder / "pytorch_lora_weights.safetensors")
    return lora | {f"p.{k}": v for k, v in load_file(folder / "id_projector.safetensors").items()}


def state(folder: Path) -> dict[str, torch.Tensor]:
    return weights(folder) | load_file(folder / "optimiser.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def whole(mini_shards, tmp_path_factory):
    """An uninterrupted run of 6 steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = train(config(mini_shards, out))
    assert done.finished and done.step == 6
    return out


def test_every_trained_number_moves_and_the_base_does_not(mini_shards, whole):
    final = weights(whole / "adapter")
    assert all(torch.isfinite(value).all() for value in final.values())
    still = [key for key, value in final.items() if "lora_B" in key and not value.any()]
    assert not still and final["p.fc2.weight"].any()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert any(line["faces"] > 0 for line in lines) and lines[0]["lr"] == 5e-4 and lines[-1]["lr"] == 1e-3
    card = json.loads((whole / "adapter" / "anyphoto.json").read_text())
    assert card["train_step"] == 6 and card["face_pack"]["name"] == "mini"


def test_tensorboard_reads_the_curves(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "flow", "cosine", "norm"):
        told = [(scalar.step, scalar.value) for scalar in events.Scalars(key)]
        assert told == [(line["step"], pytest.approx(line[key], abs=1e-5)) for line in lines]


def test_tensorboard_has_every_step_of_a_run_that_went_on(mini_shards, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = config(mini_shards, tmp_path / "run", max_train_steps=2)
    train(cfg, stop=lambda: True)
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which have seconds
    done = train(cfg)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("loss")] == [1, 2]
    again = train(cfg)
    assert again.loss == pytest.approx(done.loss, abs=1e-6)  # the last one that was logged


def test_curves_as_a_picture(run, whole, tmp_path):
    from PIL import Image

    code, said, err = run("train", "plot", whole, "-o", tmp_path / "c.png")
    assert code == 0 and "6 lines of metrics" in said, err
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB"))
    assert picture.shape[1] == 1210 and picture.shape[0] > 900 and (picture < 200).any(2).mean() > 0.005


def test_wandb_hears_every_line_under_its_step(mini_shards, tmp_path, monkeypatch):
    import types

    said = []
    session = types.SimpleNamespace(
        log=lambda values, step: said.append((step, values)), finish=lambda: said.append("finished")
    )
    fake = types.SimpleNamespace(
        init=lambda **given: said.append(given) or session, __spec__=importlib.machinery.ModuleSpec("wandb", None)
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    begun = config(mini_shards, tmp_path / "run", report_to="wandb", max_train_steps=4)
    ticks = iter([False, True])
    assert train(begun, stop=lambda: next(ticks)).step == 2
    assert said[0]["project"] == "anyphoto" and said[0]["config"]["max_train_steps"] == 4 and said[-1] == "finished"
    assert [step for step, _ in said[1:-1]] == [1, 2] and all("flow" in values for _, values in said[1:-1])
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))  # beside it
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    train(begun)  # as a job that was queued again
    again = said[said.index("finished") + 1]
    assert again["id"] == said[0]["id"] and len(again["id"]) == 32 and "project" not in again
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EnvironmentFault, match="report_to: needs wandb. Run: pip install wandb"):
        train(config(mini_shards, tmp_path / "none", report_to="wandb", max_train_steps=2))


def test_a_line_of_metrics_after_going_on_is_the_one_of_a_run_that_was_not_cut_off(mini_shards, tmp_path):
    """The line of step 3 tells steps 1 to 3 also where the run was cut off after the second."""
    told = {"max_train_steps": 4, "logging_steps": 3}
    train(config(mini_shards, tmp_path / "whole", **told))
    cut = config(mini_shards, tmp_path / "cut", **told)
    ticks = iter([False, True])
    assert train(cut, stop=lambda: next(ticks)).step == 2
    assert not (tmp_path / "cut" / "metrics.jsonl").exists()
    train(cut)
    lines = [[json.loads(row) for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
             for name in ("whole", "cut")]  # fmt: skip
    assert [line["step"] for line in lines[0]] == [3, 4]
    timed = {"samples_per_s", "data_wait", "memory_gb"}
    kept = [[{k: v for k, v in line.items() if k not in timed and not k.startswith("s_")} for line in part]
            for part in lines]  # fmt: skip
    assert kept[0] == kept[1]
    assert lines[1][0]["s_backward"] > 0 and lines[1][0]["samples_per_s"] < 10 * lines[0][0]["samples_per_s"]


def test_generate_takes_the_adapter(run, whole, tmp_path):
    from tests.conftest import small_layout

    layout = small_layout(tmp_path)
    code, _, err = run(
        "generate", layout, "-o", tmp_path / "out", "--adapter", whole / "adapter", "--face-pack", "mini"
    )
    assert code == 0, err
    assert "no trained identity" not in err and (tmp_path / "out" / "trip_seed0.png").is_file()


def test_a_run_trains_on_from_an_adapter(mini_shards, whole, tmp_path):
    """A step at next to no learning rate leaves it where it was; its steps are counted on."""
    begun = whole / "adapter"
    done = train(config(mini_shards, tmp_path / "on", adapter=str(begun), max_train_steps=1, learning_rate=1e-12))
    before, after = weights(begun), weights(done.adapter)
    assert before.keys() == after.keys() and all(torch.allclose(before[key], after[key], atol=1e-8) for key in before)
    for folder in (done.adapter, tmp_path / "on" / "checkpoint-1"):
        assert json.loads((folder / "anyphoto.json").read_text())["train_step"] == 7
    fresh = train(config(mini_shards, tmp_path / "fresh", max_train_steps=1, learning_rate=1e-12))
    assert not all(torch.allclose(before[key], weights(fresh.adapter)[key], atol=1e-8) for key in before)


def test_an_adapter_that_does_not_fit_is_refused(mini_shards, whole, tmp_path):
    begun = str(whole / "adapter")
    with pytest.raises(InputError, match="lora_rank: was trained with 4, not 8"):
        train(config(mini_shards, tmp_path / "a", adapter=begun, method={"lora_rank": 8}))
    with pytest.raises(InputError, match="adapter: does not fit this base"):
        train(config(mini_shards, tmp_path / "b", adapter=begun, model="mini"))
    with pytest.raises(InputError, match="no such folder"):
        train(config(mini_shards, tmp_path / "c", adapter=str(tmp_path / "gone")))
    copy = shutil.copytree(begun, tmp_path / "copy")
    card = json.loads((copy / "anyphoto.json").read_text())
    card["face_pack"]["sha256"] = "0" * 64
    (copy / "anyphoto.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="another face pack"):
        train(config(mini_shards, tmp_path / "d", adapter=str(copy)))


def test_stopped_at_any_step_it_goes_on_bit_for_bit(mini_shards, whole, tmp_path):
    out = tmp_path / "run"
    for stops in range(1, 7):
        done = train(config(mini_shards, out), stop=lambda: True)
        assert done.step == stops
    assert done.finished and same(state(out / "checkpoint-6"), state(whole / "checkpoint-6"))
    assert same(weights(out / "adapter"), weights(whole / "adapter"))
    assert (out / "metrics.jsonl").read_text().count("\n") == 6


def test_8_bit_adam_goes_on_bit_for_bit(mini_shards, tmp_path):
    pytest.importorskip("bitsandbytes")
    more = {"use_8bit_adam": True, "checkpointing_steps": 1, "max_train_steps": 3, "method": {"lora_rank": 64}}
    train(config(mini_shards, tmp_path / "whole", **more))
    cut = config(mini_shards, tmp_path / "cut", **more)
    while not train(cut, stop=lambda: True).finished:
        pass
    one, other = state(tmp_path / "whole" / "checkpoint-3"), state(tmp_path / "cut" / "checkpoint-3")
    assert same(one, other) and any(value.dtype == torch.uint8 for value in one.values())


def command(cfg: TrainConfig, folder: Path, *misfortune: str, torchrun: bool = False) -> list[str]:
    file = folder / "config.json"
    file.write_text(cfg.model_dump_json())
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if torchrun else []
    return [sys.executable, *launch, "-m", "tests.train.run_one", str(file), *misfortune]


def launched(cfg: TrainConfig, folder: Path, *misfortune: str, torchrun: bool = False) -> subprocess.CompletedProcess:
    """Two ranks. Without torchrun they take a third of the time, and nobody ends the one that is left."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({} if torchrun else {"FORKED_RANKS": "2"})
    return subprocess.run(command(cfg, folder, *misfortune, torchrun=torchrun), cwd=ROOT, capture_output=True, text=True,
                          timeout=300, env=environment)  # fmt: skip


def test_killed_at_random_it_goes_on_bit_for_bit(mini_shards, whole, tmp_path):
    cfg, rng = config(mini_shards, tmp_path / "run", checkpointing_steps=1), np.random.default_rng(1)
    for _ in range(2):
        worker = subprocess.Popen(
            command(cfg, tmp_path), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        before, deadline = len(checkpoints(tmp_path / "run")), time.monotonic() + 120
        while worker.poll() is None and time.monotonic() < deadline:
            if newest_whole(tmp_path / "run")[0] and len(checkpoints(tmp_path / "run")) >= min(before + 1, 3):
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.4))
        worker.kill()
        worker.wait()
    assert train(cfg).finished
    assert same(state(tmp_path / "run" / "checkpoint-6"), state(whole / "checkpoint-6"))


def test_loader_processes_end_with_a_killed_trainer(mini_shards, tmp_path):
    """Though their queue is full, which nobody empties any more."""
    (tmp_path / "c.json").write_text(config(mini_shards, tmp_path / "run", data={"workers": 1}).model_dump_json())
    text = """
import os, signal, sys, time
from pathlib import Path
from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.train.batches import ShardedSamples, batches
if __name__ == "__main__":
    config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
    loaded = batches(ShardedSamples(Path(config.data.shards)), config, 0, 0, 1)
    next(loaded)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    trainer = subprocess.Popen([sys.executable, "-c", text, str(tmp_path / "c.json")], cwd=ROOT, stdout=subprocess.PIPE)
    trainer.wait(timeout=120)
    trainer.communicate(timeout=20)  # until the other, which could write there too, is gone
    assert trainer.returncode == -9


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(mini_shards, tmp_path):
    """Files may have half of what the largest ones take: neither the optimiser fits nor the adapter."""
    import resource

    cfg = config(mini_shards, tmp_path / "run", checkpointing_steps=1, max_train_steps=2, report_to="none")
    assert train(cfg, stop=lambda: True).step == 1
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "run" / "checkpoint-1").iterdir()}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("optimiser.safetensors", "pytorch_lora_weights.safetensors"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[name] - 1024, before[1]))
        try:
            with pytest.raises(
                EnvironmentFault, match=r"checkpoint-2: cannot write here \(.*File too large.*Make room"
            ):
                train(cfg)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [f.name for f in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-1"]
    assert train(cfg).finished


def test_a_half_written_checkpoint_is_in_nobodys_way(mini_shards, whole, tmp_path):
    out = tmp_path / "run"
    assert train(config(mini_shards, out), stop=lambda: True).step == 1
    shutil.copytree(out / "checkpoint-1", out / ".checkpoint-2.tmp")
    (out / ".checkpoint-2.tmp" / ".state.json.abc.tmp").write_bytes(b"{")
    assert train(config(mini_shards, out)).finished
    assert same(state(out / "checkpoint-6"), state(whole / "checkpoint-6"))
    assert not list(out.glob(".*.tmp"))


def test_a_broken_newest_checkpoint_falls_back_with_one_warning(mini_shards, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "adapter")
    for name, harm in (
        ("optimiser.safetensors", lambda f: f.write_bytes(f.read_bytes()[:-1] + b"\xff")),
        ("checkpoint.json", lambda f: f.unlink()),
        ("pytorch_lora_weights.safetensors", lambda f: f.write_bytes(f.read_bytes()[:99])),
    ):
        shutil.rmtree(out / "checkpoint-6", ignore_errors=True)
        shutil.copytree(whole / "checkpoint-6", out / "checkpoint-6")
        harm(out / "checkpoint-6" / name)
        with pytest.raises(InputError):
            read_checkpoint(out / "checkpoint-6")
        heard = Heard()
        assert train(config(mini_shards, out), listener=heard).finished
        assert (
            len(heard.cautions) == 1
            and "checkpoint-6" in heard.cautions[0]
            and heard.notices == ["Going on from step 4"]
        )
        assert same(state(out / "checkpoint-6"), state(whole / "checkpoint-6"))
    assert len(checkpoints(out)) == 3


def test_damaged_checkpoints_never_push_out_a_whole_one(mini_shards, whole, tmp_path):
    """All are damaged: it begins anew, says so, and what it writes stays, though its step is lower than theirs."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for folder in checkpoints(out):
        (folder / "optimiser.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"adapter: output_dir: is trained, and no whole checkpoint is there"):
        train(config(mini_shards, out))
    shutil.rmtree(out / "adapter")
    heard = Heard()
    assert train(config(mini_shards, out), stop=lambda: True, listener=heard).step == 1
    assert "no checkpoint is whole, so that training begins at step 0 again" in heard.cautions[-1]
    assert [folder.name for folder in checkpoints(out)] == ["checkpoint-1"]
    assert train(config(mini_shards, out)).finished
    assert same(state(out / "checkpoint-6"), state(whole / "checkpoint-6"))


def test_pictures_that_an_end_took_away_are_drawn_when_it_goes_on(mini_shards, tmp_path, examples):
    """Between the checkpoint of a step and its validation there is time to be killed in; who is asked to end does not
    draw first.
    """
    layouts = (str(examples / "two_friends.json"),)
    cfg = config(mini_shards, tmp_path / "run", max_train_steps=2, validation_steps=1, validation_layouts=layouts)
    heard = Heard()
    assert train(cfg.model_copy(update={"validation_layouts": ()}), stop=lambda: True, listener=heard).step == 1
    assert heard.cautions == ["validation_steps is set and validation_layouts is not: nothing is drawn"]
    drawn = tmp_path / "run" / "validation" / "step-000002"
    assert train(cfg, stop=lambda: True, listener=heard).finished and not drawn.exists()
    assert heard.notices[-1] == "The pictures of step 2 are not drawn: the same command does that"
    train(cfg)
    before = [file.read_bytes() for file in drawn.glob("*.png")]
    shutil.rmtree(drawn)
    metrics = tmp_path / "run" / "metrics.jsonl"
    rows = [line for line in metrics.read_text().splitlines() if "validation_found" not in line or '"step": 1' in line]
    metrics.write_text("".join(row + "\n" for row in rows))
    train(cfg)
    assert [file.read_bytes() for file in drawn.glob("*.png")] == before
    assert sum("validation_found" in line for line in metrics.read_text().splitlines()) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_goes_bad_meanwhile_is_one_line(mini_shards, tmp_path, workers):
    """Also from a loader process: the shard, the sample, and what to do."""
    shards = tmp_path / "data"
    shutil.copytree(mini_shards, shards)
    cfg = config(shards, tmp_path / "run", data={"shards": str(shards), "resolution": 128, "workers": workers})
    train(cfg, stop=lambda: True)  # hashed and indexed
    for shard in (shards / "shards").glob("*.tar"):
        changed = shard.stat().st_mtime_ns
        shard.write_bytes(shard.read_bytes().replace(b"\xff\xd8\xff", b"non"))
        os.utime(shard, ns=(changed, changed))
    with pytest.raises(
        InputError, match=r"^[^\n]*\.tar: its sample \S+ holds no picture \(\w+\)\. Copy it again"
    ) as said:
        train(cfg)
    assert "Traceback" not in str(said.value)


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            {"learning_rate": 2e-3},
            "learning_rate: this run began with 0.001, now it is 0.002. Go on with what it began "
            "with, or give a new output_dir, or allow it: --allow-changes learning_rate",
        ),
        ({"data": {"identity_drop": 0.3}}, "data.identity_drop: this run began with 0.15, now it is 0.3"),
        ({"method": {"lora_rank": 8}}, "method.lora_rank: this run began with 4, now it is 8"),
        ({"seed": 1}, "seed: this run began with 0, now it is 1"),
        ({"train_batch_size": 4}, "Both may change where ranks x train_batch_size is 2 as before"),
    ],
)
def test_a_run_goes_on_with_what_it_began_with(mini_shards, whole, changes, line):
    with pytest.raises(InputError, match=line):
        train(config(mini_shards, whole, **changes))


def test_changes_that_are_allowed_go_on_with_all_state_and_are_written_down(run, mini_shards, whole, tmp_path):
    """Two steps more at a lower rate: what a run with that length and rate from there on has."""
    out = shutil.copytree(whole, tmp_path / "run")
    more = config(mini_shards, out, max_train_steps=8, learning_rate=1e-5)
    (tmp_path / "more.json").write_text(more.model_dump_json())
    asked = ("train", tmp_path / "more.json", "--allow-changes")
    code, _, err = run(*asked, "learning_rate")
    assert code == 2 and "max_train_steps: this run began with 6, now it is 8. Go on" in err
    code, said, err = run(*asked, "learning_rate,max_train_steps")
    assert code == 0 and "trained for 8 steps" in said, err
    assert "Warning: from step 6 on learning_rate is 1e-05, before it was 0.001" in err
    told = read_checkpoint(out / "checkpoint-8").facts
    assert told["max_train_steps"] == 8 and told["changes"] == [
        {"step": 6, "key": "learning_rate", "before": 1e-3, "now": 1e-5},
        {"step": 6, "key": "max_train_steps", "before": 6, "now": 8},
    ]
    moments = load_file(out / "checkpoint-8" / "optimiser.safetensors")
    assert {float(value) for key, value in moments.items() if key.endswith("/step")} == {8.0}
    assert same(weights(out / "adapter-6"), weights(whole / "adapter"))
    assert not same(weights(out / "adapter"), weights(whole / "adapter"))
    assert train(more).finished  # what is allowed once is so from then on
    with pytest.raises(InputError, match="max_train_steps: this run is at step 8 already"):
        train(config(mini_shards, out, max_train_steps=7, learning_rate=1e-5), allow_changes=["max_train_steps"])
    train(config(mini_shards, out, max_train_steps=9, learning_rate=1e-5), allow_changes=["max_train_steps"])
    again = {"step": 8, "key": "max_train_steps", "before": 8, "now": 9}
    assert read_checkpoint(out / "checkpoint-9").facts["changes"] == [*told["changes"], again]


@pytest.mark.parametrize(
    "key, line",
    [
        ("method.lora_rank", "--allow-changes: method.lora_rank may not change while a run goes on"),
        ("seed", "--allow-changes: seed may not change"),
        ("learning_rte", "--allow-changes: 'learning_rte' is no key of a run. Did you mean learning_rate?"),
    ],
)
def test_changes_that_never_are_allowed(mini_shards, tmp_path, key, line):
    with pytest.raises(InputError, match=line):
        train(config(mini_shards, tmp_path / "run"), allow_changes=[key])


def test_an_average_cannot_begin_on_the_way(mini_shards, whole):
    with pytest.raises(InputError, match="ema_decay: this run began with None, now it is 0.9"):
        train(config(mini_shards, whole, ema_decay=0.9), allow_changes=["ema_decay"])


def test_other_refusals(mini_shards, whole, tmp_path):
    with pytest.raises(InputError, match="output_dir: holds a run at step 6"):
        train(config(mini_shards, whole), resume=False)
    with pytest.raises(InputError, match="has no manifest.json. Run preprocess to its end"):
        train(config(tmp_path, tmp_path / "a"))
    with pytest.raises(InputError, match="holds patches of 112 px, the method wants 448"):
        train(config(mini_shards, tmp_path / "b", method={"patch_size": 448}))
    with pytest.raises(InputError, match="face_pack: were made with another face pack than tiny-random"):
        train(config(mini_shards, tmp_path / "c", face_pack="tiny-random"))
    with pytest.raises(InputError, match="base_storage: nf4 needs a GPU. On a CPU use full or fp8"):
        train(config(mini_shards, tmp_path / "d", base_storage="nf4"))
    with pytest.raises(InputError, match="samples do not fill a step of 1 x 99"):
        train(config(mini_shards, tmp_path / "d", train_batch_size=99))
    broken = tmp_path / "broken"
    shutil.copytree(mini_shards, broken)
    [first, *_] = sorted((broken / "shards").glob("*.tar"))
    data = first.read_bytes()
    first.write_bytes(data[:2000] + b"x" + data[2001:])
    with pytest.raises(InputError, match=r"train-000000.tar: is damaged: its sha256 is not the manifest's"):
        train(config(broken, tmp_path / "e"))


def test_a_loss_that_is_not_finite_stops_before_the_update(mini_shards, tmp_path):
    out = tmp_path / "run"
    train(config(mini_shards, out, max_train_steps=2))
    before = state(out / "checkpoint-2")
    with pytest.raises(InputError, match="max_train_steps: this run began with 2"):
        train(config(mini_shards, out, max_train_steps=3))
    with pytest.raises(EnvironmentFault, match=r"the loss of step \d is not finite. Nothing was updated"):
        train(config(mini_shards, tmp_path / "hot", learning_rate=1e30, lr_warmup_steps=0, max_grad_norm=1e30))
    assert same(state(out / "checkpoint-2"), before)


def test_memory_that_runs_out_is_told_in_a_line_with_its_step_and_the_run_goes_on(mini_shards, tmp_path, monkeypatch):
    """As torch tells it of a CPU, a RuntimeError; what torch says of other things is none of this."""
    out, objective = tmp_path / "run", loop.objective
    cfg = config(mini_shards, out, max_train_steps=3, gradient_checkpointing=False)

    def greedy(*args, **more):
        if more["step"] == 2:
            torch.empty(2**50, dtype=torch.uint8)
        return objective(*args, **more)

    monkeypatch.setattr(loop, "objective", greedy)
    with pytest.raises(EnvironmentFault) as told:
        train(cfg)
    assert str(told.value) == (
        f"{out}: ran out of memory at step 3. The last checkpoint is whole, and the same command goes on from it with "
        "gradient_checkpointing: true. A new output_dir needs less with train_batch_size below 2, text_embeddings: "
        "cached, base_storage: fp8 or data.resolution below 128"
    )
    monkeypatch.setattr(loop, "objective", objective)
    assert newest_whole(out)[0].step == 2 and train(cfg.model_copy(update={"gradient_checkpointing": True})).finished
    sparing = cfg.model_copy(update={"gradient_checkpointing": True, "activation_memory_gb": 4.0})
    with (
        pytest.raises(
            EnvironmentFault, match="rank 1 ran out of memory at step 9.*with activation_memory_gb below 4.* or"
        ),
        out_of_memory_told(sparing, Ranks(1, 2), "at step 9"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    full = SimpleNamespace(to=mock.Mock(side_effect=torch.OutOfMemoryError))
    with (
        pytest.raises(EnvironmentFault, match="base was loaded.*with text_embeddings: cached or base_storage: fp8$"),
        out_of_memory_told(cfg, Ranks(), LOADING),
    ):
        memory.place(full, torch.device("cpu"), "full")
    with pytest.raises(RuntimeError, match="must match"), out_of_memory_told(cfg, Ranks(), "at step 9"):
        torch.zeros(2) + torch.zeros(3)


def test_validation_renders_with_the_training_transformer_and_leaves_no_trace(mini_shards, tmp_path, examples):
    """Pictures and scores every 2 steps; the weights are those of a run without it."""
    layout = str(examples / "two_friends.json")
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    train(config(mini_shards, plain, model="mini", max_train_steps=2))
    train(
        config(mini_shards, watched, model="mini", max_train_steps=2, validation_steps=1, validation_layouts=[layout])
    )
    assert same(weights(plain / "adapter"), weights(watched / "adapter"))
    pictures = sorted(p.relative_to(watched).as_posix() for p in (watched / "validation").rglob("*.png"))
    assert pictures == ["validation/step-000001/two_friends.png", "validation/step-000002/two_friends.png"]
    told = [
        line
        for line in map(json.loads, (watched / "metrics.jsonl").read_text().splitlines())
        if "validation_found" in line
    ]
    assert [line["step"] for line in told] == [1, 2] and all(0 <= line["validation_found"] <= 1 for line in told)


@pytest.mark.parametrize("begin", [train, estimate])
def test_layouts_are_refused_before_the_base_is_loaded(mini_shards, tmp_path, examples, begin, monkeypatch):
    """Two of one name: the picture and the scores of the second would replace the first one's."""
    from anyphoto_cli.train import loop

    monkeypatch.setattr(loop, "open_models", None)
    layout, copy = examples / "two_friends.json", tmp_path / "b" / "two_friends.json"
    copy.parent.mkdir()
    copy.write_bytes(layout.read_bytes())
    for layouts, message in (
        (["nowhere.json"], "nowhere.json: no such file"),
        ([layout, examples / "three_friends.json", copy],
         f"validation_layouts[2]: {copy} has the name of {layout}: both would be two_friends.png. Rename one"),
    ):  # fmt: skip
        with pytest.raises(InputError) as error:
            begin(config(mini_shards, tmp_path / "c", validation_steps=1, validation_layouts=[*map(str, layouts)]))
        assert message in str(error.value)


def test_cached_captions_train_as_live_ones_and_the_encoders_are_not_loaded(
    mini_shards, tmp_path, examples, monkeypatch
):
    from anyphoto_cli.train import loop

    more = {"max_train_steps": 2, "train_batch_size": 1, "validation_steps": 2,
            "validation_layouts": (str(examples / "two_friends.json"),)}  # fmt: skip
    live, cached = config(mini_shards, tmp_path / "live", **more), config(mini_shards, tmp_path / "cached", **more)
    train(live)
    opened, open_models = [], loop.open_models
    monkeypatch.setattr(loop, "open_models", lambda *given: opened.append(open_models(*given)) or opened[-1])
    cached = cached.model_copy(update={"text_embeddings": "cached"})
    train(cached)
    assert opened[0].pipeline.text_encoder is None and opened[0].pipeline.text_encoder_2 is None
    assert same(state(tmp_path / "cached" / "checkpoint-2"), state(tmp_path / "live" / "checkpoint-2"))
    one, other = (next((run / "validation").rglob("*.png")) for run in (tmp_path / "live", tmp_path / "cached"))
    assert one.read_bytes() == other.read_bytes()
    for file in (tmp_path / "cached" / "text").glob("*/*"):
        file.unlink()
    monkeypatch.setattr(loop, "not_cached", lambda captions, folder: [])
    for part in ("checkpoint-2", "adapter"):
        shutil.rmtree(tmp_path / "cached" / part)
    with pytest.raises(InputError, match="text_embeddings: does not hold the caption"):
        train(cached)


def test_captions_that_were_read_another_way_are_read_again(mini_shards, tmp_path):
    cfg = config(mini_shards, tmp_path / "run", max_train_steps=1, text_embeddings="cached")
    train(cfg)
    [first] = (tmp_path / "run" / "text").iterdir()
    for name in ("checkpoint-1", "adapter"):
        shutil.rmtree(tmp_path / "run" / name)
    shorter = config(mini_shards, tmp_path / "run", max_train_steps=1, text_embeddings="cached",
                     method={"t5_length": cfg.method.t5_length // 2})  # fmt: skip
    train(shorter)
    [second] = set((tmp_path / "run" / "text").iterdir()) - {first}
    lengths = []
    for folder in (first, second):
        tensors = load_file(next(folder.iterdir()))
        lengths.append({len(value) for key, value in tensors.items() if key.endswith("/states")})
    assert lengths == [{cfg.method.t5_length}, {cfg.method.t5_length // 2}]
    cut = next(second.iterdir())
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(InputError, match=r"safetensors: text_embeddings: is damaged. Remove it: its captions are read"):
        train(shorter)
    cut.unlink()
    assert train(shorter).finished


def test_the_face_pack_is_opened_once_on_the_training_device(mini_shards, tmp_path, monkeypatch):
    from anyphoto_cli.train import face_check, models

    opened, opener = [], face_check.open_faces
    monkeypatch.setattr(models.memory, "open_pipeline", mock.Mock(side_effect=EnvironmentFault("the base is next")))
    for module in (face_check, models):
        monkeypatch.setattr(module, "open_faces", lambda *given: opened.append(given) or opener(*given))
    with pytest.raises(EnvironmentFault, match="the base is next"):
        train(config(mini_shards, tmp_path / "run"))
    assert opened == [("mini", "cpu")]


def test_a_folder_that_cannot_be_written_is_the_machines_fault(mini_shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=r"file/run: cannot be written to \(Not a directory\)"):
        train(config(mini_shards, tmp_path / "file" / "run"))


def test_sampled_latents_follow_from_seed_and_step(mini_shards, tmp_path):
    more = {"max_train_steps": 4, "method": {"latent": "sample"}}
    train(config(mini_shards, tmp_path / "whole", **more))
    cut = config(mini_shards, tmp_path / "cut", **more)
    for _ in range(2):
        stops = iter([False, True])
        train(cut, stop=lambda stops=stops: next(stops))
    assert same(state(tmp_path / "cut" / "checkpoint-4"), state(tmp_path / "whole" / "checkpoint-4"))


def test_a_tiny_vae_decodes_the_faces(mini_shards, tmp_path, testdata):
    """TAEF1 in place of the base's own decoder: other gradients, the same cosines' log."""
    source = str(testdata / "models" / "taef1")
    train(config(mini_shards, tmp_path / "run", max_train_steps=2, loss={"face_vae": source, "face_t_max": 1.0}))
    train(config(mini_shards, tmp_path / "own", max_train_steps=2, loss={"face_t_max": 1.0}))
    assert not same(state(tmp_path / "run" / "checkpoint-2"), state(tmp_path / "own" / "checkpoint-2"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["faces"] > 0 and line["cosine"] != 0 for line in lines)
    with pytest.raises(InputError, match="loss.face_vae: nowhere cannot be opened"):
        train(config(mini_shards, tmp_path / "none", loss={"face_vae": "nowhere"}))


def test_faces_are_scored_at_their_places(examples):
    """The layout's own people, drawn where the layout wants them, score high; swapped ones low; nobody is nan."""
    from anyphoto_cli.faces.packs import open_faces
    from anyphoto_cli.files.images import read_picture
    from anyphoto_cli.generate.conditions import prepare_faces
    from anyphoto_cli.layout.schema import load_layout
    from anyphoto_cli.train.validation import score_faces

    layout = load_layout(examples / "two_friends.json")
    faces = open_faces("mini")
    conditions = prepare_faces(layout, faces)
    reference = read_picture(layout.reference_path(0))
    [found] = faces.detect([reference])[0][:1]
    picture = np.full((layout.height, layout.width, 3), 200, np.uint8)
    assert all(np.isnan(score.cosine) for score in score_faces(picture, layout, conditions, faces))
    # The first friend's portrait, moved so that the face lies at the first place.
    import cv2

    from anyphoto_cli.geometry import fit_similarity

    onto = fit_similarity(found.landmarks, np.asarray(layout.faces[0].place))
    picture = cv2.warpAffine(reference, onto.matrix, (layout.width, layout.height), borderMode=cv2.BORDER_REPLICATE)
    first, second = score_faces(picture, layout, conditions, faces)
    assert first.cosine > 0.6 and first.error < 0.1 and (np.isnan(second.cosine) or second.cosine < 0.4)


def test_what_can_be_known_before_the_base_is_loaded_is_refused_before(mini_shards, whole, tmp_path, monkeypatch):
    from anyphoto_cli.train import loop

    monkeypatch.setattr(loop, "open_models", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(InputError, match="method.lora_rank: this run began with 4, now it is 8"):
        train(config(mini_shards, whole, method={"lora_rank": 8}))
    with pytest.raises(InputError, match="output_dir: holds a run at step 6"):
        train(config(mini_shards, whole), resume=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.raises(InputError, match=r"threads: this run began with \d, now it is 7"):
        train(config(mini_shards, whole))
    lacking = shutil.copytree(mini_shards, tmp_path / "lacking")
    next((lacking / "bank").glob("*.npz")).unlink()
    with pytest.raises(InputError, match=r"\.npz: is missing. Copy it again"):
        train(config(lacking, tmp_path / "a"))
    empty = shutil.copytree(mini_shards, tmp_path / "empty")
    manifest = json.loads((empty / "manifest.json").read_text())
    (empty / "manifest.json").write_text(json.dumps(manifest | {"shards": []}))
    with pytest.raises(InputError, match="empty: data.shards: holds no sample. Look at report.html"):
        train(config(empty, tmp_path / "b"))


class OfTwo(Ranks):
    """One of two ranks; the other one has nothing to tell and does as this one."""

    def gather(self, value):
        return [value, None] if self.first else [None, value]

    def sum(self, values):
        return [2 * value for value in values]


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_would_go_on_from_different_checkpoints_are_refused(mini_shards, whole, tmp_path, monkeypatch, rank):
    """A machine that sees another output_dir would begin anew beside one at step 6."""
    from anyphoto_cli.train import loop

    out = shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr(loop, "joined", lambda *_: contextlib.nullcontext(OfTwo(rank, 2)))
    with pytest.raises(InputError, match="output_dir: checkpoints differ between the ranks. Do all machines see one"):
        train(config(mini_shards, out))
