"""Bad options, bad photos, changed folders: one line or one row each, and nothing half-written."""

import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli import registry
from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.preprocess.caption_checks import captioning_digests
from anyphoto_cli.runtime.devices import free_workers
from anyphoto_cli.runtime.executors import room
from anyphoto_cli.seams import CaptionAnswer
from tests.conftest import ROOT
from tests.preprocess import fakes
from tests.preprocess.runs import fake_run, hashes, rows, samples


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


def test_what_a_left_out_stage_began_with_is_not_changed_by_a_later_one(drawn, tmp_path):
    out = tmp_path / "out"
    fake_run(drawn, out, stages=["detect", "match"])
    with pytest.raises(InputError, match=r"train_size: this run began with 128, now it is 256"):
        fake_run(drawn, out, stages=["caption", "pack"], settings={"train_size": 256})
    removed = tmp_path / "removed.txt"
    removed.write_text("identity: p1\n")
    with pytest.raises(InputError, match=r"--exclude: names others than stage match went by. Add stage match"):
        fake_run(drawn, out, stages=["caption", "pack"], exclude=removed)
    assert not (out / "manifest.json").exists()


def test_other_references_are_not_taken_for_those_of_the_bank(drawn, tmp_path):
    own, out = tmp_path / "own", tmp_path / "out"
    shutil.copytree(drawn, own)
    fake_run(own, out, stages=["detect", "match"])
    shutil.copytree(own / "refs" / "p3", own / "refs" / "abe")
    with pytest.raises(InputError, match="references: this run began with"):
        fake_run(own, out)
    shutil.rmtree(out / "work")
    with pytest.raises(InputError, match="holds what another run has made, whose work/ is gone.*new folder"):
        fake_run(own, out)


def test_a_mistake_before_anything_was_made_may_be_corrected(drawn, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="--person-model: no such file"):
        fake_run(drawn, out, settings={"person_model": "nowhere.onnx"})
    assert fake_run(drawn, out).kept == 40


def test_who_leaves_the_captioner_out_is_told_which_one_the_run_began_with(drawn, tmp_path):
    """Not that the default one's package or server is missing. It would be refused, too, if it were there."""
    fake_run(drawn, tmp_path, settings={"captioner": "template"})
    with pytest.raises(InputError, match="--captioner: this run began with 'template'; .*Give --captioner template"):
        fake_run(drawn, tmp_path, settings={"captioner": "openai"})


def test_a_caption_server_may_be_mistyped_and_may_move(drawn, tmp_path):
    """Where a server is changes no caption: nothing rests on it, and no byte of the output tells it."""
    from tests.preprocess.fake_caption_server import FakeCaptionServer

    def settings(server, model):
        return {"captioner": "openai", "caption_url": server.url, "caption_model": model}

    out, fresh = tmp_path / "out", tmp_path / "fresh"
    with FakeCaptionServer("404") as wrong, pytest.raises(EnvironmentFault, match="no such model"):
        fake_run(drawn, out, settings=settings(wrong, "some/Typo"))
    with FakeCaptionServer(lambda *_: (500, {}, {})) as ill, pytest.raises(EnvironmentFault) as error:
        fake_run(
            drawn, out, settings=settings(ill, "some/Model"), options=RunOptions(executor="here", caption_deadline=1)
        )
    assert "--captioner" in str(error.value) or "caption server" in str(error.value)
    with FakeCaptionServer() as good:
        assert fake_run(drawn, out, settings=settings(good, "some/Model"), retry_failed=True).kept == 40
    with FakeCaptionServer() as elsewhere:
        fake_run(drawn, fresh, settings=settings(elsewhere, "some/Model"))
    assert hashes(out) == hashes(fresh)


def test_a_captioner_that_mostly_fails_stops_the_run(run, drawn, tmp_path):
    written, out = tmp_path / "captions.jsonl", tmp_path / "out"
    lines = [json.dumps({"id": f"{n:03d}.png", "caption": f"Number {n}."}) + "\n" for n in range(40)]
    settings = {"captioner": "file", "caption_file": str(written)}
    written.write_text("".join(lines[:15]))
    for _ in range(2):  # the same again is no way out
        with pytest.raises(
            EnvironmentFault, match=r"25 of the first 40 captions failed \(limit 50%\), the first: .*--retry-f"
        ):
            fake_run(drawn, out, settings=settings)
    written.write_text("".join(lines))
    assert fake_run(drawn, out, settings=settings, retry_failed=True).kept == 40


