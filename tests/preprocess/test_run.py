"""`preprocess` from end to end: real photos, drawn photos with their truth, MultiID-2M's form, removal requests."""

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.bank import ReferenceFolder, list_references, read_identity, read_index
from anyphoto_cli.errors import InputError
from anyphoto_cli.preprocess import run as preprocess
from anyphoto_cli.preprocess.captioners.template import TemplateCaptioner
from anyphoto_cli.preprocess.discovery import good_faces
from anyphoto_cli.preprocess.estimate import estimate
from anyphoto_cli.preprocess.exclusions import read_exclusions, unused_lines
from anyphoto_cli.preprocess.references import read_references
from anyphoto_cli.preprocess.work import Work, open_photo_list
from tests.conftest import ROOT
from tests.preprocess import fakes
from tests.preprocess.runs import HERE, fake_run, hashes, rows, samples


def test_real_photos_get_exactly_their_names(run, testdata, photos, face_pack_folder, tmp_path):
    before, out = hashes(photos), tmp_path / "out"
    code, said, err = run(
        "preprocess", photos / "groups", "--refs", photos / "refs", "-o", out, "--captioner", "template",
        "--face-pack", face_pack_folder, "--person-model", testdata / "models/yolo/yolov8n-seg_int8.onnx",
        "--set", "masks=true",
    )  # fmt: skip
    assert code == 0, err
    assert "6 of 6 photos, 5 people, 1 shard (dropped 0)" in said and str(out / "report.html") in said
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


def test_a_reference_with_several_faces_is_said(run, testdata, photos, face_pack_folder, tmp_path):
    """The largest is taken, and it may be another person's."""
    (tmp_path / "refs" / "biden").mkdir(parents=True)
    shutil.copy(photos / "groups" / "obama_and_biden.jpg", tmp_path / "refs" / "biden" / "1.jpg")
    code, _, err = run("preprocess", photos / "groups", "--refs", tmp_path / "refs", "--face-pack", face_pack_folder,
                       "--person-model", testdata / "models/yolo/yolo11n_int8.onnx", "--captioner", "none",
                       "-o", tmp_path / "out", "--stages", "detect,match")  # fmt: skip
    assert code == 0 and "reference biden/1.jpg shows 3 faces: the largest one is taken" in err, err
    told = json.loads((tmp_path / "out" / "bank" / "identities.json").read_text())
    assert told["remarks"] == [["biden/1.jpg", "shows 3 faces: the largest one is taken"]]


def test_readers_open_the_shards(whole, tmp_path):
    import webdataset
    from datasets import load_dataset

    shards = sorted(str(file) for file in (whole / "shards").glob("*.tar"))
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert len(read) == 40 and read[0]["jpg"].shape == (128, 160, 3) and read[0]["json"]["width"] == 160.0
    written = samples(whole)
    for streaming in (True, False):  # by the card, which names every column
        table = load_dataset(str(whole / "shards"), split="train", streaming=streaming, cache_dir=str(tmp_path))
        for row, (record, jpeg, embeddings) in zip(table, written, strict=True):
            assert row["json"] == record.to_json() and row["jpg"].size == Image.open(io.BytesIO(jpeg)).size
            assert np.array_equal(np.asarray(row["npz"]["embeddings"], np.float32), embeddings)


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


def seen_by(out):
    return open_photo_list(out / "work" / "photos.jsonl"), Work(out / "work"), PreprocessConfig(**fakes.SETTINGS)


