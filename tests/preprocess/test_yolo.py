"""YOLO exports on onnxruntime, and ultralytics' results, as one seam."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.preprocess.persons import open_persons
from anyphoto_cli.preprocess.yolo_onnx import YoloOnnx, letterbox, overlaps, suppress
from anyphoto_cli.preprocess.yolo_pt import YoloPt, read_result
from anyphoto_cli.seams import PersonDetector

RECORDED = json.loads((Path(__file__).parent / "yolo_recorded.json").read_text())
"""What ultralytics 8.4's own predictor gave for the same files and photos: boxes, scores, mask areas."""


@pytest.fixture(autouse=True)
def own_threads():
    """Others' runs go by torch's number of threads, and ultralytics changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def by_score(persons):
    return np.array([[*person.box, person.score] for person in persons])


@pytest.mark.parametrize("model", ["yolo11n_int8.onnx", "yolov8n-seg_int8.onnx"])
def test_the_same_boxes_as_ultralytics(testdata, model):
    detector = open_persons(testdata / "models" / "yolo" / model, threads=1)
    assert isinstance(detector, PersonDetector) and len(detector.sha256) == 64
    off = []
    for name, told in RECORDED[model].items():
        picture = read_picture(testdata / "photos" / "groups" / name)
        found = detector.persons([picture], least_score=0.25)[0]
        assert len(found) == len(told["boxes"]), name
        boxes = np.array(told["boxes"])
        off.append(np.abs(by_score(found)[:, :4] - boxes))
        # Of two anchors with one score the last bit decides, which differs between processors.
        assert (off[-1] <= 0.6 + 0.005 * (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)).all(), name
        np.testing.assert_allclose(by_score(found)[:, 4], told["scores"], atol=0.011, err_msg=name)
        for person, area in zip(found, told.get("areas", []), strict=False):
            assert person.mask is not None and person.mask.shape == picture.shape[:2]
            assert abs(person.mask.sum() - area) <= 0.05 * area, name
    assert np.median(np.concatenate(off)) <= 0.1


def test_a_face_detector_finds_no_persons(face_pack_folder):
    """Its outputs have the shapes of a YOLO's; there are nine."""
    with pytest.raises(InputError, match="is not a YOLO export"):
        open_persons(face_pack_folder / "scrfd_2.5g_kps.onnx")


def test_results_of_ultralytics_read_alike():
    """`read_result` on an object of the shape of ultralytics' Results: the same seam, best first."""
    boxes = np.array([[1.0, 2, 3, 4], [5, 6, 70, 80]], np.float32)
    masks = np.zeros((2, 90, 100), np.float32)
    masks[1, 10:20, 10:20] = 1
    result = SimpleNamespace(
        boxes=SimpleNamespace(xyxy=boxes, conf=np.array([0.3, 0.9])), masks=SimpleNamespace(data=masks)
    )
    found = read_result(result)
    assert [person.score for person in found] == [0.9, 0.3] and tuple(found[0].box) == (5, 6, 70, 80)
    assert found[0].mask.sum() == 100 and not found[1].mask.any()
    without = read_result(SimpleNamespace(boxes=result.boxes, masks=None))
    assert [person.mask for person in without] == [None, None]


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_weights_without_masks_are_known_before_a_run(testdata, monkeypatch, tmp_path, task):
    """Of a .pt by its task, as ultralytics tells it; of an .onnx by its outputs."""
    told = SimpleNamespace(task=task, names={0: "person"})
    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=lambda file: told))
    assert YoloPt(tmp_path / "made.pt").masks == (task == "segment")
    file = {"segment": "yolov8n-seg_int8.onnx", "detect": "yolo11n_int8.onnx"}[task]
    assert open_persons(testdata / "models" / "yolo" / file, threads=1).masks == (task == "segment")


class Ultralytics:
    """Pads pictures of one shape otherwise than those of several, and takes threads of its own, as ultralytics does."""

    task, names, ready = "detect", {0: "person"}, False

    def __init__(self, file):
        self.starting = []

    def add_callback(self, event, function):
        assert event == "on_predict_start"
        self.starting.append(function)

    def predict(self, pictures, **options):
        if not self.ready:
            torch.set_num_threads(2)
        self.ready = True
        for function in self.starting:
            function(self)
        shift = len({picture.shape for picture in pictures})
        boxes = SimpleNamespace(xyxy=np.array([[shift, 0.0, 9, 9]]), conf=np.array([0.9]))
        return [SimpleNamespace(boxes=boxes, masks=None) for _ in pictures]


