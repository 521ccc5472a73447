"""A threshold is measured over known people, kept with the pack's hash, and never taken for another pack's."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest

from anyphoto_cli.errors import InputError
from anyphoto_cli.faces import pair_cosines
from anyphoto_cli.faces.calibration import calibrated, calibration_file, find_calibration, write_calibration


def people(count, photos, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    for k in range(count):
        middle = rng.normal(size=512)
        rows = middle / np.linalg.norm(middle) + spread * rng.normal(size=(photos, 512)) / 512**0.5
        found[f"p{k}"] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def test_one_in_a_hundred_strangers_is_above():
    found = calibrated(people(40, 3), "pack", "ab")
    assert found.same_pairs == 40 * 3 and found.different_pairs == 40 * 39 // 2 * 9
    rows = np.concatenate(list(people(40, 3).values()))
    owner = np.repeat(np.arange(40), 3)
    cosines = (rows @ rows.T)[owner[:, None] < owner[None]]
    assert abs(float((cosines > found.threshold).mean()) - 0.01) < 0.002
    assert found.false_reject == 0 and found.same_p05 > found.threshold


@pytest.mark.parametrize("at_once", [60, pair_cosines.AT_ONCE])
@pytest.mark.parametrize("spread", [0.3, 3])
def test_some_pairs_at_a_time_tell_what_all_would(monkeypatch, at_once, spread):
    """Thresholds are held against later: to the last digit, however many pairs are looked at together."""
    monkeypatch.setattr(pair_cosines, "AT_ONCE", at_once)
    bank = {name: rows[: 1 + k % 5] for k, (name, rows) in enumerate(people(24, 5, spread).items())}
    rows, owner = (
        np.concatenate(list(bank.values())).astype(float),
        np.repeat(np.arange(24), [*map(len, bank.values())]),
    )
    first, second = np.triu_indices(len(rows), 1)
    cosines, alike = (rows @ rows.T)[first, second], owner[first] == owner[second]
    same, different = cosines[alike], cosines[~alike]
    threshold = round(np.quantile(different, 0.99), 4)
    wanted = {
        "threshold": threshold, "same_pairs": len(same), "same_mean": same.mean(), "same_p05": np.quantile(same, 0.05),
        "different_pairs": len(different), "different_mean": different.mean(), "different_max": different.max(),
        "false_reject": (same < threshold).mean(),
    }  # fmt: skip
    found = calibrated(bank, "pack", "ab").model_dump()
    assert {name: found[name] for name in wanted} == {name: round(value, 4) for name, value in wanted.items()}


def test_many_photos_take_little_memory():
    """All pairs of 2,400 at once were 123 MB, and of 40,000 would be 34 GB."""
    bank = people(60, 40)
    tracemalloc.start()
    calibrated(bank, "pack", "ab")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 80e6


def test_one_photo_each_says_nothing_of_one_person():
    found = calibrated(people(5, 1), "pack", "ab")
    assert found.same_pairs == 0 and found.same_mean is None and found.false_reject is None


@pytest.mark.parametrize("bank", [{}, people(1, 4), {"a": np.zeros((0, 512), np.float32), **people(1, 2)}])
def test_one_person_is_refused(bank):
    with pytest.raises(InputError, match="Two are needed"):
        calibrated(bank, "pack", "ab")


class Pack:
    """An analyzer as far as it matters here."""

    name, folder = "some/pack", None

    def __init__(self, sha256):
        self.sha256 = sha256


def test_it_is_found_again_for_these_models_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path))
    pack, other = Pack("a" * 64), Pack("a" * 12 + "b" * 52)  # the same beginning, and so the same file
    written = calibrated(people(3, 2), "pack", pack.sha256)
    write_calibration(written, calibration_file(pack))
    assert find_calibration(pack) == written and find_calibration(other) is None
    calibration_file(pack).write_text(json.dumps({"pack": "pack"}))
    with pytest.raises(InputError, match="is damaged"):
        find_calibration(pack)


def test_the_embedded_pack_brings_its_own():
    from anyphoto_cli.faces.packs import open_faces

    found = find_calibration(open_faces("mini"))
    assert (
        found is not None and found.people >= 200 and 0.1 < found.threshold < 0.4 and found.same_p05 > found.threshold
    )


def test_real_people(run, photos, face_pack_folder, tmp_path):
    asked = ["faces", "calibrate", photos / "refs", "--face-pack", face_pack_folder, "-o", tmp_path / "c.json"]
    code, _, err = run(*asked)
    assert code == 2 and "only 59 pairs of different people. 100 are needed" in err and "--force" in err, err
    assert not (tmp_path / "c.json").exists()
    code, said, err = run(*asked, "--force", "--json")
    assert code == 0, err
    told = json.loads(said)
    assert told["people"] == 6 and told["threshold"] < 0.2 < told["same_p05"] and told["forced"] is True
    assert "pairs of different people" in err
    assert json.loads((tmp_path / "c.json").read_text())["sha256"] == told["sha256"]


def test_one_person_under_two_names_is_told(run, photos, face_pack_folder, tmp_path):
    """The threshold lies above her own pairs then: nobody would be known any more."""
    refs = tmp_path / "refs"
    shutil.copytree(photos / "refs", refs)
    shutil.copytree(refs / "obama", refs / "barack")
    code, _, err = run(
        "faces", "calibrate", refs, "--face-pack", face_pack_folder, "-o", tmp_path / "c.json", "--force"
    )
    assert code == 0 and "verify would not know them. The two most alike are barack and obama (1.00)" in err, err


def test_a_folder_without_people_is_refused(run, tmp_path):
    code, _, err = run("faces", "calibrate", tmp_path, "--face-pack", "mini")
    assert code == 2 and "no reference photos" in err
