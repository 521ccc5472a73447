"""The shipped mini face pack, opened by stock insightface, and the code that trained it."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch

import anyphoto_cli.mini
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.faces.recogniser_torch import load_recogniser, to_input
from anyphoto_cli.mini.picture import draw_picture, draw_portrait
from anyphoto_cli.mini.pretrain.face_detector import NAME as DETECTOR
from anyphoto_cli.mini.pretrain.face_detector import DetectorLoss, FaceDetector, assign, priors
from anyphoto_cli.mini.pretrain.face_pictures import DrawnPictures, draw_chunk, draw_empty
from anyphoto_cli.mini.pretrain.face_recogniser import NAME as RECOGNISER
from anyphoto_cli.mini.pretrain.face_recogniser import Classified, CropSamples, RecogniserLoss, arcface
from anyphoto_cli.mini.pretrain.face_report import Tally, judge, open_analysis, verification
from anyphoto_cli.mini.pretrain.face_samples import SIDE, DetectorSamples, Sample, letterbox
from anyphoto_cli.mini.pretrain.faces import export_face_pack
from anyphoto_cli.mini.pretrain.loop import Schedule, fit
from anyphoto_cli.mini.types import HELD_OUT, STYLES
from tests.mini.card import told

PACK = Path(anyphoto_cli.mini.__file__).parent / "weights" / "faces" / "mini"
PEOPLE = 60


def bgr(picture):
    return np.ascontiguousarray(picture[..., ::-1])


@pytest.fixture(scope="module")
def analysis():
    return open_analysis(PACK)


@pytest.fixture(scope="module")
def seen(analysis):
    """48 fresh pictures of held-out people in all styles, one to four a picture -> (tally, faces found)."""
    rng, total, probes = np.random.default_rng(5), Tally(), []
    for number in range(48):
        who = [HELD_OUT + int(i) for i in rng.choice(PEOPLE, number % 4 + 1, replace=False)]
        size = (128, 128) if number % 3 else (192, 128)
        drawn = draw_picture(77_000_000 + number, identities=who, style=STYLES[number // 4 % 6], size=size)
        tally, found = judge(drawn, analysis.get(bgr(drawn.pixels)))
        total.add(tally)
        probes += found
    return total, probes


def test_small_files_and_nothing_else():
    assert sorted(file.name for file in PACK.iterdir()) == ["calibration.json", "det_mini.onnx", "w_mini.onnx"]
    assert (PACK / "det_mini.onnx").stat().st_size <= 0.55e6
    assert (PACK / "w_mini.onnx").stat().st_size <= 2.3e6


def test_stock_insightface_finds_the_drawn_people(seen):
    total, probes = seen
    shares = total.shares()
    assert total.shown > 100
    assert shares["recall"] >= told("faces", "detector", "recall") - 0.03
    assert shares["precision"] >= told("faces", "detector", "precision") - 0.03
    assert np.mean([probe.error for probe in probes]) <= told("faces", "detector", "landmark_error") + 0.005


def test_and_knows_them_from_one_portrait_each(analysis, seen):
    references = []
    for i in range(PEOPLE):
        faces = analysis.get(bgr(draw_portrait(HELD_OUT + i, 123).pixels))
        assert len(faces) == 1
        references.append(faces[0].normed_embedding)
    who = np.array([probe.identity for probe in seen[1]])
    cosines = np.stack([probe.embedding for probe in seen[1]]) @ np.stack(references).T
    numbers = verification(cosines, who[:, None] == HELD_OUT + np.arange(PEOPLE))
    card = "faces", "recogniser", "against_reference"
    assert numbers["accuracy"] >= told(*card, "accuracy") - 0.02
    assert numbers["same_p05"] - numbers["impostor_p99"] > told(*card, "same_p05") - told(*card, "impostor_p99") - 0.06


@pytest.mark.parametrize("canvas", ["white", "black", "scene"])
def test_nobody_where_nobody_is(analysis, canvas):
    blank = np.full((128, 128, 3), 255 * (canvas == "white"), np.uint8)
    pictures = [draw_empty(k, STYLES[k % 6], (160, 128)).pixels for k in range(12)] if canvas == "scene" else [blank]
    assert [len(analysis.get(bgr(picture))) for picture in pictures] == [0] * len(pictures)


def test_our_own_pack_opens_it_too_and_any_detector_size_is_the_same():
    from insightface.app import FaceAnalysis

    pack = open_faces(PACK)
    picture = draw_picture(9, identities=[HELD_OUT + 1, HELD_OUT + 2]).pixels
    assert pack.fixed_size == SIDE
    wanted = [face.landmarks for face in pack.detect([picture])[0]]
    assert len(wanted) == 2
    assert [face.landmarks.tolist() for face in pack.detect([picture], 320)[0]] == [w.tolist() for w in wanted]
    with contextlib.redirect_stdout(io.StringIO()):
        stock = FaceAnalysis(name=str(PACK), providers=["CPUExecutionProvider"])
        stock.prepare(ctx_id=-1)  # insightface's own default: two sizes, merged
    assert np.allclose(sorted(f.kps[0, 0] for f in stock.get(bgr(picture))), sorted(w[0, 0] for w in wanted))


def test_faces_in_a_large_photo(analysis):
    import cv2

    small = draw_picture(31, identities=[HELD_OUT + 3, HELD_OUT + 4], size=(192, 128), obstacles=False)
    large = cv2.resize(small.pixels, (1200, 800), interpolation=cv2.INTER_CUBIC)
    faces = analysis.get(bgr(large))
    assert len(faces) == 2
    for face, person in zip(sorted(faces, key=lambda f: f.bbox[0]), small.people, strict=True):
        error = np.abs(face.kps - ((person.landmarks + 0.5) * 6.25 - 0.5)).mean()
        assert error < 0.04 * 6.25 * person.face_box.height


def test_the_torch_interpreter_agrees_with_onnxruntime():
    pack = open_faces(PACK)
    drawn = [draw_portrait(HELD_OUT + i, 1) for i in range(5)]
    crops = np.stack([norm_crop(d.pixels, d.people[0].landmarks) for d in drawn])
    module = load_recogniser(pack.recogniser_file)
    with torch.inference_mode():
        ours = module(to_input(torch.from_numpy(crops))).numpy()
    assert ours.shape == (5, 512)
    assert np.abs(ours - pack.embed(crops)).max() < 1e-5


def test_letterbox_is_insightfaces_own(analysis):
    given = []
    detector = analysis.det_model
    picture = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    original, detector.forward = detector.forward, lambda image, threshold: given.append(image) or ([], [], [])
    try:
        detector.detect(picture)
    finally:
        detector.forward = original
    none = np.zeros((0, 4), np.float32)
    ours = letterbox(Sample(picture, none, np.zeros((0, 5, 2), np.float32), np.zeros(0, bool)))
    assert np.array_equal(ours.pixels, given[0])


def test_every_face_has_answers_near_it_and_hidden_ones_are_free():
    prior = priors()
    boxes = np.array([[20, 20, 40, 44], [60, 60, 160, 190], [100, 20, 150, 80]], np.float32)
    chosen = assign(boxes, np.array([True, True, False]), prior)
    assert set(chosen) == {-2, -1, 0, 1}
    for face in (0, 1):
        centre = (boxes[face, :2] + boxes[face, 2:]) / 2
        at = chosen == face
        assert (np.abs(prior.corner[at] - centre) <= prior.stride[at, None]).all()
    assert (assign(boxes[:0], np.zeros(0, bool), prior) == -1).all()


def test_arcface_with_a_margin_is_harder():
    cosines = torch.tensor([[0.8, 0.1, -0.2], [0.3, -0.999, 0.4]])
    who = torch.tensor([0, 1])
    assert torch.allclose(arcface(cosines, who, 0.0, 10.0), torch.nn.functional.cross_entropy(10 * cosines, who))
    assert arcface(cosines, who, 0.4, 10.0) > arcface(cosines, who, 0.0, 10.0)


def test_train_export_and_open(tmp_path):
    """The whole chain on a handful of pictures: two steps each."""
    pixels, truth = draw_chunk(range(12))
    pictures = DrawnPictures([pixels], truth)
    schedule = Schedule(steps=2, batch=3, lr=1e-3, warmup=1)
    torch.manual_seed(0)
    fit(DETECTOR, FaceDetector(), DetectorLoss(DetectorSamples(pictures)), schedule, tmp_path, bfloat16=False)
    fit(RECOGNISER, Classified(), RecogniserLoss(CropSamples(pictures)), schedule, tmp_path, bfloat16=False)
    export_face_pack(tmp_path, tmp_path / "pack")
    pack = open_faces(tmp_path / "pack")
    crop = norm_crop(pixels[0], truth["landmarks"][0, 0].astype(np.float64))
    assert pack.fixed_size == SIDE
    assert pack.embed(np.stack([crop, crop[:, ::-1]])).shape == (2, 512)
    assert isinstance(pack.detect([pixels[0]]), list)
