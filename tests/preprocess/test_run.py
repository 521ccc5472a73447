"""`preprocess` from end to end: real photos, drawn photos with their truth, MultiID-2M's form, resume, refusals."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.data.bank import read_identity, read_index
from anyphoto_cli.data.samples import decode_sample
from anyphoto_cli.data.shards import read_manifest, read_shard, verify_shard
from anyphoto_cli.errors import EnvironmentFault, InputError
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


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Coloured squares for the stand-in models of `fakes`."""
    fakes.register()
    return fakes.draw_photos(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def whole(drawn, tmp_path_factory):
    """An uninterrupted run on them."""
    out = tmp_path_factory.mktemp("whole") / "out"
    fake_run(drawn, out)
    return out


def fake_run(drawn, out, *, options=HERE, **more):
    settings = fakes.SETTINGS | more.pop("settings", {})
    return preprocess(drawn / "photos", out, drawn / "refs", PreprocessConfig(**settings), options, **more)


# ---- what comes out


def test_real_photos_get_exactly_their_names(run, testdata, photos, face_pack_folder, tmp_path):
    before, out = hashes(photos), tmp_path / "out"
    code, said, err = run(
        "preprocess", photos / "groups", "--refs", photos / "refs", "-o", out, "--captioner", "template",
        "--face-pack", face_pack_folder, "--person-model", testdata / "models/yolo/yolov8n-seg_int8.onnx",
        "--set", "masks=true",
    )  # fmt: skip
    assert code == 0, err
    assert "6 of 6 photos, 5 people, 1 shards" in said and str(out / "report.html") in said
    assert {name: sorted(row["identities"]) for name, row in rows(out).items()} == {
        "alex_lacamoire1.jpg": ["alex_lacamoire"],
        "johnsnow_test1.jpg": ["kit_harington"],
        "kit_with_rose.jpg": ["kit_harington", "rose_leslie"],
        "obama1.jpg": ["obama"],
        "obama_and_biden.jpg": ["biden", "obama"],
        "two_people.jpg": ["biden", "obama"],
    }
    assert hashes(photos) == before
    for record, jpeg, embeddings in samples(out):
        original = Image.open(photos / "groups" / record.source)
        assert (record.width, record.height) == original.size and jpeg[:2] == b"\xff\xd8"
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=2e-3)
        for person in record.people:
            x0, y0, x1, y1 = person.face_box
            assert (person.landmarks >= (x0, y0)).all() and (person.landmarks <= (x1, y1)).all()
            assert person.tokens > 0 if person.identity else person.match_score == 0
        assert any(person.mask for person in record.people)


def test_readers_open_the_shards(whole):
    import webdataset
    from datasets import Features, load_dataset

    shards = sorted(str(file) for file in (whole / "shards").glob("*.tar"))
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert len(read) == 40 and read[0]["jpg"].shape == (128, 160, 3) and read[0]["json"]["width"] == 160.0
    from ruamel.yaml import YAML

    front = (whole / "shards" / "README.md").read_text().split("---\n")[1]
    told = YAML(typ="safe", pure=True).load(front)["dataset_info"]["features"]
    features = Features._from_yaml_list(told)
    table = load_dataset("webdataset", data_files=shards, split="train", streaming=True)
    first = next(iter(table))
    assert set(first) >= {"jpg", "json", "__key__"} and first["json"]["people"][0]["identity"] == "p0"
    assert set(features["json"]) == set(first["json"])
    for row in table:
        features["json"] and Features({"json": features["json"]}).encode_example({"json": row["json"]})


def test_the_bank_holds_patches_at_the_training_size(whole):
    files, facts = read_index(whole / "bank")
    assert sorted(files) == ["p0", "p1", "p2", "p3"] and facts["patch_size"] == 112
    identity = read_identity(files["p1"])
    assert [patch.shape for patch in identity.patches] == [(112, 112, 4)] * 2 and identity.sources == (
        "p1/0.png",
        "p1/1.png",
    )
    assert np.allclose(np.linalg.norm(identity.embeddings, axis=1), 1, atol=2e-3)


