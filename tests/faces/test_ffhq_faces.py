"""WithAnyone's other two face models: their crops, their inputs, their networks; and that only bench takes them."""

import os
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.faces import adaface, facenet, ffhq_faces
from anyphoto_cli.faces.packs import open_faces


@pytest.fixture
def retinaface(monkeypatch):
    """facexlib with a detector that sees one face, at a place that depends on nothing."""
    row = np.array([20, 30, 80, 100, 0.99, 40, 55, 62, 54, 51, 68, 42, 80, 60, 79], np.float32)
    seen = []

    class Detector:
        def detect_faces(self, picture, confidence):
            seen.append((picture, confidence))
            return row[None]

    module = types.ModuleType("facexlib.detection")
    module.init_detection_model = lambda name, half, device, model_rootpath: (
        seen.append((name, half, model_rootpath)) or Detector()
    )
    monkeypatch.setitem(sys.modules, "facexlib", types.ModuleType("facexlib"))
    monkeypatch.setitem(sys.modules, "facexlib.detection", module)
    return seen


@pytest.fixture
def weights(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = adaface.IR50()
    file = tmp_path / "ir50.safetensors"
    save_file({f"model.{name}": value for name, value in network.state_dict().items()}, file)
    monkeypatch.setenv(adaface.FILE, str(file))
    return network.eval()


def test_ir50_is_the_network_of_the_paper():
    network = adaface.IR50()
    names = set(network.state_dict())
    assert {"body.3.shortcut_layer.0.weight", "body.21.shortcut_layer.1.running_var", "body.23.res_layer.5.weight",
            "input_layer.2.weight", "output_layer.3.weight", "output_layer.4.running_mean"} <= names  # fmt: skip
    assert not any(name.startswith(("body.0.shortcut_layer", "body.24")) for name in names)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(43.59, abs=0.01)
    sizes = []
    for place in (0, 3, 7, 21):
        network.body[place].register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        assert network.eval()(torch.zeros(2, 3, 112, 112)).shape == (2, 512)
    assert sizes == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


def test_adaface_sees_bgr_and_gives_unit_rows(retinaface, weights):
    faces = open_faces("adaface", any_crop=True)
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    bgr = torch.from_numpy(crops[..., ::-1].astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = weights((bgr - 127.5) / 127.5).numpy()
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)

    assert np.abs(faces.embed(crops) - wanted).max() < 1e-5
    assert faces.embed(crops[:0]).shape == (0, 512)
    assert retinaface[0] == ("retinaface_resnet50", False, None)
    picture = np.zeros((120, 100, 3), np.uint8)
    picture[..., 0] = 9
    [[face]] = faces.detect([picture])
    assert face.box == (20, 30, 80, 100) and face.landmarks.tolist()[2] == [51, 68]
    shown, confidence = retinaface[1]
    assert shown[0, 0].tolist() == [0, 0, 9] and confidence == 0.97


def test_facenet_sees_bgr_between_0_and_1(retinaface, monkeypatch, tmp_path):
    class InceptionResnetV1(torch.nn.Linear):
        def __init__(self, pretrained):
            assert pretrained == (None if "ANYPHOTO_FACENET" in os.environ else "vggface2")
            super().__init__(3, 4)

        def forward(self, x):
            return super().forward(x.mean((2, 3)))

    module = types.ModuleType("facenet_pytorch")
    module.InceptionResnetV1 = InceptionResnetV1
    monkeypatch.setitem(sys.modules, "facenet_pytorch", module)
    faces = open_faces("facenet", any_crop=True)
    crops = np.zeros((1, 112, 112, 3), np.uint8)
    crops[..., 0] = 255
    assert facenet.facenet_input(crops)[0, :, 5, 5].tolist() == [0, 0, 1]
    assert faces.embed(crops).shape == (1, 4)
    assert np.linalg.norm(faces.embed(crops)) == pytest.approx(1)

    state = {"weight": torch.eye(4, 3), "bias": torch.zeros(4), "logits.weight": torch.zeros(9, 4)}
    torch.save(state, tmp_path / "vggface2.pt")
    monkeypatch.setenv("ANYPHOTO_FACENET", str(tmp_path / "vggface2.pt"))
    monkeypatch.setenv("ANYPHOTO_RETINAFACE", str(tmp_path))
    assert open_faces("facenet", any_crop=True).embed(crops).tolist() == [[0, 0, 1, 0]]
    assert retinaface[-1][2] == str(tmp_path)
    monkeypatch.setenv("ANYPHOTO_FACENET", str(tmp_path / "gone.pt"))
    with pytest.raises(EnvironmentFault, match="FaceNet's weights cannot be had"):
        open_faces("facenet", any_crop=True)


def test_the_crop_meets_ffhqs_template_with_grey_beyond_the_picture(retinaface, weights):
    faces = open_faces("adaface", any_crop=True)
    template = np.array(ffhq_faces._FFHQ_512) * 112 / 512
    turn = cv2.getRotationMatrix2D((60, 60), 20, 1.7)
    landmarks = template @ turn[:, :2].T + turn[:, 2]
    picture = np.zeros((150, 130, 3), np.uint8)
    for x, y in landmarks:
        cv2.circle(picture, (round(x), round(y)), 3, (255, 255, 255), -1)
    crop = faces.crop(picture, landmarks)
    assert all(crop[round(y), round(x)].min() > 200 for x, y in template)
    away = faces.crop(picture, landmarks + (300, 300))
    assert away[0, 0].tolist() == [132, 133, 135]  # facexlib's (135, 133, 132) is of a BGR picture


def test_what_is_missing_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "facexlib", None)
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    monkeypatch.delenv(adaface.FILE, raising=False)
    with pytest.raises(EnvironmentFault, match="facenet-pytorch cannot be imported"):
        open_faces("facenet", any_crop=True)
    with pytest.raises(EnvironmentFault, match="AdaFace's weights are not named"):
        open_faces("adaface", any_crop=True)
    monkeypatch.setenv(adaface.FILE, str(tmp_path / "gone.ckpt"))
    with pytest.raises(InputError, match="no such file"):
        open_faces("adaface", any_crop=True)
    (tmp_path / "evil.ckpt").write_bytes(b"cos\nsystem\n(S'touch /tmp/evil'\ntR.")
    with pytest.raises(InputError, match="cannot be read"):
        adaface.load_ir50(tmp_path / "evil.ckpt")
    save_file({"model.other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another network"):
        adaface.load_ir50(tmp_path / "other.safetensors")


def test_an_authors_checkpoint_is_read(tmp_path, weights):
    state = {f"model.{name}": value for name, value in weights.state_dict().items()} | {"head.kernel": torch.zeros(1)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.ckpt")
    loaded = adaface.load_ir50(tmp_path / "a.ckpt").state_dict()
    assert all(torch.equal(value, weights.state_dict()[name]) for name, value in loaded.items())


def test_only_bench_takes_other_crops(retinaface, weights):
    with pytest.raises(InputError, match="adaface is for `bench` alone"):
        open_faces("adaface")
