"""MultiID-2M's files: read as published, and never run."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest

from anyphoto_cli.data.multiid2m import is_annotation, read_annotation, read_embeddings
from anyphoto_cli.errors import InputError


def npy(value, allow_pickle: bool = True) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_the_published_form_is_read(testdata):
    folder = testdata / "formats" / "multiid2m"
    for shard in ("train_rec", "train_cp"):
        with tarfile.open(folder / shard / "re_000000.tar") as tar:
            for name in {member.name.partition(".")[0] for member in tar.getmembers()}:
                said = read_annotation(tar.extractfile(f"{name}.json").read(), name)
                embeddings = read_embeddings(tar.extractfile(f"{name}.npy").read(), name)
                assert len(said.faces) == len(embeddings) and embeddings.shape[1] == 512
                assert np.allclose(np.linalg.norm(embeddings, axis=1), 1)
    for file in [*(folder / "ref").rglob("*.npy")]:
        assert read_embeddings(file.read_bytes(), file.name).shape == (1, 512)


def test_boxes_are_shifted_by_the_crop_and_names_may_be_missing():
    said = read_annotation(
        json.dumps(
            {"bboxes": [[40, 30, 90, 95], [100, 30, 150, 95]], "name": ["12"], "crop": [10, 5, 200, 200]}
        ).encode(),
        "x",
    )
    assert said.faces[0].box == (30, 25, 80, 90) and [face.identity for face in said.faces] == ["12", ""]
    for key, value in (("names", ["none", "7"]), ("keyword", "none 7")):
        said = read_annotation(json.dumps({"bboxes": [[0, 0, 1, 1]] * 2, key: value}).encode(), "x")
        assert [face.identity for face in said.faces] == ["", "7"]
    empty = read_annotation(b"{}", "x")
    assert empty.faces == () and empty.caption == "" and np.isnan(empty.aesthetics)


def test_captions_of_img2dataset_and_json_of_other_programs():
    told = {"caption": "two dogs", "url": "https://x", "key": "000000000", "status": "success", "exif": "{}"}
    assert read_annotation(json.dumps(told).encode(), "x").caption == "two dogs"
    assert read_annotation(json.dumps(told | {"caption_en": "ours"}).encode(), "x").caption == "ours"
    assert read_annotation(b'{"caption": ["no", "text"]}', "x").caption == ""
    assert is_annotation(json.dumps(told).encode())
    assert not any(is_annotation(data) for data in (b'{"shapes": [], "imagePath": "1.png"}', b"[1]", b"{", b"\xff"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"bboxes": [[1, 2]]}', "has no numbers in bboxes"),
        (b'{"bboxes": [["a", 1, 2, 3]]}', "has no numbers in bboxes"),
        (b'{"bboxes": 5}', "has no numbers in bboxes"),
        (b'{"bboxes": [[0, 0, 1, 1]], "crop": {"x": 1}}', "has no numbers in crop"),
        (b'{"bboxes": [[0, 0, 1, 1]], "nsfw_score": [1]}', "has no numbers in nsfw_score"),
        (b"[" * 5000, "is not JSON"),
    ],
)
def test_broken_annotations_are_one_line(data, told):
    with pytest.raises(InputError, match=f"^train/7: {told}$"):
        read_annotation(data, "train/7")


def test_what_is_null_is_not_there():
    keys = ("bboxes", "name", "crop", "url", "caption", "aesthetics_score", "nsfw_score")
    said = read_annotation(json.dumps(dict.fromkeys(keys)).encode(), "x")
    assert said.faces == () and said.url == said.caption == ""
    assert np.isnan(said.aesthetics) and np.isnan(said.nsfw)


class Canary:
    """A pickle that would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_wants_more_than_arrays_runs_nothing(tmp_path):
    canary = tmp_path / "canary"
    for payload in (Canary(canary), {"embeddings": Canary(canary)}):
        wrapped = np.empty((), object)
        wrapped[()] = payload
        with pytest.raises(InputError, match=r"^x: is a pickle that wants to load (posix|os).system. Nothing was run"):
            read_embeddings(npy(wrapped), "x")
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_dicts_of_arrays_are_read_whatever_the_protocol(protocol):
    vectors = np.random.default_rng(0).standard_normal((3, 512))
    wrapped = np.empty((), object)
    wrapped[()] = {"bboxes": [[1.0, 2, 3, 4]], "embeddings": vectors, "score": np.float64(0.5)}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    pickle.dump(wrapped, buffer, protocol=protocol)
    found = read_embeddings(buffer.getvalue(), "x")
    assert np.allclose(found, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)
    assert read_embeddings(npy(vectors[0], False), "x").shape == (1, 512)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "is a broken npy file"),
        (b"\x93NUMPY\x01\x00", "is a broken npy file"),
        (npy(np.zeros((2, 512)), False), "an embedding of zeros"),
        (npy(np.full((1, 512), np.nan), False), "no embeddings of 512 numbers"),
        (npy(np.ones((2, 128)), False), "no embeddings of 512 numbers"),
        (npy(np.array({"boxes": 1}, dtype=object)), "holds no embeddings"),
    ],
)
def test_broken_embeddings_are_one_line(data, line):
    with pytest.raises(InputError, match=line):
        read_embeddings(data, "x")