def test_drawn_people_are_named_by_the_renderer_s_own_truth(run, tmp_path):
    """Of the people whose face is at least half seen, 98 % get their name; 0.5 % of all names at most are wrong."""
    code, _, err = run("mini", "photos", "--people", 30, "--groups", 160, "--held-out", "-o", tmp_path / "world")
    assert code == 0, err
    world, out = tmp_path / "world", tmp_path / "out"
    code, _, err = run("preprocess", world / "photos", "--refs", world / "refs", "--config", world / "preprocess.yaml",
                       "-o", out)  # fmt: skip
    assert code == 0, err
    found = {name: row["identities"] for name, row in rows(out).items()}
    shown = right = named = wrong = 0
    for line in (world / "truth.jsonl").read_text().splitlines():
        truth = json.loads(line)
        names = found[Path(truth["file"]).name]
        seen = [person["name"] for person in truth["people"] if person["visible"] >= 0.5]
        shown, right = shown + len(seen), right + len(set(seen) & set(names))
        named, wrong = named + len(names), wrong + len(set(names) - {person["name"] for person in truth["people"]})
    assert shown > 300 and right / shown >= 0.98 and wrong / named <= 0.005, (right, shown, wrong, named)


def test_the_multiid2m_sample(run, testdata, face_pack_folder, tmp_path):
    """Its pictures are drawings without faces: every one is accounted for, and nothing in it was run."""
    sample = testdata / "formats" / "multiid2m"
    code, _, err = run(
        "preprocess", sample / "train_cp", sample / "train_rec", "--refs", sample / "ref", "-o", tmp_path / "out",
        "--captioner", "template", "--face-pack", face_pack_folder,
        "--person-model", testdata / "models/yolo/yolo11n_int8.onnx", "--set", "min_side=64",
    )  # fmt: skip
    assert code == 0, err
    found = rows(tmp_path / "out")
    assert sorted(found) == ["train_cp/re_000000.tar/000000000", "train_rec/re_000000.tar/000000000", "train_rec/re_000000.tar/000000001"]  # fmt: skip
    assert {row["reason"] for row in found.values()} == {"no face"}
    assert "reference 12/00000.jpg" in err and "left out" in err


def test_the_form_of_multiid2m_with_faces_in_it(drawn, tmp_path):
    """Boxes count from before the crop, a name may be "none", and the source's boxes name who has no reference."""
    folder = tmp_path / "train_cp"
    folder.mkdir()
    with tarfile.open(folder / "cp_000000.tar", "w") as tar:
        for n, names in enumerate((["p1", "none"], ["stranger", "p2"])):
            picture = fakes.paint([fakes.colour_of(1 if n == 0 else 9), fakes.colour_of(8 if n == 0 else 2)], seed=n)
            told = {"url": f"https://example.org/{n}", "crop": [30, 40, 190, 168], "caption_en": f"caption {n}",
                    "bboxes": [[38, 60, 86, 108], [110, 60, 158, 108]], "name": names}  # fmt: skip
            jpeg = tmp_path / "x.jpg"
            Image.fromarray(picture).save(jpeg, quality=98, subsampling=0)
            vectors = pickle.dumps({"embeddings": np.ones((2, 512), np.float32)})
            for extension, data in (("jpg", jpeg.read_bytes()), ("json", json.dumps(told).encode()), ("npy", vectors)):
                member = tarfile.TarInfo(f"{n:09d}.{extension}")
                member.size = len(data)
                import io

                tar.addfile(member, io.BytesIO(data))
    out = tmp_path / "out"
    preprocess(folder, out, drawn / "refs", PreprocessConfig(**fakes.SETTINGS | {"match_threshold": 0.5}), HERE)
    found = rows(out)
    assert found["cp_000000.tar/000000000"]["identities"] == ["p1"]
    assert sorted(found["cp_000000.tar/000000001"]["identities"]) == ["p2", "stranger"]
    records = {record.source: record for record, _, _ in samples(out)}
    second = records["cp_000000.tar/000000001"]
    assert second.url == "https://example.org/1" and second.caption == "caption 1"
    # Who has no reference cannot be pasted: the face stays in the picture without a name.
    assert [person.identity for person in second.people] == ["p2", ""]


