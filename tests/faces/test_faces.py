"""Real photos through a real pack, and the recogniser as a PyTorch module."""

from itertools import combinations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from anyphoto_cli.errors import InputError
from anyphoto_cli.faces import packs
from anyphoto_cli.faces.norm_crop import face_patch, norm_crop
from anyphoto_cli.faces.packs import find_pack, open_faces
from anyphoto_cli.faces.recogniser_torch import _prelu, load_recogniser, to_input
from anyphoto_cli.faces.reference_face import find_reference_face
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.geometry import Similarity, arcface_template, fit_similarity
from anyphoto_cli.registry import find
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Box, Face


@pytest.fixture(scope="module")
def people(photos, face_pack):
    """(person, norm-crop) of every reference photo."""
    found = []
    for file in sorted((photos / "refs").glob("*/*")):
        picture = read_picture(file)
        landmarks = find_reference_face(face_pack, picture).face.landmarks
        found.append((file.parent.name, norm_crop(picture, landmarks)))
    return found


def test_same_person_above_different_person(people, face_pack):
    embeddings = face_pack.embed(np.stack([crop for _, crop in people]))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    same, different = [], []
    for (a, x), (b, y) in combinations(zip([p for p, _ in people], embeddings, strict=True), 2):
        (same if a == b else different).append(float(x @ y))
    assert len(same) == 7 and len(different) == 59 and min(same) > 0.35 > 0.25 > max(different), (
        min(same),
        max(different),
    )


def test_batched_equals_one_by_one_and_insightface(people, face_pack):
    crops = np.stack([crop for _, crop in people])
    together = face_pack.embed(crops)
    alone = np.concatenate([face_pack.embed(crop[None]) for crop in crops])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    theirs = face_pack._recogniser.get_feat(np.ascontiguousarray(crops[0][..., ::-1]))[0]
    np.testing.assert_allclose(together[0], theirs / np.linalg.norm(theirs), atol=1e-5)
    assert face_pack.embed(crops[:0]).shape == (0, 512)


def test_torch_recogniser_equals_onnxruntime_and_is_differentiable(people, face_pack):
    crops = np.stack([crop for _, crop in people[:4]])
    module = load_recogniser(face_pack.recogniser_file)
    found = module(to_input(torch.from_numpy(crops)))
    np.testing.assert_allclose(found.numpy(), face_pack.embed(crops), atol=1e-5)
    pixels = to_input(torch.from_numpy(crops)).requires_grad_()
    (1 - module(pixels) @ module(pixels)[0].detach()).sum().backward()
    assert torch.isfinite(pixels.grad).all() and pixels.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), (1, 1, 1), (1, 4, 1, 1), (4, 5, 1), (5,)])
def test_prelu_is_its_definition_whatever_its_slopes_stand_for(shape):
    """One a channel goes by torch's own operator; ONNX lets slopes broadcast in other ways, too."""
    torch.manual_seed(0)
    x, slope = torch.randn(2, 4, 5, 5, requires_grad=True), torch.rand(shape)
    found = _prelu(x, slope)
    wanted = torch.where(x >= 0, x, slope * x)
    assert torch.equal(found, wanted)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), x) for y in (found, wanted)), strict=True):
        assert torch.allclose(one, other)


def test_gradient_of_the_torch_recogniser_is_the_slope(people, face_pack):
    """A step along the gradient changes the cosine by as much as the gradient says."""
    module = load_recogniser(face_pack.recogniser_file).double()
    x = to_input(torch.from_numpy(np.stack([people[0][1]]))).double().requires_grad_()
    target = torch.nn.functional.normalize(torch.ones(512, dtype=torch.float64), dim=0)

    def cosine(pixels):
        return module(pixels).double()[0] @ target

    cosine(x).backward()
    step = 1e-2 * x.grad / x.grad.norm()
    with torch.no_grad():
        slope = (cosine(x + step) - cosine(x - step)) / 2
    assert float(slope) == pytest.approx(float((x.grad * step).sum()), rel=0.02)


def test_a_tight_crop_is_found_by_padding_in_the_pictures_own_pixels(photos, face_pack):
    picture = read_picture(photos / "refs" / "obama" / "obama.jpg")
    face = find_reference_face(face_pack, picture).face
    x0, y0, x1, y1 = (int(v) for v in face.box)
    tight = picture[y0 + 40 : y1 - 40, x0 + 20 : x1 - 20]
    assert face_pack.detect([tight]) == [[]]
    found = find_reference_face(face_pack, tight)
    assert "padding" in found.choice
    assert np.abs(found.face.landmarks + [x0 + 20, y0 + 40] - face.landmarks).max() < 12


