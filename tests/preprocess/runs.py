"""Runs on coloured squares with the stand-in models of `fakes`, and what they leave."""

import hashlib
import json
import os
import subprocess
import sys

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.data.samples import decode_sample
from anyphoto_cli.data.shards import read_manifest, read_shard, verify_shard
from anyphoto_cli.preprocess import run as preprocess
from tests.conftest import ROOT
from tests.preprocess import fakes

HERE = RunOptions(executor="here")


def hashes(folder, *, leave=()):
    """Every file and its sha256; what a run leaves must not depend on how it came about."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in (".lock", *leave)
    }


def rows(out):
    return {row["id"]: row for row in map(json.loads, (out / "report.jsonl").read_text().splitlines())}


def samples(out):
    """(record, jpeg, embeddings) of every entry, after the sums were compared."""
    found = []
    for shard in read_manifest(out).shards:
        verify_shard(out / "shards", shard)
        found += [decode_sample(sample, shard.name) for sample in read_shard(out / "shards" / shard.name)]
    return found


def fake_run(drawn, out, *, options=HERE, **more):
    settings = fakes.SETTINGS | more.pop("settings", {})
    return preprocess(
        more.pop("sources", drawn / "photos"), out, drawn / "refs", PreprocessConfig(**settings), options, **more
    )


def start(drawn, out, *before, **environment):
    command = [*before, sys.executable, "-m", "tests.preprocess.fakes", drawn / "photos", drawn / "refs", out]
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment,
    )  # fmt: skip
