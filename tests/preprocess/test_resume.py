"""How a run came about leaves no trace: executors, stages, kills, a full disk, the order of files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.data.shards import read_shard
from anyphoto_cli.errors import InputError
from anyphoto_cli.preprocess import run as preprocess
from tests.conftest import ROOT
from tests.preprocess import fakes
from tests.preprocess.runs import HERE, fake_run, hashes, start


def test_local_ray_and_this_process_write_the_same_bytes(tmp_path, monkeypatch):
    """With relative paths. On Ray, too, a photo that ends its process, or never comes to an end, costs itself alone."""
    from anyphoto_cli.runtime import ray_executor
    from anyphoto_cli.runtime.executors import room
    from tests.preprocess.deadly import DeadlyJob

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of a cluster that nobody asked for
    with ray_executor.joined(None, 2) as ray:
        monkeypatch.chdir(tmp_path)  # where the cluster does not run
        _write_the_same_bytes(tmp_path)
        monkeypatch.setattr(ray_executor, "HANGS_AFTER_S", 2.0)
        found = dict(ray_executor.run_ray(DeadlyJob(tmp_path, stands=True), [0, 1, 2], workers=2))
        assert found == {0: [0, 1, 2, 3], 1: [0, 1, 3], 2: [0, 2, 3]}
        assert room(RunOptions(executor="ray")) == ("cpu", 2)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 8.0})
        assert room(RunOptions(executor="ray")) == ("cuda", 8)
        assert room(RunOptions(executor="ray", device="cpu")) == ("cpu", 64)
        assert room(RunOptions(executor="ray", workers=3)) == ("cuda", 3)


def _write_the_same_bytes(tmp_path):
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos

    world = draw_photos(tmp_path / "world", PhotosConfig(people=4, groups=24, references=2)).folder
    config = load_config(PreprocessConfig, world / "preprocess.yaml", {"shard_size": 9}, [])
    for name, options in {
        "here": HERE,
        "local": RunOptions(executor="local", workers=2, batch=3),
        "ray": RunOptions(executor="ray", workers=2),
    }.items():
        relative = [Path(os.path.relpath(path)) for path in (world / "photos", tmp_path / name, world / "refs")]
        preprocess(*relative, config, options)
    assert hashes(tmp_path / "here") == hashes(tmp_path / "local") == hashes(tmp_path / "ray")
    assert len(list((tmp_path / "here" / "shards").glob("*.tar"))) == 3


def test_stages_one_by_one_are_all_at_once(drawn, whole, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="stage detect is not done"):
        fake_run(drawn, out, stages=["match"])
    for stage in ("detect", "match", "caption", "pack"):
        done = fake_run(drawn, out, stages=[stage])
        assert done.finished == (stage == "pack")
    assert hashes(out) == hashes(whole)
    before = {file: file.stat().st_mtime_ns for file in (out / "shards").glob("*.tar")}
    fake_run(drawn, out)  # again: nothing is left to do
    assert hashes(out) == hashes(whole) and before == {file: file.stat().st_mtime_ns for file in before}


def test_later_stages_go_by_what_earlier_ones_were_told(drawn, tmp_path):
    """Sizes of patches and crops are the matching's options, and shards count location tokens by them."""
    own = fakes.SETTINGS | {"train_size": 256, "patch_size": 224}
    fake_run(drawn, tmp_path / "whole", settings=own)
    out = tmp_path / "out"
    fake_run(drawn, out, settings=own, stages=["detect", "match"])
    silent = PreprocessConfig(captioner="template", shard_size=7)
    preprocess(drawn / "photos", out, drawn / "refs", silent, HERE, stages=["caption", "pack"])
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_run_may_be_carried_elsewhere(drawn, whole, tmp_path):
    """All in one folder, copied to another machine: what is named there is read. Other photos of the same names are not."""
    here, there = tmp_path / "mA", tmp_path / "mB"
    shutil.copytree(drawn, here)
    fake_run(here, here / "out", stages=["detect", "match"])
    here.rename(there)
    fake_run(there, there / "out", stages=["caption", "pack"])
    assert hashes(there / "out", leave=["run.json", "photos.jsonl"]).items() <= hashes(whole).items()
    assert str(here) not in "".join(file.read_text() for file in (there / "out").rglob("*.json*"))
    other = fakes.draw_photos(tmp_path / "mC")
    for file in (other / "photos").iterdir():
        shutil.copy(there / "photos" / "001.png", file)
    with pytest.raises(InputError, match="mC/photos/000.png: is another photo than the one that was read. Give the ph"):
        fake_run(other, there / "out")
    settings = PreprocessConfig(**fakes.SETTINGS)
    assert preprocess(there / "photos", there / "out", None, settings, HERE, stages=["caption", "pack"]).finished