def test_the_largest_face_wins_and_the_choice_is_told(photos, face_pack):
    picture = read_picture(photos / "groups" / "obama_and_biden.jpg")
    faces = face_pack.detect([picture])[0]
    assert len(faces) >= 2
    found = find_reference_face(face_pack, picture)
    assert found.face.box.area == max(face.box.area for face in faces)
    assert f"the largest of {len(faces)}" in found.choice


class FindsOnly:
    """A detector that answers at one input size alone, and counts its calls."""

    detects, name = True, "one size"

    def __init__(self, size):
        self.size, self.asked = size, []

    def detect(self, pictures, size=640):
        self.asked.append((size, pictures[0].shape[0]))
        landmarks = arcface_template() / 2
        small, large = Face(Box(1, 1, 9, 9), landmarks, 0.9), Face(Box(0, 0, 40, 50), landmarks, 0.6)
        return [[small, large] if size == self.size else []]


def test_other_detection_sizes_are_tried_before_padding():
    analyzer = FindsOnly(160)
    found = find_reference_face(analyzer, np.zeros((60, 60, 3), np.uint8))
    assert analyzer.asked == [(640, 60), (320, 60), (160, 60)]
    assert found.face.score == 0.6 and "largest of 2" in found.choice
    with pytest.raises(InputError):
        find_reference_face(never := FindsOnly(1), np.zeros((60, 60, 3), np.uint8))
    assert {side for _, side in never.asked} == {60, 120, 180}


def test_a_large_picture_is_looked_at_smaller_and_told_in_its_own_pixels():
    """Padded as it is, a picture of 48 megapixels without a face took 3.2 GB."""
    picture = np.zeros((3001, 8192, 3), np.uint8)
    found = find_reference_face(FindsOnly(640), picture).face
    assert tuple(found.box) == pytest.approx((0, 0, 160, 50 * 3001 / 750))
    np.testing.assert_allclose(found.landmarks, arcface_template() / 2 * (4, 3001 / 750))
    with pytest.raises(InputError, match="8192x3001"):
        find_reference_face(never := FindsOnly(1), picture)
    assert max(side for _, side in never.asked) == 750 + 2 * 2048


def test_no_face_is_one_line_with_a_remedy(face_pack):
    with pytest.raises(InputError, match="found no face.*reference_landmarks"):
        find_reference_face(face_pack, np.full((200, 200, 3), 127, np.uint8))


def test_norm_crop_equals_insightface(photos, face_pack):
    from insightface.utils import face_align

    picture = read_picture(photos / "refs" / "biden" / "biden.jpg")
    landmarks = find_reference_face(face_pack, picture).face.landmarks
    for size in (112, 448):
        theirs = face_align.norm_crop(picture, landmarks.astype(np.float32), size)
        assert np.abs(norm_crop(picture, landmarks, size).astype(int) - theirs).max() <= 2


def test_a_patch_is_upright_transparent_beyond_the_photo_and_not_aliased():
    """A checkerboard of single pixels, far larger than the patch: antialiased it is grey, sampled it would be noise."""
    board = (np.indices((900, 900)).sum(0) % 2 * 255).astype(np.uint8)
    picture = np.stack([board] * 3, -1)
    landmarks = Similarity(5, 0, 450, 450)(arcface_template())
    patch = face_patch(picture, landmarks, 112)
    assert patch.shape == (112, 112, 4)
    assert (patch[:88, :88, 3] == 255).all() and (patch[92:, 92:, 3] == 0).all()  # the photo ends at (900 - 450) / 5
    assert np.abs(patch[5:80, 5:80, :3].astype(int) - 127).max() < 60


@pytest.mark.parametrize("scale", [0.7, 5])
def test_a_patch_has_no_dark_rim_where_the_photo_ends(scale):
    picture = np.full((300, 300, 3), (200, 150, 90), np.uint8)
    patch = face_patch(picture, Similarity(scale * 0.96, scale * 0.28, 250, 150)(arcface_template()), 112)
    seen = patch[patch[..., 3] > 0]
    assert len(np.unique(seen[:, 3])) > 2 and (seen[:, :3] == (200, 150, 90)).all()