def test_copies_of_a_picture_are_no_other_photos(drawn, tmp_path):
    """Three saved copies of one portrait make nobody known from three photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n, name in enumerate(("a", "a (1)", "b", "c", "a (2)")):
        picture = Image.fromarray(fakes.paint([fakes.colour_of(1)], seed={"b": 1, "c": 2}.get(name, 0)))
        picture.save(folder / f"{name}.png", compress_level=n)
    fake_run(drawn, tmp_path / "out", sources=folder, stages=["detect"])
    photos, work, config = seen_by(tmp_path / "out")
    ids = [photo.id for photo in photos.photos(0)]
    assert [ids[n] for n in good_faces(photos, work, config).photo] == ids
    once = config.model_copy(update={"near_duplicates": 0})
    assert [ids[n] for n in good_faces(photos, work, once).photo] == ["a (1).png", "b.png", "c.png"]


@pytest.mark.parametrize("colour, told", [(1, []), (2, [("ana.npy", "is a centre of another face model, or of another person")])])  # fmt: skip
def test_a_centre_of_another_face_model_is_not_used(drawn, tmp_path, colour, told):
    """MultiID-2M's are antelopev2's."""
    crop = np.tile(fakes.colour_of(colour), (1, 112, 112, 1))
    np.save(tmp_path / "ana.npy", fakes.FakeFaces().embed(crop))
    [folder] = [one for one in list_references(drawn / "refs") if one.name == "p1"]
    config = PreprocessConfig(**fakes.SETTINGS)
    given = ReferenceFolder("ana", folder.photos, tmp_path / "ana.npy", (tmp_path / "1.psd",))
    identity = read_references(given, fakes.FakeFaces(), config)
    assert len(identity.patches) == 2 and identity.centre @ identity.embeddings[0] > 0.9
    assert list(identity.left_out) == sorted([("ana/1.psd", "has no photo's name"), *told])
    nobody = read_references(ReferenceFolder("ben", (), None, ()), fakes.FakeFaces(), config)
    assert nobody.left_out == (("ben", "has no photo that will do"),)


def test_captions_that_lie_beside_photos(drawn, tmp_path):
    """kohya's and diffusers' folders, img2dataset's tars; what another program's json says is nobody's caption."""
    folder = tmp_path / "photos"
    folder.mkdir()
    texts = {
        "0.txt": "\ufeffA man.\r\nHe smiles.\n".encode(), "1.caption": b"1boy,\nbeach\nred shirt\n", "2.json": b'{"shapes": []}',
        "3.txt": b" \n", "3.json": b'{"caption": "a sign", "key": "3"}', "4.txt": b"caf\xe9", "5.txt": b"x" * 70_000,
    }  # fmt: skip
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    for n in range(6):
        shutil.copy(drawn / "photos" / f"00{n}.png", folder / f"{n}.png")
    with tarfile.open(folder / "t.tar", "w") as tar:
        for name, file in (
            ("9.jpg", "0.png"),
            ("9.txt", "1.caption"),
            ("9.json", "3.json"),
            ("a.jpg", "1.png"),
            ("a.json", "3.json"),
        ):
            tar.add(folder / file, name)
    fake_run(drawn, tmp_path / "out", sources=folder)
    counted = "A photo of two people."
    assert {name: row["caption"] for name, row in rows(tmp_path / "out").items()} == {
        "0.png": "A man. He smiles.", "1.png": "1boy, beach, red shirt", "2.png": counted, "3.png": "a sign", "4.png": "caf",
        "5.png": counted, "t.tar/9": "1boy, beach, red shirt", "t.tar/a": "a sign",
    }  # fmt: skip


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


@pytest.mark.parametrize("discover", [False, True])
def test_removal_requests_after_a_run_take_effect_in_it(drawn, tmp_path, monkeypatch, discover):
    """As if they had been there from the start, without a look at a photo or a question for a caption."""
    gone, out = tmp_path / "exclude.txt", tmp_path / "out"
    config = PreprocessConfig(**fakes.SETTINGS | {"discover": discover})

    def again(folder, exclude=None, **more):
        return preprocess(
            drawn / "photos", folder, None if discover else drawn / "refs", config, HERE, exclude=exclude, **more
        )

    again(out)
    person = "person_002" if discover else "p1"
    gone.write_text("source: 003.png\n")
    again(out, gone)
    gone.write_text(f"source: 003.png\nidentity: {person}\n")
    with pytest.raises(InputError, match="--exclude: names others than stage match went by. Add stage match"):
        again(out, gone, stages=["caption", "pack"])
    with pytest.raises(InputError, match="match_threshold: this run began with"):
        preprocess(drawn / "photos", out, None if discover else drawn / "refs",
                   config.model_copy(update={"match_threshold": 0.9}), HERE, exclude=gone)  # fmt: skip
    assert (out / "manifest.json").is_file()
    again(tmp_path / "fresh", gone)

    def never(*_, **__):
        raise AssertionError("asked again")

    with monkeypatch.context() as nothing:
        nothing.setattr(fakes.FakePersons, "persons", never)
        nothing.setattr(fakes.FakeFaces, "detect", never)
        nothing.setattr(TemplateCaptioner, "captions", never)
        assert again(out, gone).finished
    assert hashes(out) == hashes(tmp_path / "fresh")
    told = {name: row["reason"] for name, row in rows(out).items()}
    assert told["003.png"] == "excluded source" and "shows an excluded person" in told.values()
    assert person not in read_index(out / "bank")[0] and not any("003.png" in read_identity(file).sources
                                                                 for file in read_index(out / "bank")[0].values())  # fmt: skip
    for record, _, _ in samples(out):
        assert record.source != "003.png" and person not in [one.identity for one in record.people]
    for name in ("manifest.json", "bank/identities.json", "report.jsonl", "report.html"):
        text = re.sub(rb"base64,[\w+/=]+", b"", (out / name).read_bytes())
        assert not re.search(rb"\b%s\b" % person.encode(), text), name
    assert "003.png" not in (out / "report.html").read_text()
    with pytest.raises(InputError, match="leaves people or photos out, now none are named. Give its --exclude again"):
        again(out)
    gone.write_text("")
    again(out, gone)
    again(tmp_path / "all", gone)
    assert hashes(out) == hashes(tmp_path / "all") and not any(row["reason"] for row in rows(out).values())


