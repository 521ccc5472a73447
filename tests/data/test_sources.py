"""Sources: one record an entry, in the order of the names, whatever lies there."""

import json
import os
import shutil
import tarfile

import pytest

from anyphoto_cli.data.sources import PhotoInput, list_photos, read_span
from anyphoto_cli.errors import InputError
from anyphoto_cli.preprocess.work import write_photo_list


def ids(source) -> list[str]:
    return [photo.id for photo in list_photos(source)]


def test_folders_are_walked_by_name_and_every_entry_is_one_record(tmp_path):
    for name in ("b/2.jpg", "b/10.png", "a.jpg", "z.txt", "b/.DS_Store", "ü/人 [red] {x}.jpg", "c/nested/e.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert ids(tmp_path) == [
        "a.jpg",
        "b/.DS_Store",
        "b/10.png",
        "b/2.jpg",
        "c/nested/e.webp",
        "z.txt",
        "ü/人 [red] {x}.jpg",
    ]
    records = {photo.id: photo for photo in list_photos(tmp_path)}
    assert "left by another program" in records["b/.DS_Store"].problem and not records["z.txt"].problem
    for photo in records.values():
        assert PhotoInput.from_json(json.loads(json.dumps(photo.to_json()))) == photo


def test_odd_names_stay_apart_and_fit_into_json(tmp_path):
    names = [
        b"plain.jpg",
        b"not-utf8-\xff.jpg",
        b"not-utf8-\xfe.jpg",
        b"new\nline.jpg",
        b"a::b.jpg",
        b"x" * 248 + b".jpg",
    ]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(b"x")
    found = ids(tmp_path)
    assert len(set(found)) == len(names)
    assert json.loads(json.dumps(found)) == found and all(name.encode() for name in found)
    for photo in list_photos(tmp_path):
        assert PhotoInput.from_json(json.loads(json.dumps(photo.to_json()))).file == photo.file


def test_rings_of_links_dead_links_and_pipes_are_records_not_hangs(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "refused.tar").symlink_to("n" * 300)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "ok.jpg").write_bytes(b"x")
    (tmp_path / "also").symlink_to(tmp_path / "a2", target_is_directory=True)
    records = list(list_photos(tmp_path))
    assert [photo.id for photo in records] == ["a/up", "also", "dead.jpg", "ok.jpg", "pipe.jpg", "refused.tar", "ring"]
    assert "link to a folder above" in records[0].problem


