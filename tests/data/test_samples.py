"""Shard entries: round trips, one form for all, the same bytes, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from anyphoto_cli.data.samples import (
    PersonRecord,
    PictureRecord,
    decode_sample,
    encode_sample,
    features,
    order_people,
)
from anyphoto_cli.data.shards import Sample
from anyphoto_cli.errors import InputError
from anyphoto_cli.types import Box


def person(identity: str = "ana", x: float = 10) -> PersonRecord:
    return PersonRecord(
        Box(x, 0, x + 50, 200), 0.9, "", Box(x + 5, 5, x + 45, 50), np.arange(10.0).reshape(5, 2) + x, 0.99, identity, 0.7, 0.65, 12, "small blurred"
    )  # fmt: skip


def record(*people: PersonRecord) -> PictureRecord:
    return PictureRecord("000000007", "trip/人.jpg", "", 640, 480, "two friends", "template", Box(1, 2, 3, 4), people)


def test_round_trip_and_stable_bytes():
    vectors = np.random.default_rng(0).standard_normal((2, 512)).astype(np.float32)
    sample = encode_sample(record(person(), person("", 90)), b"\xff\xd8", vectors)
    again = encode_sample(record(person(), person("", 90)), b"\xff\xd8", vectors)
    assert sample == again
    found, jpeg, embeddings = decode_sample(sample)
    assert found.to_json() == record(person(), person("", 90)).to_json() and jpeg == b"\xff\xd8"
    assert np.allclose(embeddings, vectors, atol=2e-3) and embeddings.dtype == np.float32


def test_texts_that_utf_8_has_no_bytes_for_are_shown():
    """What came in earlier never fails where it is written last."""
    odd = replace(record(person("\udcff")), source="\ud800/1.jpg", url="\ud800", caption="\udfff", captioner="\udc00")
    found, *_ = decode_sample(encode_sample(odd, b"", np.zeros((1, 512))))
    told = found.source, found.url, found.caption, found.captioner, found.people[0].identity
    assert told == ("\\ud800/1.jpg", "\\ud800", "\\udfff", "\\udc00", "\\udcff")


def test_the_same_keys_and_kinds_in_every_sample_and_in_the_card():
    def kinds(value):
        if isinstance(value, dict):
            return {key: kinds(inner) for key, inner in value.items()}
        return [kinds(value[0])] if isinstance(value, list) else type(value)

    value = json.loads(encode_sample(record(person()), b"", np.zeros((1, 512), np.float32)).members["json"])
    assert kinds(value)["width"] is float and kinds(value)["people"][0]["tokens"] is float
    assert set(features()) == set(value) and set(features()["people"][0]) == set(value["people"][0])
    other = json.loads(
        encode_sample(record(person(""), person("b")), b"", np.zeros((2, 512), np.float32)).members["json"]
    )
    assert kinds(other) == kinds(value)


def test_numbers_that_are_none_are_refused_when_written():
    broken = PictureRecord("0", "", "", 1, 1, "", "", Box(float("nan"), 0, 0, 0), ())
    with pytest.raises(ValueError, match="Out of range"):
        encode_sample(broken, b"", np.zeros((0, 512), np.float32))
    with pytest.raises(ValueError, match="1 embeddings for 2 people"):
        encode_sample(record(person(), person()), b"", np.zeros((1, 512), np.float32))


def test_entries_of_another_form_are_one_line():
    good = encode_sample(record(person()), b"", np.zeros((1, 512), np.float32)).members
    for members, line in (
        ({**good, "json": b"{}"}, "is not an entry"),
        ({**good, "json": b"["}, "is not an entry"),
        ({**good, "npz": b"PK"}, "is not an entry"),
        (
            {**good, "npz": encode_sample(record(), b"", np.zeros((0, 512), np.float32)).members["npz"]},
            r"shape \(0, 512\) for 1",
        ),
    ):
        with pytest.raises(InputError, match=f"^train-000000.tar/000000007: .*{line}"):
            decode_sample(Sample("000000007", members), "train-000000.tar")


def test_known_people_come_first_from_left_to_right():
    assert order_people([person("", 5), person("b", 90), person("a", 40), person("", 1)]) == [2, 1, 3, 0]
