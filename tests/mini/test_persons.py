"""The shipped person detector: its form, its boxes, and what it learns from."""

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import anyphoto_cli.mini
from anyphoto_cli.mini.pretrain import person_report, person_samples, persons
from anyphoto_cli.mini.pretrain.album import fresh_pictures, open_album
from tests.mini.card import told

FILE = Path(anyphoto_cli.mini.__file__).parent / "weights" / "persons" / "yolo_mini.onnx"


@pytest.fixture(scope="module")
def pictures():
    return fresh_pictures(96)


@pytest.fixture(scope="module")
def detector():
    return person_report.PersonDetector(FILE)


def test_file_has_the_form_of_a_yolo_export():
    model = onnx.load(FILE)
    cells = sum((persons.INPUT // stride) ** 2 for stride in persons.STRIDES)
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("images", "output0")
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, 3, persons.INPUT, persons.INPUT]
    assert [d.dim_value for d in made.type.tensor_type.shape.dim] == [1, 4 + 1, cells]
    assert FILE.stat().st_size <= 1_000_000
    told = {prop.key: prop.value for prop in model.metadata_props}
    assert ast.literal_eval(told["names"]) == {0: "person"} and told["task"] == "detect"
    assert ast.literal_eval(told["imgsz"]) == [persons.INPUT] * 2 and told["stride"] == "32"
    assert told["license"] == "Apache-2.0" and told["end2end"] == "False"
    assert ast.literal_eval(told["args"])["nms"] is False


def test_finds_people_that_no_training_has_seen(pictures):
    report = person_report.measure_persons(FILE, pictures)
    assert report["ap50"] >= told("persons", "ap50") - 0.02, report
    assert report["recall"] >= told("persons", "recall") - 0.03, report
    assert report["precision"] >= told("persons", "precision") - 0.04, report


def test_boxes_do_not_depend_on_the_picture_s_size(pictures, detector):
    """A picture three times as large gives the same boxes, three times as large."""
    for drawn in pictures[:12]:
        large = drawn.pixels.repeat(3, 0).repeat(3, 1)
        first, second = detector(drawn.pixels, 0.5), detector(large, 0.4)
        shares = person_report.overlaps(first[:, :4], second[:, :4] / 3)
        assert len(first) and shares.max(1).min() > 0.8


@pytest.mark.parametrize("fill", [0, 114, 255, "noise", "sky"])
def test_nobody_in_a_picture_of_nobody(detector, fill):
    empty = np.zeros((128, 192, 3), np.uint8)
    if fill == "noise":
        empty[:] = np.random.default_rng(0).integers(0, 256, empty.shape)
    elif fill == "sky":
        empty[:] = np.linspace([90, 160, 230], [230, 240, 250], 128)[:, None].astype(np.uint8)
    else:
        empty[:] = fill
    assert len(detector(empty, 0.4)) == 0


def test_ultralytics_own_post_processing_gives_the_same_boxes(pictures, detector):
    ultralytics = pytest.importorskip("ultralytics", exc_type=ImportError)
    model = ultralytics.YOLO(FILE, task="detect")
    assert model.names == {0: "person"}
    for drawn in pictures[:24]:
        (result,) = model.predict(drawn.pixels[..., ::-1].copy(), conf=0.25, iou=0.7, verbose=False)
        theirs, ours = result.boxes.data.cpu().numpy(), detector(drawn.pixels)
        theirs = theirs[np.argsort(-theirs[:, 4], kind="stable")]
        np.testing.assert_allclose(theirs[:, :5], ours, atol=0.01)
        assert not theirs[:, 5].any()


def test_average_precision_by_hand():
    truth = [np.array([[0, 0, 10, 10], [20, 0, 30, 10.0]]), np.array([[0, 0, 10, 10.0]])]
    found = [
        np.array([[0, 0, 10, 10, 0.9], [1, 0, 11, 10, 0.8], [20, 0, 30, 10, 0.6]]),  # right, twice the same, right
        np.array([[40, 40, 50, 50, 0.7]]),  # nobody there; the third person is missed
    ]
    # In order of score: right 1/1, wrong, wrong, right 2/4; the third of three people is never found.
    assert person_report.average_precision(found, truth, 0.5) == pytest.approx((1 + 0.5) / 3)
    assert person_report.average_precision(found[:1], truth[:1], 0.95) == pytest.approx((1 + 2 / 3) / 2)


def test_every_person_in_training_has_cells_and_hidden_ones_are_left_out(tmp_path):
    album = open_album(tmp_path, 24, tell=lambda line: None)
    samples = [person_samples.person_sample(album, number) for number in range(40)]
    people = persons._padded([rows for _, rows in samples])
    owner, ignored = persons.assign(people)
    for row, rows in enumerate(people):
        for number, one in enumerate(rows):
            if one.isfinite().all() and one[8] >= persons.HIDDEN and (one[2:4] - one[:2]).min() > 16:
                assert (owner[row] == number).any()
            else:
                assert not (owner[row] == number).any() or one[8] >= persons.HIDDEN
    assert not (ignored & (owner >= 0)).any()


def test_loss_falls_to_nothing_for_a_perfect_answer():
    people = torch.tensor([[[40.0, 30, 150, 250, 70, 50, 120, 110, 1.0]]])
    owner, _ = persons.assign(people)
    logits = torch.where(owner >= 0, 20.0, -20.0)
    boxes = people[:, 0, :4, None].expand(1, 4, owner.shape[1])
    terms = persons.person_loss(logits, boxes, people)
    assert terms["loss"] < 1e-4 and terms["iou"] > 0.9999
    assert persons.person_loss(-logits, boxes, people)["loss"] > 1
