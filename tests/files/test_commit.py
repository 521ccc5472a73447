"""Whole or not at all."""

import os
from pathlib import Path

import pytest

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.commit import committed, sweep


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "deep" / "x.bin"
    with committed(target) as file:
        file.write(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert [p.name for p in target.parent.iterdir()] == ["x.bin"]


def test_bytes_are_on_the_disk_before_they_have_their_name_and_then_the_name_is(tmp_path, monkeypatch):
    told, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: told.append(os.fstat(file).st_ino) or fsync(file))
    monkeypatch.setattr(Path, "replace", lambda path, to: told.append(to.name) or replace(path, to))
    with committed(tmp_path / "x.bin") as file:
        file.write(b"abc")
    assert told == [(tmp_path / "x.bin").stat().st_ino, "x.bin", tmp_path.stat().st_ino]


def test_a_link_stays_one_and_its_target_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "x.bin")
    with committed(tmp_path / "link") as file:
        file.write(b"abc")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "x.bin").read_bytes() == b"abc"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), committed(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match="cannot write here"), committed(tmp_path / "file" / "x.bin"):
        pass


def test_another_file_that_the_block_misses_is_not_called_unwritable(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"gone\.jpg: cannot be used \(No such file"), committed(tmp_path / "x"):
        (tmp_path / "gone.jpg").read_bytes()
    assert not list(tmp_path.iterdir())


def test_a_sweep_takes_what_killed_writers_left_where_it_is_told_and_nothing_else(tmp_path):
    theirs, ours = "0123456789ab", ".x.bin.0123456789ab.tmp"
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for name in ("work/deep", f".holiday.{theirs}.tmp", ".holiday.tmp"):
        (folder / name).mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "bank").symlink_to(elsewhere)
    kept = [".x.tmp", "x.tmp", ".x.bin.0123456789AB.tmp", f"work/deep/{ours}", f".holiday.{theirs}.tmp/1.jpg",
            ".holiday.tmp/1.jpg", f".holiday.tmp/{ours}", f"../elsewhere/{ours}"]  # fmt: skip
    for name in (*kept, ours, f"work/{ours}", f"work/.{'n' * 40}.{theirs}.tmp", f".line\nend.{theirs}.tmp"):
        (folder / name).write_bytes(b"half")
    (folder / f".link.{theirs}.tmp").symlink_to(elsewhere)
    sweep(folder, "work", "bank", "shards")
    left = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and "bank" not in path.parts
    }
    assert left == set(kept[:-1]) and (elsewhere / ours).is_file() and (folder / f".link.{theirs}.tmp").is_symlink()


def test_a_signal_right_after_the_making_leaves_nothing(tmp_path, monkeypatch):
    """The handler runs as soon as the call that made the file is back, before anybody holds it."""
    kept = Path.open

    def made_and_interrupted(self, *given):
        kept(self, *given).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "open", made_and_interrupted)
    with pytest.raises(KeyboardInterrupt), committed(tmp_path / "x.png"):
        pass
    assert not list(tmp_path.iterdir())
