"""What is told of a run, by hand: a line of metrics, validation's scores, the table of a sweep."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from anyphoto_cli.config.train import DataConfig, LossConfig, TrainConfig
from anyphoto_cli.layout.schema import load_layout
from anyphoto_cli.train import metrics, validation
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.metrics import Meter
from anyphoto_cli.train.objective import Terms
from anyphoto_cli.train.resume import cut_metrics
from anyphoto_cli.train.sweep import Planned, table
from anyphoto_cli.train.validation import FaceScore, Validation, summary, validate, write_scores
from tests.conftest import small_layout


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(metrics, "step_flops", lambda *_: 0.0)
    return now


def meter(**more):
    told = TrainConfig(output_dir="run", data=DataConfig(shards="data"), loss=LossConfig(face_weight=0.5), **more)
    return Meter(told, Ranks(), None, torch.device("cpu"))


def terms(flow, face=0.0, valid=0, cosines=0.0, time=0.5, shown=0):
    parts = map(torch.tensor, (flow, flow, face))
    return Terms(*parts, valid, torch.tensor(cosines), face > 0, time, shown)


SAMPLES = [SimpleNamespace(masks=np.ones((1, 2, 2), bool))] * 2


def test_a_line_is_the_mean_of_what_was_done_and_faces_of_what_was_asked(clock):
    told = meter(max_train_steps=100)
    told.add(terms(1.0, 0.8, 3, 1.2, time=0.2, shown=4), SAMPLES)
    told.add(terms(3.0, 0.4, 1, 0.2, time=0.4, shown=2), SAMPLES)
    told.add(terms(5.0, time=0.9), SAMPLES)
    clock.seconds += 12
    line = told.line(5, norm=7.0, rate=0.1)
    wanted = {"step": 5, "flow": 3.0, "face": 0.6, "loss": 3.2, "faces": 4, "faces_shown": 6, "cosine": 0.35, "t": 0.5, "norm": 7.0,
              "lr": 0.1, "samples_per_s": 0.5}  # fmt: skip
    assert {key: line[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)
    told.add(terms(2.0), SAMPLES)
    clock.seconds += 1
    line = told.line(6, norm=7.0, rate=0.1)
    assert (line["flow"], line["face"], line["faces"], line["samples_per_s"]) == (2.0, 0.0, 0.0, 2.0)


def test_a_line_tells_the_p_of_its_own_step(clock):
    told, found = meter(max_train_steps=100), []
    for step in (5, 6, 10, 11):  # done so far: the fifth is number 4, before the first milestone
        told.add(terms(1.0), SAMPLES)
        found.append(told.line(step, 0.0, 0.0)["p"])
    assert found == pytest.approx([0.0, 0.1, 0.1, 0.2])


def test_validation_renders_what_the_layout_says(tmp_path, monkeypatch):
    layouts = (
        load_layout(small_layout(tmp_path, "a.json", seed=11, guidance_scale=2.5)),
        load_layout(small_layout(tmp_path, "b.json", seed=12, guidance_scale=4.5, steps=9)),
    )
    conditions = tuple(SimpleNamespace(faces=layout.file.stem) for layout in layouts)
    asked = []

    def pipeline(**given):
        asked.append(given)
        return SimpleNamespace(images=[Image.new("RGB", (128, 128))])

    pipeline.set_progress_bar_config = lambda **_: None
    monkeypatch.setattr(validation, "score_faces", lambda picture, layout, *_: [layout.file.stem])
    scores = validate(Validation(layouts, conditions, None), pipeline, lambda prompts: (prompts, None), None, 5)
    keys = ("faces", "guidance_scale", "num_inference_steps", "prompt_embeds", "height")
    assert [[given[key] for key in keys] for given in asked] == [
        ["a", 2.5, 2, ["two friends"], 128], ["b", 4.5, 9, ["two friends"], 128],
    ]  # fmt: skip
    assert [given["generator"].initial_seed() for given in asked] == [11, 12] and scores == ["a", "b"]


class Side(Ranks):
    """One of several ranks in threads of one process; what all say goes over a list."""

    def gather(self, value):
        SAID[self.rank] = value
        MET.wait()
        everybody = list(SAID)
        MET.wait()
        return everybody


MET, SAID = threading.Barrier(2, timeout=20), [None, None]


def test_ranks_render_a_layout_each_at_a_time_and_all_know_all_scores(tmp_path, monkeypatch):
    layouts = tuple(load_layout(small_layout(tmp_path, f"{name}.json")) for name in "abcde")
    conditions = tuple(SimpleNamespace(faces=layout.file.stem) for layout in layouts)
    drawn = [[], []]

    def rank(number):
        def pipeline(**given):
            drawn[number].append(given["faces"])
            return SimpleNamespace(images=[Image.new("RGB", (128, 128))])

        pipeline.set_progress_bar_config = lambda **_: None
        given = Validation(layouts, conditions, None), pipeline, lambda prompts: (prompts, None), tmp_path / "out", 5
        return validate(*given, Side(number, 2))

    monkeypatch.setattr(validation, "score_faces", lambda picture, layout, *_: [layout.file.stem])
    with ThreadPoolExecutor(2) as pool:
        scores = list(pool.map(rank, range(2)))
    assert drawn == [["a", "c", "e"], ["b", "d"]] and scores == [list("abcde")] * 2
    assert sorted(file.stem for file in (tmp_path / "out").iterdir()) == list("abcde")


def test_faces_that_were_not_found_count_as_such_and_in_no_mean():
    told = summary([FaceScore("a", "ana", np.nan, np.nan), FaceScore("a", "ben", 0.5, 0.2)])
    assert told == {"validation_found": 0.5, "validation_cosine": 0.5, "validation_error": 0.2}
    nobody = summary([FaceScore("a", "ana", np.nan, np.nan)])
    assert nobody["validation_found"] == 0 and np.isnan(nobody["validation_cosine"])


def test_every_face_of_every_layout_stands_in_scores_json(tmp_path):
    scores = [
        FaceScore("a", "ana", np.nan, np.nan),
        FaceScore("a", "ben", 0.51234, 0.25),
        FaceScore("b", "ana", 0.125, 0),
    ]
    write_scores(tmp_path / "step-000002", scores)
    nobody = {"name": "ana", "state": "missing", "cosine": None, "error": None}
    assert json.loads((tmp_path / "step-000002" / "scores.json").read_text()) == {"layouts": [
        {"layout": "a", "faces": [nobody, {"name": "ben", "state": "found", "cosine": 0.5123, "error": 0.25}]},
        {"layout": "b", "faces": [{"name": "ana", "state": "found", "cosine": 0.125, "error": 0}]},
    ]}  # fmt: skip


def test_a_sweep_is_compared_by_its_last_lines(tmp_path):
    lines = [{"step": n, "flow": n / 10, "cosine": None if n == 8 else n / 100} for n in range(1, 9)]
    lines[3:3] = [{"step": 3, "validation_found": 0.1, "validation_cosine": 0.9}]
    lines += [{"step": 8, "validation_found": 0.7, "validation_cosine": None}]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [Planned(name, {"seed": 3}, TrainConfig(output_dir=str(tmp_path / name), data=DataConfig(shards="data")))
            for name in ("run", "not_begun")]  # fmt: skip
    [row] = table(runs)
    assert row == {"seed": 3, "step": 8, "flow": 0.6, "face": None, "cosine": 0.05, "validation_found": 0.7,
                   "validation_cosine": 0.9, "validation_error": None}  # fmt: skip


def test_lines_of_steps_that_will_be_done_again_go_and_those_of_the_checkpoint_stay(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) for step in (1, 2, 3)]
    file.write_text("\n".join([*lines, '{"step": 4, "los']))
    for step, left in ((9, 3), (2, 2), (0, 0)):
        cut_metrics(file, step)
        assert file.read_text().splitlines() == lines[:left]
    cut_metrics(tmp_path / "none.jsonl", 3)
    assert not (tmp_path / "none.jsonl").exists()
