"""Checkpoints on the disk: which are kept, and that what has its name survives a power cut."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anyphoto_cli.train import checkpoint
from anyphoto_cli.train.checkpoint import checkpoints, read_checkpoint, save_checkpoint


@pytest.fixture
def save(monkeypatch):
    """Checkpoints of an adapter that is one small file."""
    monkeypatch.setattr(checkpoint, "save_adapter", lambda folder, *_: (folder / "weights").write_bytes(b"adapter"))
    card = SimpleNamespace(train_step=0, model_copy=lambda update: None)
    return lambda run, step, keep: save_checkpoint(run, step, None, card, {"a/step": torch.ones(1)}, {}, keep)


def test_as_many_checkpoints_stay_as_are_asked_for(save, tmp_path):
    """A copy that somebody made under another name is none of them."""
    (tmp_path / "checkpoint-best-checkpoint-500").mkdir()
    for step in range(1, 7):
        save(tmp_path, step, 2)
        assert [folder.name for folder in checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (step, step - 1) if n]
    assert read_checkpoint(tmp_path / "checkpoint-5").step == 5
    assert (tmp_path / "checkpoint-best-checkpoint-500").is_dir()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_its_name_before_an_older_one_goes(
    save, tmp_path, monkeypatch
):
    told, fsync, replace, rmtree = [], os.fsync, Path.replace, checkpoint.shutil.rmtree
    save(tmp_path, 1, 1)
    monkeypatch.setattr(os, "fsync", lambda file: told.append(os.fstat(file).st_ino) or fsync(file))
    monkeypatch.setattr(Path, "replace", lambda path, to: told.append(to.name) or replace(path, to))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda path, *a, **k: told.append(path) or rmtree(path, *a, **k))
    made = save(tmp_path, 2, 1).folder
    named, gone = told.index("checkpoint-2"), told.index(tmp_path / "checkpoint-1")
    assert {path.stat().st_ino for path in (made, *made.iterdir())} <= set(told[:named])
    assert tmp_path.stat().st_ino in told[named:gone]


def test_what_a_killed_run_left_goes_and_what_is_not_its_own_stays(save, tmp_path):
    from anyphoto_cli.train.loop import _sweep

    left = ".x.0123456789ab.tmp"
    kept = ["checkpoint-1/weights", ".holiday.tmp/1.jpg", ".checkpoint-x.tmp/1.jpg", f"mine/{left}", "adapter/.saving-mine/1",
            ".saving-abcd_123/1"]  # fmt: skip
    gone = [left, ".checkpoint-2.tmp/weights", f"adapter/{left}", f"text/0123456789ab/{left}", f"validation/a/{left}",
            f"index/{left}", "adapter/.saving-abcd_123/weights"]  # fmt: skip
    save(tmp_path, 1, 1)
    for name in (*kept[1:], *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".checkpoint-3.tmp").symlink_to(tmp_path / "mine")
    _sweep(tmp_path)
    assert [name for name in (*kept, *gone) if (tmp_path / name).exists()] == kept
    assert not (tmp_path / "adapter" / ".saving-abcd_123").exists()
    assert (tmp_path / ".checkpoint-3.tmp").is_symlink() and not (tmp_path / ".checkpoint-2.tmp").exists()
