"""Two ranks: equal steps whatever the shards, the same after any end, and nobody waits for who is gone."""

import itertools
import json
import os
import random
import shutil
import subprocess
import time

import pytest

from anyphoto_cli.data.shards import Manifest, read_manifest, read_shard, shard_name, write_manifest, write_shard
from anyphoto_cli.errors import InputError
from anyphoto_cli.train.batches import ShardedSamples, batches
from anyphoto_cli.train.checkpoint import newest_whole
from anyphoto_cli.train.loop import run as train
from tests.train.test_run import config, launched, same, state


def resharded(shards, folder, count: int, *, empty: int = 0, cut: int = 0):
    """The same samples in `count` shards, with so many empty ones before them; the last `cut` are half there."""
    shutil.copytree(shards, folder, ignore=shutil.ignore_patterns("*.tar"))
    samples = [sample for file in sorted((shards / "shards").glob("*.tar")) for sample in read_shard(file)]
    parts = [[]] * empty + [samples[k * len(samples) // count : (k + 1) * len(samples) // count] for k in range(count)]
    records = [write_shard(folder / "shards" / shard_name("train", k), part) for k, part in enumerate(parts)]
    write_manifest(folder, Manifest(tuple(records), read_manifest(shards).facts))
    for record in records[len(records) - cut :]:
        file = folder / "shards" / record.name
        file.write_bytes(file.read_bytes()[: record.bytes // 2])
    return folder


@pytest.mark.parametrize("count, empty, cut", [(1, 0, 0), (3, 0, 0), (5, 2, 0), (5, 1, 2)])
def test_ranks_take_equal_steps_and_no_sample_twice_whatever_the_shards(mini_shards, tmp_path, count, empty, cut):
    cfg = config(resharded(mini_shards, tmp_path / "data", count, empty=empty, cut=cut), tmp_path / "run")
    samples = ShardedSamples(tmp_path / "data", bad_shards=0.4)
    assert len(samples.complaints) == cut and len(samples) >= 12
    steps = len(samples) // 4
    ranks = [list(itertools.islice(batches(samples, cfg, 0, rank, 2), steps)) for rank in range(2)]
    keys = [example.key for rank in ranks for batch in rank for example in batch]
    assert [len(rank) for rank in ranks] == [steps, steps] and len(keys) == len(set(keys)) == 4 * steps


def test_two_ranks_leave_bad_shards_out_and_are_alike_after_a_cut_and_a_kill(mini_shards, tmp_path):
    data = resharded(mini_shards, tmp_path / "data", 5, empty=1, cut=1)
    more = {"data": {"bad_shards": 0.2}, "checkpointing_steps": 1}
    whole, cut = config(data, tmp_path / "whole", **more), config(data, tmp_path / "cut", **more)
    done = launched(whole, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train-000005.tar: has") == 1 and "left out, with its 5 samples" in done.stderr
    seed = int(os.environ.get("ANYPHOTO_TEST_SEED", time.time_ns() % 10_000))
    died = random.Random(seed).randint(1, 4)
    print(f"killed at step {died + 1}: ANYPHOTO_TEST_SEED={seed}")
    began = time.monotonic()
    killed = launched(cut, tmp_path, "1", str(died), "die", torchrun=True)
    assert killed.returncode != 0 and time.monotonic() - began < 90
    assert newest_whole(tmp_path / "cut")[0].step == died
    spoilt = launched(cut, tmp_path, "1", str(died + 1), "nan")
    assert spoilt.returncode != 0
    assert f"the loss of step {died + 2} is not finite. Nothing was updated" in spoilt.stderr, spoilt.stderr
    assert sorted(f.name for f in (tmp_path / "cut").glob("checkpoint-*"))[-1] == f"checkpoint-{died + 1}"
    assert launched(cut, tmp_path).returncode == 0
    assert same(state(tmp_path / "cut" / "checkpoint-6"), state(tmp_path / "whole" / "checkpoint-6"))
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(InputError, match="world size: this run began with 2, now it is 1"):
        train(cut, allow_changes=["world_size"])
    # As many samples a step on one rank: the plan goes on with those that are next.
    alone = config(data, tmp_path / "cut", **more, train_batch_size=4, max_train_steps=7)
    assert train(alone, allow_changes=["world_size", "train_batch_size", "max_train_steps"]).finished


def test_too_many_bad_shards_and_a_shard_that_breaks_between_two_starts(mini_shards, tmp_path):
    data = resharded(mini_shards, tmp_path / "data", 5, cut=1)
    with pytest.raises(InputError, match=r"train-000004.tar: has \d+ bytes instead of"):
        train(config(data, tmp_path / "none"))
    loose = config(data, tmp_path / "run", data={"bad_shards": 0.5})
    assert train(loose, stop=lambda: True).step == 1
    (data / "shards" / "train-000002.tar").unlink()
    with pytest.raises(InputError, match=r"shards left out: this run began with \['train-000004.tar'\], now it is"):
        train(loose)


def test_a_sharded_base_trains_to_the_same_numbers(mini_shards, tmp_path, examples):
    """And renders the same pictures by all ranks together as each rank its own of the layouts."""
    layouts = tuple(str(examples / f"{name}.json") for name in ("two_friends", "three_friends"))
    more = {"max_train_steps": 2, "validation_steps": 2, "validation_layouts": layouts, "mixed_precision": "bf16"}
    whole, parts = config(mini_shards, tmp_path / "whole", **more), config(mini_shards, tmp_path / "parts", **more)
    done = launched(whole, tmp_path)
    assert done.returncode == 0, done.stderr
    done = launched(parts.model_copy(update={"sharding": "fsdp"}), tmp_path)
    assert done.returncode == 0, done.stderr
    assert same(state(tmp_path / "parts" / "checkpoint-2"), state(tmp_path / "whole" / "checkpoint-2"))
    made = [sorted((run / "validation").rglob("*.*")) for run in (tmp_path / "whole", tmp_path / "parts")]
    assert [file.name for file in made[0]] == ["scores.json", "three_friends.png", "two_friends.png"]
    assert [file.read_bytes() for file in made[0]] == [file.read_bytes() for file in made[1]]
    with pytest.raises(InputError, match="sharding: fsdp needs several ranks"):
        train(config(mini_shards, tmp_path / "alone", sharding="fsdp"))


STUBS = {
    "scontrol": 'if [ "$1" = show ]; then echo node1; else echo "$*" >> "$SAID"; fi',
    # What a run does when the batch shell gets SENT: torchrun ends with 1 where its processes end by a signal.
    "srun": """trap 'echo passed USR1; [ $ENDS = stops ] && { echo "run: stopped at step 7; the same command goes on"; exit 1; }' USR1
sleep 0.5
[ -n "$SENT" ] && { kill -$SENT $PPID; sleep 0.5; }
[ $ENDS = finishes ]; exit $?""",
}


@pytest.mark.parametrize(
    "sent, ends, code, requeued, passed",
    [
        ("", "finishes", 0, False, False), ("", "fails", 1, False, False), ("USR1", "stops", 1, True, True),
        ("USR1", "finishes", 0, False, True), ("USR1", "fails", 1, False, True), ("TERM", "stops", 1, False, True),
    ],
)  # fmt: skip
def test_the_cluster_script_goes_on_only_where_its_run_was_stopped(
    examples, tmp_path, sent, ends, code, requeued, passed
):
    for name, does in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    told = {"SLURM_NNODES": "1", "SLURM_GPUS_PER_NODE": "8", "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node1"}
    told |= {"SENT": sent, "ENDS": ends, "SAID": str(tmp_path / "said"), "TMPDIR": str(tmp_path)}
    told["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    script = ["bash", str(examples / "slurm" / "train.sbatch"), "run.yaml"]
    done = subprocess.run(script, env=os.environ | told, capture_output=True, text=True, timeout=30)
    assert done.returncode == code and ("passed USR1" in done.stdout) == passed, done
    assert (tmp_path / "said").exists() == requeued
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*STUBS, *["said"] * requeued])


def test_the_cluster_script_tells_torchrun_what_it_knows(examples):
    """USR1 reaches the ranks, and they have longer than torchrun's 30 s, but not longer than SLURM's warning."""
    from torch.distributed.run import get_args_parser

    text = (examples / "slurm" / "train.sbatch").read_text()
    words = (
        text.partition("\nsrun --kill-on-bad-exit=1 torchrun ")[2]
        .partition(" &\n")[0]
        .replace("\\\n", " ")
        .replace('"', "")
        .split()
    )
    if "--shutdown-timeout" not in get_args_parser().format_help():
        pytest.skip("needs torch 2.12, as the script says")
    given = get_args_parser().parse_args([word.replace("$SLURM_NNODES", "8") for word in words])
    assert "SIGUSR1" in given.signals_to_handle.split(",") and "SIGTERM" in given.signals_to_handle.split(",")
    assert 30 < given.shutdown_timeout < int(text.partition("USR1@")[2].split()[0])