class Twelve:
    """A captioner that reads the prompt, and whose server goes after twelve captions."""

    name, looks = "twelve", False

    def captions(self, pictures):
        yield from (CaptionAnswer(one.id, "A photo.") for one in itertools.islice(pictures, 12))
        raise EnvironmentFault("the server is gone")


def test_what_captions_were_made_with_is_not_exchanged_meanwhile(drawn, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN["captioners"], "twelve", "tests.preprocess.test_refusals:twelve")
    out = tmp_path / "out"

    def again(**more):
        fake_run(drawn, out, settings={"captioner": "twelve", "caption_prompt": str(prompt)}, **more)

    for prompt in (tmp_path / "prompt.txt", tmp_path / "moved.txt"):  # of the same text it goes on, wherever that lies
        prompt.write_text("Describe it.")
        with pytest.raises(EnvironmentFault, match="the server is gone"):
            again()
    prompt.write_text("Say it in a word.")
    for retry in (False, True):
        with pytest.raises(InputError, match="caption_prompt_sha256: this run began with '"):
            again(retry_failed=retry)
    forget(out, "caption_prompt_sha256")
    with pytest.raises(EnvironmentFault, match="the server is gone"):
        again()
    monkeypatch.setattr(Path, "read_text", lambda path, **_: "Sing it.")
    told = captioning_digests(PreprocessConfig())  # the package's own
    assert told == {"caption_prompt_sha256": hashlib.sha256(b"Sing it.").hexdigest(), "caption_file_sha256": ""}


def twelve(config, options):
    return Twelve()


def forget(out, key):
    """As a version wrote it that did not know of the key."""
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    del record["caption"][key]
    (out / "run.json").write_text(json.dumps(record))


def test_a_file_of_captions_may_be_mended_and_not_exchanged(drawn, tmp_path):
    written, out = tmp_path / "captions.jsonl", tmp_path / "out"
    rows = [{"id": f"{n:03d}.png", "caption": "One."} for n in range(40)]
    settings = {"captioner": "file", "caption_file": str(written)}
    written.write_text("\n".join(map(json.dumps, rows)))
    fake_run(drawn, out, settings=settings)
    written.write_text("\n".join(map(json.dumps, rows)).replace("One", "Two"))
    with pytest.raises(InputError, match="caption_file_sha256: this run began with '"):
        fake_run(drawn, out, settings=settings)
    written.unlink()
    assert fake_run(drawn, out, settings=settings, stages=["pack"]).kept == 40
    settings["caption_file"] = str(moved := tmp_path / "moved.jsonl")
    moved.write_text("\n".join(map(json.dumps, rows)).replace("One", "Two"))
    forget(out, "caption_file_sha256")
    assert fake_run(drawn, out, settings=settings).kept == 40


@pytest.mark.parametrize(("device", "told"), [("tpu", "'tpu' is no device"), ("cuda", "onnxruntime cannot use cuda")])
def test_a_device_that_is_none(drawn, tmp_path, device, told, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match=f"--device: {told}"):
        fake_run(drawn, tmp_path / "out", options=RunOptions(executor="here", device=device))


