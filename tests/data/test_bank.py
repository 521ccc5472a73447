"""The reference bank: both ways in, one way out, the same bytes, refusals."""

import numpy as np
import pytest

from anyphoto_cli.data.bank import (
    BankIdentity,
    list_references,
    loose_photos,
    mean_direction,
    read_centre,
    read_identity,
    read_index,
    read_patch,
    write_identity,
    write_index,
)
from anyphoto_cli.errors import InputError


def identity(name: str = "ana", count: int = 2) -> BankIdentity:
    rng = np.random.default_rng(1)
    patches = tuple(rng.integers(0, 256, (32, 32, 4), np.uint8) for _ in range(count))
    vectors = rng.standard_normal((count, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return BankIdentity(
        name, patches, vectors, mean_direction(vectors), tuple(f"refs/{name}/{k}.jpg" for k in range(count))
    )


def test_folders_of_people(photos):
    found = list_references(photos / "refs")
    assert len(found) == 6 and all(reference.photos and reference.centre is None for reference in found)
    assert [reference.name for reference in found] == sorted(reference.name for reference in found)


def test_every_file_of_a_person_is_a_photo_or_told(tmp_path):
    """Captions beside photos, embeddings, and what other programs leave are neither."""
    for name in (
        "1.jfif",
        "2.JPE",
        "3.mpo",
        "4.jpg",
        "4.txt",
        "4.json",
        "5.psd",
        "note.txt",
        "c.npy",
        ".x",
        "Thumbs.db",
    ):
        (tmp_path / "ana" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "ana" / name).write_bytes(b"x")
    (tmp_path / "ana" / "folder.psd").mkdir()
    [found] = list_references(tmp_path)
    (tmp_path / "loose.jpg").write_bytes(b"x")
    assert loose_photos(tmp_path) == [tmp_path / "loose.jpg"] and list_references(tmp_path) == [found]
    assert [photo.name for photo in found.photos] == ["1.jfif", "2.JPE", "3.mpo", "4.jpg"]
    assert [file.name for file in found.others] == ["5.psd", "note.txt"]


def test_multiid2m_references_with_their_centres(testdata):
    found = list_references(testdata / "formats" / "multiid2m" / "ref")
    assert [(reference.name, len(reference.photos)) for reference in found] == [("12", 2), ("345", 2)]
    for reference in found:
        assert read_centre(reference.centre).shape == (512,)


def test_multiid2m_references_as_published_are_told_how_to_unpack(testdata, tmp_path):
    """The commands are run as they stand there."""
    import subprocess
    import tarfile

    sample, ref = testdata / "formats" / "multiid2m" / "ref", tmp_path / "ref"
    (ref / "tars").mkdir(parents=True)
    for name in ("12", "345"):
        with tarfile.open(ref / "tars" / f"{name}.tar", "w") as tar:
            tar.add(sample / "untar" / name, name)
    with tarfile.open(ref / "cluster_centers.tar", "w") as tar:
        for file in (sample / "npy").iterdir():
            tar.add(file, file.name)
    with pytest.raises(
        InputError, match="holds references in tars, as MultiID-2M is published. Unpack them"
    ) as refused:
        list_references(ref)
    commands = refused.value.remedy.split(": ", 1)[1].split("; then ")[0]
    subprocess.run(["sh", "-c", commands], cwd=ref, check=True)
    assert [(one.name, len(one.photos), one.centre.name) for one in list_references(ref)] == [
        ("12", 2, "12.npy"), ("345", 2, "345.npy"),
    ]  # fmt: skip


def test_round_trip_and_stable_bytes(tmp_path):
    name = write_identity(tmp_path, 3, identity("人 :: ana"))
    assert name == "000003.npz"
    before = (tmp_path / name).read_bytes()
    write_identity(tmp_path, 3, identity("人 :: ana"))
    assert (tmp_path / name).read_bytes() == before
    found, given = read_identity(tmp_path / name), identity("人 :: ana")
    assert found.name == given.name and found.sources == given.sources
    assert all(np.array_equal(a, b) for a, b in zip(found.patches, given.patches, strict=True))
    assert np.allclose(found.embeddings, given.embeddings, atol=1e-3) and np.array_equal(found.centre, given.centre)
    empty = write_identity(tmp_path, 4, BankIdentity("nobody", (), np.zeros((0, 512), np.float32), given.centre, ()))
    assert read_identity(tmp_path / empty).patches == ()


def test_one_patch_is_read_without_the_others(tmp_path):
    file, given = tmp_path / write_identity(tmp_path, 0, identity(count=3)), identity(count=3)
    assert all(np.array_equal(read_patch(file, place), patch) for place, patch in enumerate(given.patches))
    data = file.read_bytes()
    within = data.rindex(b"IDAT") + 9  # of the last one
    file.write_bytes(data[:within] + bytes([data[within] ^ 1]) + data[within + 1 :])
    assert np.array_equal(read_patch(file, 1), given.patches[1])
    for place in (2, 3):
        with pytest.raises(InputError, match="000000.npz: is no identity of a bank"):
            read_patch(file, place)


def test_the_index_comes_last_and_stays_in_its_folder(tmp_path):
    with pytest.raises(InputError, match="holds no reference bank"):
        read_index(tmp_path)
    write_index(tmp_path, {"b": "000001.npz", "a": "../../000000.npz"}, {"a": 1, "b": 2}, {"patch_size": 112})
    files, facts = read_index(tmp_path)
    assert files == {"a": tmp_path / "000000.npz", "b": tmp_path / "000001.npz"} and facts["patch_size"] == 112
    (tmp_path / "identities.json").write_text('{"identities": [], "format": 9}')
    with pytest.raises(InputError, match="has the format 9, not 1"):
        read_index(tmp_path)
    for text in ("[]", "{", '{"identities": [1]}'):
        (tmp_path / "identities.json").write_text(text)
        with pytest.raises(InputError, match="is no index"):
            read_index(tmp_path)


def test_broken_files_are_one_line(tmp_path):
    file = tmp_path / write_identity(tmp_path, 0, identity())
    data = file.read_bytes()
    for broken in (b"", data[:500], b"PK" + data[2:400]):
        file.write_bytes(broken)
        with pytest.raises(InputError, match="is no identity of a bank"):
            read_identity(file)
    with pytest.raises(InputError, match="--refs: no such folder"):
        list_references(tmp_path / "none")
    (tmp_path / "empty" / "ana").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no reference photos. It holds one folder a person"):
        list_references(tmp_path / "empty")