def test_a_patch_puts_landmarks_on_the_template():
    """Also when it was averaged down first: the half-pixel shift of pixel centres is kept."""
    for scale in (0.3, 1.0, 8.0):
        place = Similarity(scale * 0.96, scale * 0.28, 90 * scale, 40 * scale)
        landmarks = place(arcface_template())
        side = int(landmarks.max() + 60 * scale)
        y, x = np.mgrid[:side, :side]
        picture = np.full((side, side, 3), 255, np.uint8)
        eye = landmarks[0]
        weight = np.exp(-((x - eye[0]) ** 2 + (y - eye[1]) ** 2) / (2 * (4 * scale) ** 2))
        picture[..., 0] = (255 * (1 - weight)).astype(np.uint8)
        patch = 255.0 - face_patch(picture, landmarks, 112)[..., 0]
        patch[face_patch(picture, landmarks, 112)[..., 3] < 255] = 0
        rows, columns = np.indices(patch.shape)
        found = [(columns * patch).sum() / patch.sum(), (rows * patch).sum() / patch.sum()]
        assert np.abs(np.array(found) - arcface_template()[0]).max() < 0.1, scale


@pytest.mark.parametrize("pack", ["tiny-random", "real"])
def test_every_pack_keeps_the_contract(pack, request):
    analyzer = open_faces(request.getfixturevalue("face_pack_folder") if pack == "real" else pack)
    assert isinstance(analyzer, FaceAnalyzer)
    assert len(analyzer.sha256) == 64 and analyzer.name
    crops = np.random.default_rng(0).integers(0, 255, (3, 112, 112, 3), np.uint8)
    embeddings = analyzer.embed(crops)
    assert embeddings.shape == (3, 512) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-4)
    if analyzer.detects:
        assert analyzer.detect([crops[0], crops[1]]) == [[], []]
    else:
        with pytest.raises(InputError, match="has no detector.*reference_landmarks"):
            analyzer.detect([crops[0]])


def test_tiny_pack_equals_onnxruntime(tmp_path):
    import onnxruntime

    pack = open_faces("tiny-random")
    crops = np.random.default_rng(1).integers(0, 255, (2, 112, 112, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(pack.recogniser_file), providers=["CPUExecutionProvider"])
    raw = session.run(None, {"data": ((crops.transpose(0, 3, 1, 2) - 127.5) / 127.5).astype(np.float32)})[0]
    np.testing.assert_allclose(pack.embed(crops), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)


def test_what_is_written_as_a_path_is_a_folder_with_either_separator(monkeypatch):
    monkeypatch.setattr(packs.os, "sep", "\\")
    monkeypatch.setattr(packs.os, "altsep", "/")  # as on Windows, where both are used
    for text in ("packs\\mine", "packs/mine"):
        with pytest.raises(InputError, match="no such folder"):
            packs.check_name(text)


def test_packs_are_found_where_people_put_them(face_pack_folder, tmp_path):
    nested = tmp_path / "antelopev2" / "antelopev2"  # what antelopev2's zip unpacks to
    nested.mkdir(parents=True)
    for file in face_pack_folder.glob("*.onnx"):
        (nested / file.name).symlink_to(file)
    assert find_pack(tmp_path / "antelopev2") == nested
    assert open_faces(tmp_path / "antelopev2").detects
    assert find_pack(face_pack_folder.parent.parent) == face_pack_folder
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.onnx files"):
        open_faces(tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        open_faces(tmp_path / "nowhere" / "pack")
    other = tmp_path / "antelopev2" / "other"
    other.mkdir()
    (other / "x.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="holds several packs.*antelopev2, other"):
        open_faces(tmp_path / "antelopev2")
    with pytest.raises(InputError, match="broken ONNX"):
        (other / "x.onnx").write_bytes(b"\xff\xff not a model")
        open_faces(other)


def test_an_unknown_operator_is_named(tmp_path):
    node = helper.make_node("LSTM", ["x"], ["y"])
    info = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [info("x", TensorProto.FLOAT, [1])], [info("y", TensorProto.FLOAT, [1])])
    onnx.save(helper.make_model(graph), str(tmp_path / "x.onnx"))
    with pytest.raises(InputError, match="LSTM"):
        load_recogniser(tmp_path / "x.onnx")


def test_registry_lists_what_it_knows():
    with pytest.raises(InputError, match="Known: mini, tiny-random, flux-dev, flux-schnell"):
        find("bases", "nothing")


def test_fit_of_template_is_identity():
    fit = fit_similarity(arcface_template(), arcface_template())
    assert fit.scale == pytest.approx(1) and fit.b == pytest.approx(0)