def test_a_card_by_number_is_one_worker_and_under_ray_its_actor_s_only_card():
    assert free_workers("cuda:0") == 1
    assert room(RunOptions(executor="ray", device="cuda:1")) == ("cuda", 1)


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
        (["photos", "-o", "refs/..", "--refs", "refs"], "refs/..: --out: holds photos, which it is made from. Give a folder of its own with -o"),
        (["photos", "-o", "out"], "--refs: nobody is known. Give --refs DIR (refs/NAME/*.jpg) or --discover"),
        (["photos", "-o", "out", "--refs", "empty"], "empty: --refs: holds no reference photos"),
        (["empty", "-o", "out", "--refs", "refs"], "empty: holds no files"),
        (["photos", "-o", "out", "--refs", "refs", "--stages", "detect,dance"], "--stages: 'dance' is no stage. Stages: detect, match, caption, pack"),
        (["photos", "-o", "out", "--refs", "refs", "--set", "min_fase=3"], "--set min_fase: is no key here. Did you mean min_face?"),
        (["photos", "-o", "out", "--refs", "refs", "--set", "face_score=3"], "--set face_score: 3: input should be less than or equal to 1"),
        (["photos", "-o", "out", "--refs", "refs", "--captioner", "poet"], "--captioner: 'poet'"),
        (["photos", "refs/../photos", "-o", "out", "--refs", "refs"], "refs/../photos: SOURCE: has the same name as photos. Photos are told apart by it"),
        (["photos", "-o", "out", "--refs", "refs", "--person-model", "mini", "--set", "masks=true"], "--person-model: has no masks, which masks=true asks for. Give one that"),
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
    code, out, err = run("preprocess", *arguments, *settings, "--executor", "here", "--dry-run")
    assert code == 2 and out == "" and line in err, err


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
    jsons = {"box": b'{"bboxes": [[NaN, 0, 1, 1]]}', "crop": b'{"url": "x", "crop": {"x": 1}}', "score": b'{"aesthetics_score": %s}' % (b"9" * 400),
             "long": b'{"url": "%s"}' % bytes(5 << 20), "half": b'{"url": "\\ud800", "caption": "\\ud800"}'}  # fmt: skip
    for name, text in jsons.items():
        (folder / f"{name}.json").write_bytes(text)
        Image.fromarray(fakes.paint([fakes.colour_of(1)], seed=len(text))).save(folder / f"{name}.png")
    noise = Image.effect_noise((64, 48), 80).convert("RGB")
    broken = io.BytesIO()
    noise.save(broken, "AVIF")
    (folder / "broken.avif").write_bytes(broken.getvalue().replace(b"iloc", b"xloc"))
    # Lies on its side, and has a width that is a text.
    tags = b"\x02\0\x00\x01\x02\0\x04\0\0\0abc\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    noise.save(folder / "exif.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + tags)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "dead.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "ring").symlink_to(folder / "ring")
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(folder)
    return folder


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_every_entry_gets_one_row_and_nothing_hangs_or_swells(drawn, awful, tmp_path, environment):
    refs = os.fsencode(tmp_path / "refs")
    shutil.copytree(drawn / "refs", refs.decode())
    os.rename(refs + b"/p1", refs + b"/p1 \xff")  # noqa: PTH104
    command = [sys.executable, "-m", "tests.preprocess.fakes", awful, refs.decode(), tmp_path / "out"]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env=os.environ | environment)  # fmt: skip
    assert "Traceback" not in done.stderr and done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.5 * 2**20  # KiB
    found = [json.loads(line) for line in (tmp_path / "out" / "report.jsonl").read_text(encoding="utf-8").splitlines()]
    entries = {p.relative_to(awful).as_posix() for p in awful.rglob("*") if p.suffix != ".json"} - {"sub"}
    ids = [row["id"].rstrip("/") for row in found]
    assert sorted(ids) == sorted(entries) and len(set(ids)) == len(ids)
    kept = {row["id"] for row in found if row["status"] == "kept"}
    assert kept == {"a good.png", "ünï 人 [red].png", "half.png"}
    reasons = {row["id"]: row["reason"] for row in found if row["status"] != "kept"}
    assert all(reasons.values())
    assert "broken picture" in reasons["broken.avif"] and "broken picture" in reasons["exif.jpg"]
    for name, key in (("box", "bboxes"), ("crop", "crop"), ("score", "aesthetics_score")):
        assert reasons[f"{name}.png"] == f"its json has no numbers in {key}"
    assert reasons["long.png"] == "its json has 5 MiB, more than the 4 that are read"
    told = {record.source: record for record, _, _ in samples(tmp_path / "out")}
    assert (told["half.png"].url, told["half.png"].people[0].identity) == ("\\ud800", "p1 \\udcff")


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
    assert "bad.jpg is not a picture anyphoto can read; bad0.jpg is not" in err
    code, _, err = run(*command[:5], tmp_path / "more", *command[6:], "--max-failed", "1")
    assert code == 3, err