def test_neither_hash_seed_nor_time_zone_nor_the_order_on_disk_shows(drawn, whole, tmp_path):
    turned = tmp_path / "turned"
    for folder in ("photos", *(f"refs/p{k}" for k in range(4))):
        (turned / folder).mkdir(parents=True)
        for file in sorted((drawn / folder).iterdir(), reverse=True):
            shutil.copy(file, turned / folder / file.name)
    for k, environment in enumerate(
        ({"PYTHONHASHSEED": "0"}, {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"})
    ):
        out = tmp_path / f"{k}"
        assert start(turned if k else drawn, out, **environment).wait(120) == 0
        # run.json alone says where the photos lay.
        assert hashes(out, leave=["run.json", "photos.jsonl"] if k else []).items() <= hashes(whole).items()


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(drawn, whole, tmp_path):
    """Files may have 60 kB at most: shards do not fit."""
    out = tmp_path / "out"
    worker = start(drawn, out, "bash", "-c", 'ulimit -f 60; exec "$@"', "bash")
    err = worker.communicate(timeout=120)[1]
    assert worker.returncode == 1 and "cannot write here (File too large)" in err and "Traceback" not in err
    assert_nothing_torn(out)
    finish(drawn, out)
    assert hashes(out) == hashes(whole)


def finish(drawn, out):
    """The same command again, to its end, in a process of its own."""
    assert start(drawn, out).wait(120) == 0


def assert_nothing_torn(out):
    """What has its final name is whole: at any moment."""
    for shard in (out / "shards").glob("*.tar"):
        assert all(set(sample.members) == {"jpg", "json", "npz"} for sample in read_shard(shard))


def test_killed_at_any_time_it_goes_on_to_the_same_bytes(drawn, whole, tmp_path):
    wanted, rng = hashes(whole), np.random.default_rng(5)
    began = time.monotonic()
    finish(drawn, tmp_path / "timed")
    length, cut = time.monotonic() - began, 0
    for trial in range(8):
        out = tmp_path / f"{trial}"
        worker = start(drawn, out)
        time.sleep(length * rng.uniform(0.3, 0.98))
        worker.kill()
        if worker.wait() != 0:
            cut += 1
        else:
            length *= 0.8  # timed while the machine was busier: the next one must come sooner
        assert_nothing_torn(out)
        fake_run(drawn, out)
        assert hashes(out) == wanted, trial
        shutil.rmtree(out)
    assert cut >= 4


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace to kill at a given system call")
def test_killed_at_every_kind_of_moment_of_a_commit_it_goes_on_to_the_same_bytes(drawn, whole, tmp_path):
    """At the k-th write, fsync or rename; k at equal steps through all of a run. The six fsyncs are those of new files
    without their names, of folders in which they have got them, and of a journal, in this order: bank, run.json,
    caption, journal.jsonl, shards, manifest.json.
    """
    wanted, cut = hashes(whole), 0
    steps = {"write": 36, "fsync": 21, "rename": 7}
    moments = [(call, 1 + k * step) for call, step in steps.items() for k in range(1, 7)]
    for call, k in moments:
        out = tmp_path / f"{call}{k}"
        inject = f"inject={call}:signal=KILL:when={k}"
        cut += (
            start(drawn, out, "strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject).wait(120)
            != 0
        )
        assert_nothing_torn(out)
        fake_run(drawn, out)
        assert hashes(out) == wanted, (call, k)
        shutil.rmtree(out)
    assert cut >= 15


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace to see system calls")
def test_files_reach_the_disk_before_they_get_their_names(drawn, tmp_path):
    log = tmp_path / "calls.txt"
    start(drawn, tmp_path / "out", "strace", "-f", "-qq", "-y", "-o", log, "-e", "trace=fsync,rename").wait(120)
    synced, renames = set(), 0
    for line in log.read_text().splitlines():
        if "fsync(" in line:
            synced.add(line.split("<", 1)[1].split(">")[0])
        elif "rename(" in line:
            source = line.split('"')[1]
            assert any(path.endswith(Path(source).name) for path in synced), line
            renames += 1
    assert renames >= 25


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(drawn photos for the shipped models, an uninterrupted run on them)."""
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos

    folder = tmp_path_factory.mktemp("ended")
    world = draw_photos(folder / "world", PhotosConfig(people=4, groups=60, references=1)).folder
    assert _on(world, folder / "fresh").finished
    return world, folder / "fresh"


def _on(world, out):
    config = load_config(PreprocessConfig, world / "preprocess.yaml", {}, [])
    return preprocess(world / "photos", out, world / "refs", config, HERE)


@pytest.mark.parametrize("sign, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_leaves_no_workers_and_a_folder_that_goes_on(world, tmp_path, sign, code):
    photos, out = world[0], tmp_path / "out"
    command = [sys.executable, "-m", "anyphoto_cli", "preprocess", photos / "photos", "--refs", photos / "refs",
               "--config", photos / "preprocess.yaml", "-o", out, "--workers", "2"]  # fmt: skip
    worker = subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env=os.environ | {"RUN_INTO": str(out)},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((out / "work" / "detect").glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.send_signal(sign)
    assert worker.wait(60) == code
    while (left := _processes_of(f"RUN_INTO={out}")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert _on(photos, out).finished
    assert hashes(out) == hashes(world[1])


def _processes_of(variable):
    """Those with this in their environment, as a run's workers have it: their command lines name no folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found
