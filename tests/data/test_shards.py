"""Shards: the same bytes, whole samples or an error, readable by webdataset's rules."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyphoto_cli.data.shards import (
    Manifest,
    Sample,
    ShardRecord,
    read_manifest,
    read_shard,
    shard_name,
    verify_shard,
    write_manifest,
    write_shard,
)
from anyphoto_cli.errors import InputError

members = st.fixed_dictionaries(
    {"jpg": st.binary(max_size=900), "json": st.binary(max_size=99), "npz": st.binary(max_size=1100)}
)


def samples(count: int) -> list[Sample]:
    return [Sample(f"{k:09d}", {"jpg": b"j" * (k * 37 % 700), "json": b"{}", "npz": b"n" * k}) for k in range(count)]


@given(st.lists(members, max_size=6))
@settings(max_examples=40)
def test_round_trip_and_record(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("shards")
    written = [Sample(f"{k:09d}", content) for k, content in enumerate(contents)]
    record = write_shard(folder / "train-000000.tar", written)
    assert list(read_shard(folder / record.name)) == written
    assert record.samples == len(written) and record.bytes == (folder / record.name).stat().st_size
    verify_shard(folder, record)
    again = write_shard(folder / "again.tar", iter(written))
    assert again.sha256 == record.sha256  # no clock, no owner, no order of its own


def test_members_are_plain_ustar(tmp_path):
    write_shard(tmp_path / "a.tar", samples(3))
    with tarfile.open(tmp_path / "a.tar") as tar:
        found = tar.getmembers()
    assert [m.name for m in found[:4]] == ["000000000.jpg", "000000000.json", "000000000.npz", "000000001.jpg"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found} == {(0, 0, 0, "", "", 0o644)}
    assert (tmp_path / "a.tar").read_bytes()[257:263] == b"ustar\0"
    assert shard_name("train", 12) == "train-000012.tar"


@pytest.mark.parametrize(
    "bad",
    [
        [Sample("000000001", samples(1)[0].members), Sample("000000000", samples(1)[0].members)],
        [Sample("000000001", samples(1)[0].members)] * 2,
        [Sample("0.1", samples(1)[0].members)],
        [Sample("000000001", {"jpg": b"", "json": b""})],
        [Sample("000000001", {"jpg": b"", "json": b"", "npz": b"", "txt": b""})],
    ],
)
def test_wrong_samples_leave_no_file(tmp_path, bad):
    with pytest.raises(ValueError, match="sample"):
        write_shard(tmp_path / "a.tar", bad)
    assert not list(tmp_path.iterdir())


def test_every_cut_and_every_flip_is_noticed(tmp_path):
    """Not by the tar format, which stays silent in most cases: by the manifest."""
    whole = tmp_path / "train-000000.tar"
    record = write_shard(whole, samples(6))
    data = whole.read_bytes()
    for at in range(0, len(data), 199):
        whole.write_bytes(data[:at])
        with pytest.raises(InputError, match="bytes instead of"):
            verify_shard(tmp_path, record)
        flipped = bytearray(data)
        flipped[at] ^= 4
        whole.write_bytes(flipped)
        with pytest.raises(InputError, match="is damaged"):
            verify_shard(tmp_path, record)
    whole.unlink()
    with pytest.raises(InputError, match="is missing"):
        verify_shard(tmp_path, record)


def test_a_reader_never_hands_out_a_partial_sample(tmp_path):
    """Whatever the cut, what comes out before the error is whole."""
    whole = tmp_path / "a.tar"
    write_shard(whole, samples(5))
    data, known = whole.read_bytes(), samples(5)
    for at in range(0, len(data), 128):
        whole.write_bytes(data[:at])
        got = []
        try:
            for sample in read_shard(whole):
                got.append(sample)
        except InputError:
            pass
        assert got == known[: len(got)]


def tar_of(names: list[str], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (tar_of(["000000000.jpg", "000000000.json"]), "sample 000000000 has no npz"),
        (tar_of(["000000000.jpg", "000000000.jpg"]), "holds '000000000.jpg' twice"),
        (tar_of(["000000000.pyd"]), "holds a foreign member"),
        (tar_of(["../../etc/passwd"]), "holds a foreign member"),
        (tar_of(["000000000.jpg"], tarfile.SYMTYPE), "holds a foreign member"),
        (b"no tar at all" * 100, "is a broken shard"),
    ],
)
def test_foreign_shards_are_refused_in_one_line(tmp_path, data, line):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(InputError, match=line):
        list(read_shard(tmp_path / "x.tar"))


def test_manifest_round_trip_and_refusals(tmp_path):
    with pytest.raises(InputError, match=r"has no manifest.json"):
        read_manifest(tmp_path)
    manifest = Manifest((ShardRecord("train-000000.tar", "0" * 64, 10, 3),), {"config": "abc", "samples": 3})
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest and manifest.samples == 3
    for text in ("[]", "{", '{"shards": [{"name": 1}]}', '{"shards": null}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match="is not a manifest"):
            read_manifest(tmp_path)
    write_manifest(tmp_path, Manifest((ShardRecord("../x.tar", "0", 1, 1),), {}))
    with pytest.raises(InputError, match="outside its folder"):
        read_manifest(tmp_path)