def test_photos_that_failed_side_by_side_are_tried_again_as_a_share_of_all(drawn, tmp_path):
    photos, options = tmp_path / "photos", RunOptions(executor="here", max_failed=0.6)
    shutil.copytree(drawn / "photos", photos)
    for n in range(52):
        (photos / f"bad{n}.jpg").write_bytes(b"x")
    for retry in (False, True):
        done = fake_run(drawn, tmp_path / "out", sources=photos, options=options, retry_failed=retry)
        assert (done.failed, done.kept) == (52, 40)


def test_failed_photos_are_tried_again_when_asked(drawn, tmp_path, monkeypatch):
    own = tmp_path / "own"
    shutil.copytree(drawn, own)
    good = (own / "photos" / "005.png").read_bytes()
    (own / "photos" / "005.png").write_bytes(good[:100])
    out = tmp_path / "out"
    assert fake_run(own, out).failed == 1
    (own / "photos" / "005.png").write_bytes(good)
    assert fake_run(own, out).failed == 1  # what is done stays done
    before = hashes(out)
    with pytest.raises(InputError, match="match_threshold: this run began with 0.95, now it is 0.9"):
        fake_run(own, out, settings={"match_threshold": 0.9}, retry_failed=True)
    with monkeypatch.context() as other, pytest.raises(InputError, match="persons: this run began with 'fff"):
        other.setattr(fakes.FakePersons, "sha256", "0" * 64)
        fake_run(own, out, retry_failed=True)
    assert hashes(out) == before
    done = fake_run(own, out, retry_failed=True)
    assert (done.failed, done.kept) == (0, 40)
    fake_run(own, tmp_path / "fresh")
    assert hashes(out) == hashes(tmp_path / "fresh", leave=())


def test_what_is_not_the_run_s_own_stays_in_its_folder(drawn, tmp_path):
    own, out = tmp_path / "own", tmp_path / "out"
    shutil.copytree(drawn / "refs", own / "refs")
    (own / "photos").mkdir()
    shutil.copy(drawn / "photos" / "001.png", own / "photos" / "1.png")
    (own / "photos" / "2.png").write_bytes(b"")
    left = ".000000.npz.0123456789ab.tmp"
    theirs = [".holiday.tmp/1.jpg", f"mine/{left}", "shards/train-holiday.tar", "work/.notes.tmp"]
    ours = [left, f"work/detect/{left}", f"work/shunned/{left}", f"bank/{left}", f"shards/{left}"]
    fake_run(own, out, stages=["detect"])
    for name in (*theirs, *ours):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"x")
    for retry in (False, True):
        assert fake_run(own, out, retry_failed=retry).kept == 1
        assert [name for name in (*theirs, *ours) if (out / name).is_file()] == theirs


@pytest.fixture
def asked(monkeypatch):
    """What the person model and the captioner are asked for: how many pictures, and which photos."""
    from anyphoto_cli.preprocess.captioners.file import FileCaptioner
    from anyphoto_cli.preprocess.captioners.template import TemplateCaptioner

    seen = {"pictures": 0, "captions": []}
    persons = fakes.FakePersons.persons

    def counted(self, pictures, least_score=0.25):
        seen["pictures"] += len(pictures)
        return persons(self, pictures, least_score)

    def listed(plain):
        def captions(self, requests):
            noted = (seen["captions"].append(request.source) or request for request in requests)
            return plain(self, noted)

        return captions

    monkeypatch.setattr(fakes.FakePersons, "persons", counted)
    for captioner in (FileCaptioner, TemplateCaptioner):
        monkeypatch.setattr(captioner, "captions", listed(captioner.captions))
    return seen