def test_photos_without_a_bank_become_identities(drawn, tmp_path):
    out = tmp_path / "out"
    config = PreprocessConfig(**fakes.SETTINGS | {"discover": True})
    preprocess(drawn / "photos", out, None, config, HERE)
    found, truth = rows(out), {}
    for n in range(40):
        for place, who in enumerate([n % 4, *([(n + 1) % 4] if n % 3 else [])]):
            truth.setdefault(who, set()).add(found[f"{n:03d}.png"]["identities"][place])
    assert all(len(names) == 1 for names in truth.values()) and len(set.union(*truth.values())) == 4
    assert sorted(read_index(out / "bank")[0]) == ["person_001", "person_002", "person_003", "person_004"]


def test_rotation_is_applied_once_and_metadata_stay_out(drawn, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    turned = Image.fromarray(fakes.paint([fakes.colour_of(1), fakes.colour_of(2)], seed=3)).transpose(
        Image.Transpose.ROTATE_90
    )
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x013B] = 6, "secret place", "secret author"
    turned.save(folder / "phone.jpg", exif=exif, quality=98, subsampling=0)
    out = tmp_path / "out"
    preprocess(folder, out, drawn / "refs", PreprocessConfig(**fakes.SETTINGS), HERE)
    [(record, jpeg, _)] = samples(out)
    assert (record.width, record.height) == (160, 128) and [p.identity for p in record.people] == ["p1", "p2"]
    assert (
        b"secret" not in b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
        and b"Exif" not in jpeg
    )


# ---- who and what must not be in it


@pytest.mark.parametrize(
    "line, reason, gone",
    [
        ("identity: p1", "shows an excluded person", {n for n in range(40) if n % 4 == 1 or (n % 4 == 0 and n % 3)}),
        ("source: 007.png", "excluded source", {7}),
        ("012.png  # asked for in a letter", "excluded source", {12}),
    ],
)
def test_removal_requests(drawn, tmp_path, line, reason, gone):
    (tmp_path / "exclude.txt").write_text(f"# removed\n{line}\n")
    out = tmp_path / "out"
    done = fake_run(drawn, out, exclude=tmp_path / "exclude.txt")
    dropped = {int(name[:3]) for name, row in rows(out).items() if row["status"] == "dropped"}
    assert dropped == gone and {row["reason"] for row in rows(out).values() if row["reason"]} == {reason}
    assert done.kept == 40 - len(gone)
    if reason.startswith("shows"):
        assert "p1" not in read_index(out / "bank")[0]
        assert all(person.identity != "p1" for record, _, _ in samples(out) for person in record.people)


# ---- how it came about leaves no trace


def test_local_ray_and_this_process_write_the_same_bytes(tmp_path):
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos

    world = draw_photos(tmp_path / "world", PhotosConfig(people=4, groups=24, references=2)).folder
    from anyphoto_cli.config.load import load_config

    config = load_config(PreprocessConfig, world / "preprocess.yaml", {"shard_size": 9}, [])
    for name, options in {
        "here": HERE,
        "local": RunOptions(executor="local", workers=2, batch=3),
        "ray": RunOptions(executor="ray", workers=2),
    }.items():
        preprocess(world / "photos", tmp_path / name, world / "refs", config, options)
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