def test_captions_of_who_is_left_out_are_not_told_and_asked_for_anew_before_they_are_packed(drawn, whole, tmp_path):
    """Stage match decides who stays; calls without stage caption go by it as well."""
    gone, out = tmp_path / "exclude.txt", tmp_path / "out"
    shutil.copytree(whole, out)
    gone.write_text("identity: p1\n")
    fake_run(drawn, out, exclude=gone, stages=["match", "pack"])
    assert {bool(row["caption"]) == (row["reason"] == "") for row in rows(out).values()} == {True}
    fake_run(drawn, out, exclude=gone)
    gone.write_text("")
    for stages in (["match", "pack"], ["pack"]):
        with pytest.raises(
            InputError, match=r"--stages: stage caption is not done: photos of 5 pieces .* caption,pack"
        ):
            fake_run(drawn, out, exclude=gone, stages=stages)
    assert not (out / "manifest.json").exists()
    fake_run(drawn, out, exclude=gone, stages=["caption", "pack"])
    assert hashes(out / "shards") == hashes(whole / "shards")


def test_a_bank_that_an_earlier_version_numbered_otherwise_is_made_anew(drawn, tmp_path):
    """It gave the next number to the next who was in it: nobody may get another one's face."""
    (tmp_path / "exclude.txt").write_text("identity: p1\n")
    out = tmp_path / "out"
    fake_run(drawn, out, exclude=tmp_path / "exclude.txt", stages=["detect", "match"])
    before = hashes(out)
    (out / "bank" / "identities.json").unlink()
    (out / "bank" / "000003.npz").unlink()
    (out / "bank" / "000002.npz").rename(out / "bank" / "000001.npz")
    for file in (out / "work" / "match").iterdir():
        file.unlink()
    fake_run(drawn, out, exclude=tmp_path / "exclude.txt", stages=["match"])
    assert hashes(out) == before


def test_discovery_passes_over_what_must_not_be_in_it_and_lines_that_fit_nothing_are_told(drawn, tmp_path):
    """What is dropped from the shards must not come back from the bank as a reference."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    told = {n: {"path": f"beach/{n}.png" if n < 2 else f"{n}.png", "url": f"https://x/{n}"} for n in range(6)}
    for n, row in told.items():
        (folder / row["path"]).parent.mkdir(exist_ok=True)
        shutil.copy(drawn / "photos" / f"00{n}.png", folder / row["path"])
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, told.values())))
    fake_run(drawn, tmp_path / "out", sources=folder / "list.jsonl", stages=["detect"])
    lines = [
        "source: beach/",
        "url: https://x/4",
        "https://x/2  # asked for",
        "p1",
        "identity: p9",
        "4.pngg",
        "url:",
        "# p8",
    ]
    (tmp_path / "exclude.txt").write_text("\n".join(lines))
    exclusions = read_exclusions(tmp_path / "exclude.txt")
    photos, work, config = seen_by(tmp_path / "out")
    assert set(good_faces(photos, work, config).photo) == set(range(6))
    assert set(good_faces(photos, work, config, exclusions).photo) == {3, 5}
    assert unused_lines(exclusions, photos, work, ["p0", "p1"]) == ["identity: p9", "4.pngg", "url:"]
    assert exclusions.of_photo("5.png", "", [""]) == ""  # a line without a name is nobody's


# ---- before and beside it


def test_a_dry_run_estimates_and_writes_nothing(run, drawn, tmp_path):
    settings = [f"--set={key}={value}" for key, value in fakes.SETTINGS.items()]
    code, said, err = run(
        "preprocess", drawn / "photos", "--refs", drawn / "refs", "-o", tmp_path / "out", *settings, "--dry-run"
    )
    assert code == 0, err
    assert "40 photos, 8 references (not written: dry run)" in said and "hours with" in said
    told = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    assert told["captions by template"] == "no model looks at the photos" and "hours" in told["shards"]
    assert told["matching"].endswith("hours in one process") and "hours" in told["reference bank"]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_the_bank_and_names_the_captioner(drawn, tmp_path):
    """Its bank is as large as the one that a run writes."""
    config = PreprocessConfig(**fakes.SETTINGS | {"captioner": "openai", "caption_url": "http://127.0.0.1:1/v1"})
    guess = estimate(drawn / "photos", drawn / "refs", config, HERE, out=tmp_path / "out")
    fake_run(drawn, tmp_path / "out", stages=["detect", "match"])
    bank = sum(file.stat().st_size for file in (tmp_path / "out" / "bank").glob("*.npz")) / 1e9
    assert guess.bank_gigabytes == pytest.approx(bank, rel=0.4) and guess.gigabytes > guess.bank_gigabytes
    assert guess.captions.startswith("captions by Qwen/Qwen2.5-VL-72B-Instruct: about 0.0 H100 hours")
    small = config.model_copy(update={"caption_model": "some/Model", "discover": True})
    found = estimate(drawn / "photos", None, small, HERE, out=tmp_path / "more")
    assert found.captions.startswith("captions by some/Model: not known; about") and found.bank_gigabytes is None
    assert any("not known before the people are" in line for line in found.lines())


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