def test_only_what_failed_is_tried_again(drawn, tmp_path, asked):
    """A chunk has eight photos; one that could be read, or has its caption, is not looked at again."""
    own, out, written = tmp_path / "own", tmp_path / "out", tmp_path / "captions.jsonl"
    shutil.copytree(drawn, own)
    bad = {name: (own / "photos" / name).read_bytes() for name in ("005.png", "006.png", "019.png")}
    for name, data in bad.items():
        (own / "photos" / name).write_bytes(data[:100])
    lines = {n: json.dumps({"id": f"{n:03d}.png", "caption": f"Number {n}."}) + "\n" for n in range(40)}
    settings = {"captioner": "file", "caption_file": str(written)}
    written.write_text("".join(line for n, line in lines.items() if n not in (3, 30)))
    assert fake_run(own, out, settings=settings).failed == 5
    for name, data in bad.items():
        (own / "photos" / name).write_bytes(data)
    (own / "photos" / "006.png").write_bytes(b"")  # it stays bad
    written.write_text("".join(lines.values()))
    asked |= {"pictures": 0, "captions": []}
    done = fake_run(own, out, settings=settings, retry_failed=True)
    assert (done.failed, done.kept) == (1, 39) and asked["pictures"] == 2
    assert sorted(asked["captions"]) == ["003.png", "005.png", "019.png", "030.png"]
    fake_run(own, tmp_path / "fresh", settings=settings)
    assert hashes(out) == hashes(tmp_path / "fresh")


def test_who_stays_of_near_duplicates_may_change_when_failed_photos_are_read(drawn, tmp_path, monkeypatch):
    """a.png, once it can be read, takes b.png's place, and c.png, which was too near to b.png, stays: with a caption."""
    from anyphoto_cli.preprocess import detecting

    own, out = tmp_path / "own", tmp_path / "out"
    shutil.copytree(drawn / "refs", own / "refs")
    (own / "photos").mkdir()
    for seed, name in enumerate("abc"):
        Image.fromarray(fakes.paint([fakes.colour_of(0)], seed=seed)).save(own / "photos" / f"{name}.png")
    told = {np.asarray(Image.open(own / "photos" / f"{n}.png")).tobytes(): bits
            for n, bits in {"a": 0, "b": 15, "c": 255}.items()}  # fmt: skip
    monkeypatch.setattr(detecting, "perceptual_hash", lambda pixels: f"{told[pixels.tobytes()]:016x}")
    good = (own / "photos" / "a.png").read_bytes()
    (own / "photos" / "a.png").write_bytes(good[:100])
    fake_run(own, out, settings={"near_duplicates": 4})
    assert rows(out)["c.png"]["reason"] == "repeats photo b.png"
    (own / "photos" / "a.png").write_bytes(good)
    fake_run(own, out, settings={"near_duplicates": 4}, retry_failed=True)
    assert [(record.source, bool(record.caption)) for record, *_ in samples(out)] == [("a.png", True), ("c.png", True)]


def test_captions_that_failed_are_asked_for_again_and_nothing_else_is_lost(drawn, tmp_path, monkeypatch):
    """Neither shards nor answers where the server goes in between: those that came are used by the next call."""
    from anyphoto_cli.preprocess.captioners.file import FileCaptioner

    plain = FileCaptioner.captions

    def two(self, requests):
        yield from itertools.islice(plain(self, requests), 2)
        raise EnvironmentFault("the server is gone")

    written, out = tmp_path / "captions.jsonl", tmp_path / "out"
    lines = [json.dumps({"id": f"{n:03d}.png", "caption": f"Number {n}."}) + "\n" for n in range(40)]
    settings = {"captioner": "file", "caption_file": str(written)}
    written.write_text("".join(lines[5:]))
    assert (first := fake_run(drawn, out, settings=settings)).failed == 5 and first.kept == 35
    written.write_text("".join(lines))
    before = hashes(out, leave=["run.json", "journal.jsonl"])
    with monkeypatch.context() as cut, pytest.raises(EnvironmentFault, match="the server is gone"):
        cut.setattr(FileCaptioner, "captions", two)
        fake_run(drawn, out, settings=settings, retry_failed=True)
    assert hashes(out, leave=["run.json", "journal.jsonl"]) == before
    assert fake_run(drawn, out, settings=settings).kept == 37
    done = fake_run(drawn, out, settings=settings, retry_failed=True)
    assert (done.failed, done.kept) == (0, 40)
    fake_run(drawn, tmp_path / "fresh", settings=settings)
    assert hashes(out) == hashes(tmp_path / "fresh")


