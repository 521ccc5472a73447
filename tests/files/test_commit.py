"""Whole or not at all."""

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


def test_a_sweep_takes_what_killed_writers_left_and_nothing_else(tmp_path):
    (tmp_path / ".checkpoint-2.tmp" / ".state.json.abc.tmp").mkdir(parents=True)
    (tmp_path / "deep").mkdir()
    for name in (".x.bin.abc.tmp", "deep/.y.tmp", ".checkpoint-2.tmp/weights"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "deep" / "kept.tmp").write_bytes(b"whole")
    sweep(tmp_path)
    assert [p.name for p in sorted(tmp_path.rglob("*"))] == ["deep", "kept.tmp"]


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