def test_boxes_of_ultralytics_depend_on_no_other_picture_of_the_batch(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=Ultralytics))
    detector = YoloPt(tmp_path / "made.pt")
    together = detector.persons([np.zeros((side, 64, 3), np.uint8) for side in (32, 64)])
    assert [found[0].box.x0 for found in together] == [1, 1] and detector.persons([]) == []


@pytest.mark.parametrize(("device", "used"), [("cpu", 1), ("cuda:0", 2)])
def test_torch_of_ultralytics_keeps_to_the_threads_of_a_worker(monkeypatch, tmp_path, device, used):
    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=Ultralytics))
    open_persons(tmp_path / "made.pt", device, threads=1).persons([np.zeros((32, 64, 3), np.uint8)])
    assert torch.get_num_threads() == used


def test_several_pictures_give_what_each_gives_alone(testdata):
    detector = open_persons("mini", threads=1)
    pictures = [read_picture(path) for path in sorted((testdata / "photos" / "groups").glob("*.jpg"))[:3]]
    together = detector.persons(pictures, 0.05)
    for picture, found in zip(pictures, together, strict=True):
        np.testing.assert_array_equal(by_score(found), by_score(detector.persons([picture], 0.05)[0]))


def test_exports_that_suppress_by_themselves(tmp_path):
    """The [1, n, 6] form: corners, score, class; other classes and low scores go."""
    rows = np.zeros((1, 4, 6), np.float32)
    rows[0] = [[10, 20, 30, 60, 0.9, 1], [5, 5, 9, 9, 0.8, 0], [0, 0, 64, 64, 0.95, 1], [1, 1, 2, 2, 0.1, 1]]
    file = _model(tmp_path, rows, names="{0: 'car', 1: 'person'}")
    found = YoloOnnx(file, threads=1).persons([np.zeros((64, 64, 3), np.uint8)])[0]
    assert [tuple(person.box) for person in found] == [(0, 0, 64, 64), (10, 20, 30, 60)]


def _model(folder, rows, names="{0: 'person'}", side=64):
    """A YOLO-like file that always gives the same answer."""
    helper = onnx.helper
    given = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, side, side])
    made = helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, list(rows.shape))
    answer = onnx.numpy_helper.from_array(rows, "answer")
    zero = [helper.make_node("ReduceMax", ["images"], ["top"], keepdims=0),
            helper.make_node("Mul", ["top", "none"], ["nothing"]),
            helper.make_node("Add", ["answer", "nothing"], ["output0"])]  # fmt: skip
    none = onnx.numpy_helper.from_array(np.zeros((), np.float32), "none")
    graph = helper.make_graph(zero, "yolo", [given], [made], [answer, none])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": names, "imgsz": f"[{side}, {side}]"})
    file = folder / "made.onnx"
    onnx.save(model, file)
    return file


def test_letterbox_keeps_the_middle():
    pixels, scale, margin = letterbox(np.full((50, 100, 3), 200, np.uint8), 64)
    assert pixels.shape == (64, 64, 3) and scale == (0.64, 0.64) and margin == (0, 16)
    assert (pixels[16:48] == 200).all() and (pixels[:16] == 114).all() and (pixels[48:] == 114).all()


def test_suppression_is_greedy_by_score():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 9]], np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.4, 0.8], np.float32), 0.7).tolist() == [1, 2]
    assert overlaps(boxes[:1], boxes[2:3])[0, 0] == 0 and overlaps(boxes[:1], boxes[:1])[0, 0] == 1


def test_refusals(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"no\.onnx: --person-model: is not an ONNX file"):
        open_persons(tmp_path / "no.onnx")
    with pytest.raises(InputError, match="no such file"):
        open_persons(tmp_path / "gone.onnx")
    with pytest.raises(InputError, match=r"'what' is no person model\. Give YOLO weights .*mini"):
        open_persons("what")
    with pytest.raises(InputError, match="knows no class named person"):
        open_persons(_model(tmp_path, np.zeros((1, 4, 6), np.float32), names="{0: 'cat'}"))
    with pytest.raises(EnvironmentFault, match=r'pip install "anyphoto\[yolo\]"'):
        open_persons(tmp_path / "yolo11x.pt")


def test_weights_that_cannot_be_had_are_told_from_weights_that_are_none(monkeypatch, tmp_path):
    def no_network(file):
        raise ConnectionError("Download failure")

    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=no_network))
    file = tmp_path / "yolo11x.pt"
    with pytest.raises(
        InputError, match=r"is not there, and ultralytics could not download it \(ConnectionError: Down"
    ):
        YoloPt(file)
    file.touch()
    with pytest.raises(InputError, match="cannot be used as YOLO weights"):
        YoloPt(file)