@pytest.fixture
def journalled(tmp_path):
    """Sixteen photos in two chunks, the second one captioned; all but the third one stay. The journal's last line is torn."""
    from anyphoto_cli.data.sources import PhotoInput
    from anyphoto_cli.preprocess.captioning import JOURNAL
    from anyphoto_cli.preprocess.selection import Selection
    from anyphoto_cli.preprocess.work import Work, write_photo_list

    def said(number, problem=""):
        return json.dumps({"id": str(number), "text": "" if problem else "A photo.", "problem": problem}) + "\n"

    photos = write_photo_list(tmp_path / "photos.jsonl", [PhotoInput(f"{n}.png", f"{n}.png") for n in range(16)])
    failed = [{"text": "", "captioner": "c", "problem": "500"} for _ in range(3)]
    Work(tmp_path).write(
        "caption", 1, [{"text": "A photo.", "captioner": "c", "problem": ""} for _ in range(5)] + failed
    )
    journal = tmp_path / "caption" / JOURNAL
    lines = [said(2), said(3), said(4, "500"), said(8), said(14), said(15, "500")]
    journal.write_text("".join(lines) + said(5)[:20])
    return (photos, Work(tmp_path), Selection(np.arange(16) != 2, np.full(16, -1))), journal, lines


@pytest.mark.parametrize("retry, used", [(True, [1, 4]), (False, [1, 2, 4])])
def test_of_a_run_that_was_cut_off_what_no_chunk_holds_is_used(journalled, retry, used):
    """Of photos that stay; failed answers are asked for again with --retry-failed, and a caption mends one."""
    from anyphoto_cli.preprocess.captioning import forget_answers

    told, journal, lines = journalled
    forget_answers(*told, retry_failed=retry)
    assert journal.read_text(encoding="utf-8") == "".join(lines[place] for place in used)


def test_a_full_disk_leaves_the_answers_of_a_run_that_was_cut_off(journalled):
    import resource

    from anyphoto_cli.preprocess.captioning import forget_answers

    told, journal, lines = journalled
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # no file may grow
    try:
        with pytest.raises(EnvironmentFault, match="cannot write here"):
            forget_answers(*told, retry_failed=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.read_text(encoding="utf-8") == "".join(lines)


def test_a_photo_that_kills_its_worker_costs_itself_alone(tmp_path):
    """Workers that die on a photo twice leave it out, and say so; its neighbours stay."""
    from anyphoto_cli.runtime.local_executor import run_local
    from tests.preprocess.deadly import DeadlyJob

    found = dict(run_local(DeadlyJob(tmp_path), [0, 1, 2], workers=2))
    assert found == {0: [0, 1, 2, 3], 1: [0, 1, 3], 2: [0, 1, 2, 3]}


def test_a_script_without_the_guard_is_told_of_it(tmp_path):
    """Workers import the script; what it begins there anew, Python ends."""
    script = tmp_path / "mine.py"
    begin = "import sys; sys.path.insert(0, {root!r})\n{guard}    from anyphoto_cli.runtime.local_executor import run_local\n"
    begin += "    from tests.preprocess.deadly import DeadlyJob\n    print(len(list(run_local(DeadlyJob({out!r}), [0], 1))))\n"
    for guard, told in (
        ('if __name__ == "__main__":\n', "1"),
        ("if True:\n", "A script must do this below if __name__ =="),
    ):
        script.write_text(begin.format(root=str(ROOT), guard=guard, out=str(tmp_path)))
        done = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert told in done.stdout + done.stderr and (done.returncode == 0) == (guard != "if True:\n"), done.stderr


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for children in /proc")
def test_ctrl_c_is_not_heard_by_workers_that_still_begin(tmp_path):
    """It goes to the whole group; whoever began them ends them, without their tracebacks."""
    import signal
    import time

    script = tmp_path / "mine.py"
    script.write_text(f"""import time
time.sleep(1)  # workers, too, take a while to begin
if __name__ == "__main__":
    import sys; sys.path.insert(0, {str(ROOT)!r})
    from anyphoto_cli.runtime.local_executor import run_local
    from tests.preprocess.deadly import DeadlyJob
    print("now", flush=True)
    print(len(list(run_local(DeadlyJob({str(tmp_path)!r}), [0, 2], 2))))
""")
    run = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "now\n"
    time.sleep(0.5)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="utf-8").split()
    for child in children:
        os.kill(int(child), signal.SIGINT)
    said, err = run.communicate(timeout=60)
    assert len(children) >= 2 and said == "2\n" and not err, err
