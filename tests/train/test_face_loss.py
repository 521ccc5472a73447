"""The differentiable norm-crop, and the identity loss: windows equal whole pictures, gradients reach the latents."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.norm_crop_torch import norm_crop_torch, similarity_matrices
from anyphoto_cli.geometry import arcface_template, fit_similarity
from anyphoto_cli.train import face_windows as face_windows_module
from anyphoto_cli.train.face_loss import FaceTarget, face_loss
from anyphoto_cli.train.face_windows import DecodeCalls, evened, latent_window


def turned(scale, angle, shift, jitter=0.0, seed=0):
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    rng = np.random.default_rng(seed)
    return arcface_template() @ turn * scale + shift + rng.normal(0, jitter, (5, 2))


def test_similarities_are_those_of_geometry():
    points = np.stack([turned(0.7, 0.3, (20, 5), 1.0, 1), turned(2.0, -1.2, (90, 150), 3.0, 2)])
    found = similarity_matrices(torch.from_numpy(points)).numpy()
    for matrix, face in zip(found, points, strict=True):
        assert np.allclose(matrix, fit_similarity(face, arcface_template()).matrix, atol=1e-9)


def test_a_bfloat16_picture_is_cut_where_a_float32_one_is():
    """Places in bfloat16 would be off by a pixel at this size, and were not finite on CPUs."""
    ramp = torch.linspace(-1, 1, 512).expand(1, 3, 512, 512).contiguous()
    points = torch.from_numpy(turned(0.9, 0.1, (380, 300)))[None]
    given = ramp.bfloat16().requires_grad_()
    whole, rounded = norm_crop_torch(ramp, points), norm_crop_torch(given, points)
    assert rounded.dtype == torch.float32 and (whole - rounded).abs().max() < 0.0045  # bfloat16's own rounding
    rounded.sum().backward()
    assert given.grad is not None and torch.isfinite(given.grad).all()


@pytest.mark.parametrize("scale, angle, shift", [(0.6, 0.2, (20, 10)), (1.4, -0.5, (40, 90)), (1.0, 0.0, (-30, -20))])
def test_it_is_cv2_s_warp_within_rounding(scale, angle, shift):
    """Half a pixel off would be a mean error of several grey levels."""
    picture = np.random.default_rng(0).integers(0, 256, (160, 200, 3)).astype(np.uint8)
    points = turned(scale, angle, shift, 1.5)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    ours = ((norm_crop_torch(tensor, torch.from_numpy(points)[None])[0].permute(1, 2, 0) + 1) * 127.5).numpy()
    difference = np.abs(ours - norm_crop(picture, points))
    # cv2 places samples on a grid of 1/32 px: on pure noise that alone is a few levels.
    assert difference.mean() < 2.5
    smooth = np.stack(np.broadcast_arrays(np.arange(160)[:, None], np.arange(200)[None], 128), -1).astype(np.uint8)
    tensor = torch.from_numpy(smooth).permute(2, 0, 1)[None].float() / 127.5 - 1
    ours = ((norm_crop_torch(tensor, torch.from_numpy(points)[None])[0].permute(1, 2, 0) + 1) * 127.5).numpy()
    inner = norm_crop(np.full_like(smooth, 255), points).min(-1) == 255
    assert np.abs(ours - norm_crop(smooth, points))[inner].max() < 0.6


@pytest.fixture(scope="module")
def taef1(testdata):
    from diffusers import AutoencoderTiny

    return AutoencoderTiny.from_pretrained(testdata / "models" / "taef1").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def recogniser(face_pack):
    from anyphoto_cli.faces.recogniser_torch import load_recogniser

    return load_recogniser(face_pack.recogniser_file)


@pytest.fixture(scope="module")
def pair(photos, face_pack, taef1):
    """Two real people, their latents and their targets."""
    from anyphoto_cli.files.images import read_picture
    from anyphoto_cli.model.vae import encode, to_pixels

    picture = read_picture(photos / "groups" / "two_people.jpg")[:640, :1120]
    faces = sorted(face_pack.detect([picture])[0], key=lambda face: face.box.x0)[:2]
    embeddings = torch.from_numpy(face_pack.embed(np.stack([norm_crop(picture, f.landmarks) for f in faces])))
    with torch.no_grad():
        latents = encode(taef1, to_pixels([picture]))
    return latents, [FaceTarget(face.landmarks, e) for face, e in zip(faces, embeddings, strict=True)]


def test_real_people_are_recognised_through_the_vae_and_strangers_are_not(pair, taef1, recogniser):
    latents, targets = pair
    found = face_loss(latents, [targets], taef1, recogniser)
    assert found.valid == 2 and found.cosines.min() > 0.85
    assert float(found.loss) == pytest.approx(float((1 - found.cosines).mean()), abs=1e-6)
    swapped = [FaceTarget(a.landmarks, b.embedding) for a, b in zip(targets, targets[::-1], strict=True)]
    assert face_loss(latents, [swapped], taef1, recogniser).cosines.max() < 0.3


def test_windows_say_what_whole_pictures_say_and_so_do_their_gradients(pair, taef1, recogniser):
    latents, targets = pair
    gradients = []
    for how in ({"margin": None}, {"margin": 8}, {"margin": 8, "recompute": True}):
        z = latents.clone().requires_grad_(True)
        found = face_loss(z, [targets], taef1, recogniser, **how)
        found.loss.backward()
        gradients.append((found.cosines, z.grad.flatten()))
    whole, windows, again = gradients
    assert torch.allclose(whole[0], windows[0], atol=2e-3)
    assert torch.cosine_similarity(whole[1], windows[1], dim=0) > 0.99
    assert torch.equal(windows[0], again[0]) and torch.allclose(windows[1], again[1], atol=1e-7)
    assert windows[1].abs().sum() > 0


def test_windows_of_one_size_are_decoded_together_as_one_by_one(pair, taef1, recogniser, monkeypatch):
    """As on a GPU: sizes in steps, several windows a call, whichever samples they are of."""
    latents, (left, right) = pair
    batch, targets = torch.cat([latents, latents.flip(-1) * 0.9]), [[left, right], [right]]
    calls, found = [], []
    real = taef1.decode
    monkeypatch.setattr(taef1, "decode", lambda z, **how: calls.append(len(z)) or real(z, **how))
    for pixels in (0, 2**22):
        z = batch.clone().requires_grad_(True)
        loss = face_loss(z, targets, taef1, recogniser, calls=DecodeCalls(step=64, at_once=pixels))
        loss.loss.backward()
        found.append((loss.cosines, z.grad))
    assert calls == [1, 1, 1, 3]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-4 * float(found[0][1].abs().max()))
    plain = face_loss(batch, targets, taef1, recogniser, calls=DecodeCalls())
    torch.testing.assert_close(plain.cosines, found[0][0], rtol=0, atol=5e-3)


def test_windows_of_two_sizes_become_one_call_and_are_no_worse(pair, taef1, recogniser, monkeypatch):
    """Against whole pictures: a window that grew sees more around the face."""
    latents, (left, right) = pair
    small = FaceTarget((right.landmarks - right.landmarks.mean(0)) * 0.5 + right.landmarks.mean(0), right.embedding)
    calls, real = [], taef1.decode
    monkeypatch.setattr(taef1, "decode", lambda z, **how: calls.append(tuple(z.shape)) or real(z, **how))

    def gradient(**how):
        z = latents.clone().requires_grad_(True)
        face_loss(z, [[left, small]], taef1, recogniser, **how).loss.backward()
        return z.grad.flatten()

    whole = gradient(margin=None)
    calls.clear()
    apart = gradient(calls=DecodeCalls(at_once=2**22))
    assert len(calls) == 2
    together = gradient(calls=DecodeCalls(spare=2**22, at_once=2**22))
    assert len(calls) == 3 and calls[-1][0] == 2 and calls[-1][2] == max(shape[2] for shape in calls[:2])
    near = [float(torch.cosine_similarity(whole, windows, dim=0)) for windows in (apart, together)]
    assert near[1] > max(0.95, near[0])


def test_windows_grow_inside_the_picture():
    for window in ((0, 0, 5, 7), (93, 95, 100, 100), (10, 20, 18, 28)):
        x0, y0, x1, y1 = face_windows_module._stepped(window, 100, 100, 8)
        assert 0 <= x0 <= window[0] and window[2] <= x1 <= 100 and (x1 - x0) % 8 == 0
        assert 0 <= y0 <= window[1] and window[3] <= y1 <= 100 and (y1 - y0) % 8 == 0
    assert face_windows_module._stepped((1, 1, 9, 10), 10, 10, 8) == (1, 0, 9, 10)


sides = st.integers(1, 30)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), sides, sides), min_size=1, max_size=8),
    st.integers(0, 2**16),
)
def test_evened_windows_hold_what_they_held_and_add_no_more_than_they_may(drawn, spare):
    windows = [(x, y, min(x + w, 40), min(y + h, 36)) for x, y, w, h in drawn]
    found = evened(windows, 40, 36, spare)

    def pixels(window):
        return (window[2] - window[0]) * (window[3] - window[1]) * 64

    for (x0, y0, x1, y1), (u0, v0, u1, v1) in zip(windows, found, strict=True):
        assert 0 <= u0 <= x0 and x1 <= u1 <= 40 and 0 <= v0 <= y0 and y1 <= v1 <= 36
    assert sum(map(pixels, found)) - sum(map(pixels, windows)) <= spare
    assert spare or found == windows
    sizes = [{(x1 - x0, y1 - y0) for x0, y0, x1, y1 in some} for some in (windows, found)]
    assert len(sizes[1]) <= len(sizes[0])
    assert len({(x1 - x0, y1 - y0) for x0, y0, x1, y1 in evened(windows, 40, 36, 2**20)}) == 1


def test_samples_count_alike_and_faces_that_show_nobody_do_not_count(pair, taef1, recogniser):
    latents, (left, right) = pair
    both = face_loss(torch.cat([latents, latents]), [[left, right], [left]], taef1, recogniser)
    one, other = 1 - both.cosines[:2].mean(), 1 - both.cosines[2]
    assert float(both.loss) == pytest.approx(float((one + other) / 2), abs=1e-6)
    tiny = FaceTarget(arcface_template() * 0.1 + 50, left.embedding)
    outside = FaceTarget(left.landmarks - (400, 0), left.embedding)
    z = latents.clone().requires_grad_(True)
    nobody = face_loss(z, [[tiny, outside]], taef1, recogniser)
    nobody.loss.backward()
    assert nobody.valid == 0 and float(nobody.loss.detach()) == 0 and not z.grad.any()
    assert face_loss(latents, [[tiny, outside]], taef1, recogniser, least_eyes=2.0).valid == 1


def test_the_window_holds_all_that_the_crop_sees():
    points = turned(1.0, 0.4, (100, 80))
    x0, y0, x1, y1 = latent_window(points, 100, 100, margin=0)
    corners = fit_similarity(arcface_template(), points)(np.array([(0, 0), (111, 0), (111, 111), (0, 111)], float))
    assert (corners >= (8 * x0 - 0.5, 8 * y0 - 0.5)).all() and (corners <= (8 * x1 - 0.5, 8 * y1 - 0.5)).all()
    assert latent_window(points, 100, 100, margin=4) == (max(x0 - 4, 0), max(y0 - 4, 0), x1 + 4, y1 + 4)
    assert latent_window(points, 16, 16, margin=4)[2:] == (16, 16)
