"""README's first command: the right faces at the right places, as the detector and the recogniser see them."""

import json
import time

import numpy as np
from PIL import Image

from tests.conftest import ROOT

FRIENDS = ROOT / "examples" / "three_friends.json"


def test_right_faces_at_right_places(run, tmp_path, monkeypatch):
    monkeypatch.delenv("ANYPHOTO_GENERATE_MODEL")
    began = time.process_time()
    code, said, err = run("generate", FRIENDS, "-o", tmp_path, "--annotate", "--json")
    assert code == 0, said + err
    assert time.process_time() - began < 20  # seconds of CPU: "in seconds on a CPU", as the README has it
    [told] = json.loads(said)["pictures"]
    verdict = told["verdict"]
    assert verdict["passed"] is True and [face["name"] for face in verdict["faces"]] == ["Mia", "Noor", "Theo"]
    assert all(face["state"] == "good" and face["off"] < 0.12 for face in verdict["faces"])
    record = json.loads(Image.open(tmp_path / "three_friends_seed30.png").info["anyphoto"])
    assert record["adapter"]["train_step"] > 0
    # The README's first picture is this one; rounding may differ a little from machine to machine.
    shown = np.asarray(Image.open(ROOT / "docs" / "images" / "three_friends.png").convert("RGB")).astype(int)
    made = np.asarray(Image.open(tmp_path / "three_friends_seed30.verify.png").convert("RGB")).astype(int)
    assert shown.shape == made.shape and np.abs(shown - made).mean() < 6


def test_without_the_adapter_they_are_not_known(run, tmp_path):
    code, said, _ = run(
        "generate", FRIENDS, "-o", tmp_path, "--model", "mini", "--adapter", "none", "--verify", "--json"
    )
    assert code == 3
    faces = json.loads(said)["pictures"][0]["verdict"]["faces"]
    assert sum(face["state"] == "good" for face in faces) <= 1