def start(drawn, out, *before, **environment):
    command = [*before, sys.executable, "-m", "tests.preprocess.fakes", drawn / "photos", drawn / "refs", out]
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment,
    )  # fmt: skip


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
    """The same command again, to its end."""
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
    for trial in range(20):
        out = tmp_path / f"{trial}"
        worker = start(drawn, out)
        time.sleep(length * rng.uniform(0.3, 0.98))
        worker.kill()
        cut += worker.wait() != 0
        assert_nothing_torn(out)
        finish(drawn, out)
        assert hashes(out) == wanted, trial
        shutil.rmtree(out)
    assert cut >= 10


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace to kill at a given system call")
def test_killed_at_every_kind_of_moment_of_a_commit_it_goes_on_to_the_same_bytes(drawn, whole, tmp_path):
    """At the k-th write, fsync or rename; k at equal steps through all of a run."""
    wanted, cut = hashes(whole), 0
    calls = {"write": 140, "fsync": 66, "rename": 32}
    moments = [(call, 1 + k * most // 10) for call, most in calls.items() for k in range(10)]
    for call, k in moments:
        out = tmp_path / f"{call}{k}"
        inject = f"inject={call}:signal=KILL:when={k}"
        cut += (
            start(drawn, out, "strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject).wait(120)
            != 0
        )
        assert_nothing_torn(out)
        finish(drawn, out)
        assert hashes(out) == wanted, (call, k)
        shutil.rmtree(out)
    assert cut >= 25


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


@pytest.mark.parametrize("sign, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_leaves_no_workers_and_a_folder_that_goes_on(tmp_path, sign, code):
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos

    world, out = (
        draw_photos(tmp_path / "world", PhotosConfig(people=4, groups=60, references=1)).folder,
        tmp_path / "out",
    )
    command = [sys.executable, "-m", "anyphoto_cli", "preprocess", world / "photos", "--refs", world / "refs", "--config",
               world / "preprocess.yaml", "-o", out, "--workers", "2"]  # fmt: skip
    worker = subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list((out / "work" / "detect").glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.send_signal(sign)
    assert worker.wait(60) == code
    while (left := _commands_with(str(out))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True).returncode == 0
    fresh = tmp_path / "fresh"
    command[command.index(out)] = fresh
    assert subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True).returncode == 0
    assert hashes(out) == hashes(fresh)


def _commands_with(text):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text in (entry / "cmdline").read_bytes().decode("utf-8", "replace"):
                found.append(entry.name)
        except OSError:
            continue
    return found


# ---- refusals


def test_a_second_run_on_the_same_folder_is_refused(drawn, tmp_path):
    from anyphoto_cli.runtime.run_record import only_one

    with (
        only_one(tmp_path / "out" / "work"),
        pytest.raises(InputError, match=r"in use by another run \(process \d+ on"),
    ):
        fake_run(drawn, tmp_path / "out")


def test_changed_options_and_photos_are_refused_by_name(drawn, tmp_path):
    out = tmp_path / "out"
    fake_run(drawn, out, stages=["detect"])
    with pytest.raises(InputError, match=r"face_score: this run began with 0.5, now it is 0.6"):
        fake_run(drawn, out, settings={"face_score": 0.6})
    fake_run(drawn, out, stages=["match"], settings={"match_threshold": 0.9})  # a later stage is still free
    with pytest.raises(InputError, match=r"match_threshold: this run began with 0.9, now it is 0.95"):
        fake_run(drawn, out)
    more = tmp_path / "more"
    shutil.copytree(drawn, more)
    fake_run(more, tmp_path / "out2", stages=["detect"])
    shutil.copy(more / "photos" / "000.png", more / "photos" / "999.png")
    with pytest.raises(InputError, match=r"no longer those it began with \(40 then, 41 now\)"):
        fake_run(more, tmp_path / "out2")


def test_a_mistake_before_anything_was_made_may_be_corrected(drawn, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="--person-model: no such file"):
        fake_run(drawn, out, settings={"person_model": "nowhere.onnx"})
    assert fake_run(drawn, out).kept == 40


def test_a_photo_that_changed_meanwhile_stops_the_run(drawn, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(drawn, own)
    fake_run(own, tmp_path / "out", stages=["detect", "match", "caption"])
    Image.fromarray(fakes.paint([fakes.colour_of(3)], seed=99)).save(own / "photos" / "005.png")
    with pytest.raises(EnvironmentFault, match=r"005.png: has changed since this run first read it"):
        fake_run(own, tmp_path / "out")


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["nowhere", "-o", "out"], "nowhere: no such file or folder"),
        (["photos", "-o", "photos/out", "--refs", "refs"], "photos/out: --out: lies inside the photos. Choose a folder beside them"),
        (["photos", "-o", "out"], "--refs: nobody is known. Give --refs DIR (refs/NAME/*.jpg) or --discover"),
        (["photos", "-o", "out", "--refs", "empty"], "empty: --refs: holds no reference photos"),
        (["empty", "-o", "out", "--refs", "refs"], "empty: holds no files"),
        (["photos", "-o", "out", "--refs", "refs", "--stages", "detect,dance"], "--stages: 'dance' is no stage. Stages: detect, match, caption, pack"),
        (["photos", "-o", "out", "--refs", "refs", "--set", "min_fase=3"], "--set min_fase: is no key here. Did you mean min_face?"),
        (["photos", "-o", "out", "--refs", "refs", "--set", "face_score=3"], "--set face_score: 3: input should be less than or equal to 1"),
        (["photos", "-o", "out", "--refs", "refs", "--captioner", "poet"], "--captioner: 'poet'"),
        (["photos", "-o", "out", "--refs", "refs", "--discover"], "--discover: takes no --refs beside it"),
        (["photos", "-o", "out", "--refs", "refs", "--exclude", "no.txt"], "no.txt: --exclude: cannot be read"),
        (["photos", "-o", "out", "--refs", "refs", "--person-model", "yolo.txt"], "--person-model: 'yolo.txt' is no person model"),
        (["photos", "-o", "out", "--refs", "refs", "--face-pack", "./empty"], "empty"),
    ],
)  # fmt: skip
def test_every_refusal_is_one_line_and_writes_nothing(run, drawn, tmp_path, monkeypatch, arguments, line):
    for name in ("photos", "refs"):
        (tmp_path / name).symlink_to(drawn / name)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = [
        f"--set={key}={value}" for key, value in fakes.SETTINGS.items() if f"--{key.replace('_', '-')}" not in arguments
    ]
    code, out, err = run("preprocess", *arguments, *settings, "--executor", "here")
    told = [text for text in err.splitlines() if text.startswith("Error")]
    assert code == 2 and out == "" and len(told) == 1 and line in told[0], err
    assert "Traceback" not in err and not (tmp_path / "out" / "shards").exists()


# ---- bad input


def bomb(width, height):
    """A PNG of almost no bytes."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    body = zlib.compress(b"\0" * (width + 1) * min(height, 64), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def awful(drawn, tmp_path_factory):
    """Two good photos among everything that a folder of photos may hold."""
    folder = tmp_path_factory.mktemp("awful") / "photos"
    folder.mkdir()
    good = (drawn / "photos" / "001.png").read_bytes()
    files = {
        "a good.png": good, "ünï 人 [red].png": (drawn / "photos" / "002.png").read_bytes(), "empty.jpg": b"", "text.jpg": b"hello",
        "cut.png": good[: len(good) // 2], "bomb.png": bomb(60_000, 60_000), "large.png": bomb(20_000, 12_000),
        "page.svg": b"<svg/>", "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage", "pickle.npy": b"\x80\x04cos\nsystem\n.",
        "zip.jpg": b"PK\x03\x04" + b"\0" * 64, "noise.jpg": np.random.default_rng(0).bytes(4096), "thin.png": bomb(3, 3),
        "Thumbs.db": b"x", "broken.tar": b"not a tar", "half.part": good,
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "dead.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "ring").symlink_to(folder / "ring")
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(folder)
    return folder


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_every_entry_gets_one_row_and_nothing_hangs_or_swells(drawn, awful, tmp_path, environment):
    command = [sys.executable, "-m", "tests.preprocess.fakes", awful, drawn / "refs", tmp_path / "out"]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env=os.environ | environment)  # fmt: skip
    assert "Traceback" not in done.stderr and done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.5 * 2**20  # KiB
    found = [json.loads(line) for line in (tmp_path / "out" / "report.jsonl").read_text().splitlines()]
    entries = {p.relative_to(awful).as_posix() for p in awful.rglob("*")} - {"sub"}
    ids = [row["id"].rstrip("/") for row in found]
    assert sorted(ids) == sorted(entries) and len(set(ids)) == len(ids)
    kept = {row["id"] for row in found if row["status"] == "kept"}
    assert kept == {"a good.png", "ünï 人 [red].png"}
    assert all(row["reason"] for row in found if row["status"] != "kept")


def test_unreadable_photos_are_exit_code_3_and_too_many_stop_the_run(run, drawn, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(drawn / "photos", folder)
    (folder / "bad.jpg").write_bytes(b"x")
    settings = [f"--set={key}={value}" for key, value in fakes.SETTINGS.items()]
    command = ["preprocess", folder, "--refs", drawn / "refs", "-o", tmp_path / "out", *settings, "--executor", "here"]
    code, said, err = run(*command)
    assert code == 3 and "40 of 41 photos" in said and "failed 1" in said, err
    for n in range(60):
        (folder / f"bad{n}.jpg").write_bytes(b"x")
    code, _, err = run(*command[:5], tmp_path / "more", *command[6:])
    assert code == 1 and "photos could not be read (limit 50%)" in err and "--max-failed" in err
    code, _, err = run(*command[:5], tmp_path / "more", *command[6:], "--max-failed", "1")
    assert code == 3, err


def test_failed_photos_are_tried_again_when_asked(drawn, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(drawn, own)
    good = (own / "photos" / "005.png").read_bytes()
    (own / "photos" / "005.png").write_bytes(good[:100])
    out = tmp_path / "out"
    assert fake_run(own, out).failed == 1
    (own / "photos" / "005.png").write_bytes(good)
    assert fake_run(own, out).failed == 1  # what is done stays done
    done = fake_run(own, out, retry_failed=True)
    assert (done.failed, done.kept) == (0, 40)
    fake_run(own, tmp_path / "fresh")
    assert hashes(out) == hashes(tmp_path / "fresh", leave=())


def test_a_dry_run_estimates_and_writes_nothing(run, drawn, tmp_path):
    settings = [f"--set={key}={value}" for key, value in fakes.SETTINGS.items()]
    code, said, err = run(
        "preprocess", drawn / "photos", "--refs", drawn / "refs", "-o", tmp_path / "out", *settings, "--dry-run"
    )
    assert code == 0, err
    assert "40 photos, 8 references (not written: dry run)" in said and "hours with" in said and "GB" in said
    assert not (tmp_path / "out").exists()


def test_a_photo_that_kills_its_worker_costs_itself_alone(tmp_path):
    """Workers that die on a photo twice leave it out, and say so; its neighbours stay."""
    from anyphoto_cli.runtime.local_executor import run_local
    from tests.preprocess.deadly import DeadlyJob

    found = dict(run_local(DeadlyJob(tmp_path), [0, 1, 2], workers=2))
    assert found == {0: [0, 1, 2, 3], 1: [0, 1, 3], 2: [0, 1, 2, 3]}


def test_memory_is_flat_in_the_number_of_photos(tmp_path):
    """The plan of two million photos takes some 50 bytes a photo; nothing else may grow with their number."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.preprocess.fakes import peak_kib\n"
        "from anyphoto_cli.data.sources import PhotoInput\nfrom anyphoto_cli.preprocess.work import write_photo_list\n"
        "before = peak_kib()\n"
        "photos = (PhotoInput(f'{n:08d}.jpg', f'/photos/{n:08d}.jpg') for n in range(int(sys.argv[2])))\n"
        "listed = write_photo_list(Path(sys.argv[1]), photos)\n"
        "assert len(listed.photos(len(listed) - 1)) > 0\n"
        "print(peak_kib() - before)\n"
    )
    grown = []
    for count in (20_000, 400_000):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{count}.jsonl"), str(count)], cwd=ROOT,
                              capture_output=True, text=True, check=True)  # fmt: skip
        grown.append(int(done.stdout) * 1024)
    assert (grown[1] - grown[0]) / 380_000 < 50, grown