def test_tars_give_their_samples_with_places(testdata, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(testdata / "formats" / "multiid2m" / "train_rec", folder)
    photos = list(list_photos(folder))
    assert [photo.id for photo in photos] == ["re_000000.tar/000000000", "re_000000.tar/000000001"]
    for photo in photos:
        assert read_span(photo.file, photo.picture)[:2] == b"\xff\xd8"
        assert json.loads(read_span(photo.file, photo.annotation))["bboxes"]
        assert read_span(photo.file, photo.embeddings)[:6] == b"\x93NUMPY"
    assert ids(folder / "re_000000.tar") == ids(folder)
    tar = folder / "re_000000.tar"
    tar.write_bytes(tar.read_bytes()[:30_000])
    cut = list(list_photos(folder))
    assert cut[0] == photos[0] and "broken tar" in cut[-1].problem
    with pytest.raises(InputError, match="ends before the photo does"):
        read_span(photos[1].file, photos[1].picture)


def test_tar_samples_without_a_picture_and_strange_members(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (
            ("1.json", tarfile.REGTYPE),
            ("d/2.seg.jpg", tarfile.REGTYPE),
            ("3.jpg", tarfile.SYMTYPE),
            ("4.JPG", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
    photos = list(list_photos(tmp_path))
    assert [(photo.id, bool(photo.problem)) for photo in photos] == [
        ("x.tar/1", True), ("x.tar/3.jpg", True), ("x.tar/d/2", True), ("x.tar/4", False),
    ]  # fmt: skip


def test_texts_beside_a_picture_are_its_own_and_no_rows(tmp_path):
    """As kohya, diffusers and img2dataset leave them; a text without a picture stays a row that is told."""
    for name in (
        "1.png",
        "1.txt",
        "2.JPG",
        "2.caption",
        "2.Txt",
        "2.json",
        "3.txt",
        "4.doc",
        "4.txt",
        "5.jpg",
        "5.txt/x.png",
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    photos = {photo.id: photo for photo in list_photos(tmp_path / "in")}
    assert list(photos) == ["1.png", "2.JPG", "3.txt", "4.doc", "4.txt", "5.jpg", "5.txt/x.png"]
    beside = {id_: (photo.annotation, photo.caption_text) for id_, photo in photos.items() if photo.caption_text}
    assert beside == {"1.png": (None, "1.txt"), "2.JPG": ("2.json", "2.Txt")}
    for photo in photos.values():
        assert PhotoInput.from_json(json.loads(json.dumps(photo.to_json()))) == photo
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("7.jpg", "7.txt", "7.json"):
            tar.add(tmp_path / "in" / "1.txt", name)
    [photo] = list_photos(tmp_path / "0.tar")
    assert [read_span(photo.file, place) for place in (photo.caption_text, photo.annotation)] == [b"x", b"x"]
    assert PhotoInput.from_json(json.loads(json.dumps(photo.to_json()))) == photo


def test_without_texts_a_list_is_what_it_was(tmp_path):
    """A run goes on with the list it began with: this sum is that of the first version."""
    for name in ("a.jpg", "b/2.png", "notes.txt", "x.json"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    listed = write_photo_list(tmp_path / "photos.jsonl", list_photos(tmp_path / "in"))
    assert listed.sha256 == "fbbabf4d773fb0f84ed655db6673908fc7094b512cb26f971c3a9572740b35dc"


def test_lists_of_paths(tmp_path):
    file = tmp_path / "photos.jsonl"
    file.write_text(
        '{"path": "a.jpg", "caption": "two people", "url": "https://x"}\n\n[1]\n{"path": 5}\n{"path": "/b.jpg"}\nnonsense\n'
    )
    photos = list(list_photos(file))
    assert [photo.id for photo in photos] == ["a.jpg", "photos.jsonl:2", "photos.jsonl:3", "/b.jpg", "photos.jsonl:5"]
    assert (
        photos[0].caption == "two people" and photos[0].file == str(tmp_path / "a.jpg") and photos[3].file == "/b.jpg"
    )
    assert [bool(photo.problem) for photo in photos] == [False, True, True, False, True]
    file.write_text('{"path": "a.jpg", "aesthetics": %s}' % ("9" * 400))
    assert [photo.aesthetics for photo in list_photos(file)] == [None]


def test_parquet_lists(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        arrow.table({"path": ["a.jpg", None], "caption": ["x", None], "n": [1, 2]}), tmp_path / "l.parquet"
    )
    photos = list(list_photos(tmp_path / "l.parquet"))
    assert photos[0].caption == "x" and "without a path" in photos[1].problem
    parquet.write_table(arrow.table({"file": ["a.jpg"]}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="no column named path"):
        list(list_photos(tmp_path / "m.parquet"))
    good = (tmp_path / "l.parquet").read_bytes()
    size = int.from_bytes(good[-8:-4], "little")
    for name, data in {
        "cut": good[:-9],
        "page": good[:4] + b"\xff" * 8 + good[12:],
        "foot": good[: -8 - size] + b"\xff" * 8 + good[-size:],
        "none": b"",
    }.items():
        (tmp_path / f"{name}.parquet").write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}.parquet: is a damaged parquet file"):
            write_photo_list(tmp_path / "list.jsonl", list_photos(tmp_path / f"{name}.parquet"))


def test_what_img2dataset_leaves_beside_its_shards_is_no_photo(tmp_path):
    for name in ("00000.parquet", "00000_stats.json", "00001/1.jpg", "00001.parquet", "00001_stats.json", "x.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    import tarfile

    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        tar.add(tmp_path / "00001" / "1.jpg", "7.jpg")
    assert ids(tmp_path) == ["00000.tar/7", "00001/1.jpg", "x.parquet"]


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        list(list_photos(tmp_path / "none"))
    (tmp_path / "a.doc").write_bytes(b"")
    with pytest.raises(InputError, match="is no source of photos"):
        list(list_photos(tmp_path / "a.doc"))
