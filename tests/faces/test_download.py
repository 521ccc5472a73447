"""A named pack comes from insightface's release page: once for all processes, whole or not at all."""

import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.faces.packs import find_pack


@pytest.fixture
def models(tmp_path, monkeypatch):
    """insightface's folder of a user who has nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path / "anyphoto"))
    return tmp_path / ".insightface" / "models"


@pytest.fixture
def release(monkeypatch):
    """The release page: what was fetched, and what is to happen while a zip is written."""
    fetched, breaking = [], []

    def download_file(url, path, overwrite):
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # as theirs does
        fetched.append(url.rpartition("/")[2])
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("antelopev2/scrfd.onnx", b"detector")  # antelopev2.zip has a folder of its own
            time.sleep(0.2)
            if breaking:
                raise breaking.pop()
            file.writestr("antelopev2/glintr100.onnx", b"recogniser")

    monkeypatch.setattr("insightface.utils.storage.download_file", download_file)
    return fetched, breaking


def test_ranks_that_start_at_once_download_a_pack_once(models, release):
    """Each would unpack over the others, who open what they find."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(find_pack, ["antelopev2"] * 4))
    assert release[0] == ["antelopev2.zip"]
    assert set(found) == {models / "antelopev2" / "antelopev2"}
    assert sorted(file.name for file in found[0].iterdir()) == ["glintr100.onnx", "scrfd.onnx"]
    assert [file.name for file in models.iterdir()] == ["antelopev2"]  # no zip of as many bytes beside it


def test_a_download_that_breaks_off_leaves_nothing(models, release):
    release[1].append(ConnectionError("cut"))
    with pytest.raises(EnvironmentFault, match=r"antelopev2.*could not be downloaded \(ConnectionError\)"):
        find_pack("antelopev2")
    assert not list(models.iterdir())
    assert (find_pack("antelopev2") / "glintr100.onnx").read_bytes() == b"recogniser"


def test_a_folder_without_models_is_told_and_left(models, release):
    (models / "antelopev2").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no .onnx files.*download it anew"):
        find_pack("antelopev2")
    assert release[0] == []


def test_nobody_waits_where_nothing_can_be_written(models, release, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path / "file" / "home"))
    assert find_pack("antelopev2").is_dir()
