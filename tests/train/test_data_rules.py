"""Replacement, crops and degradations: pure functions of step and seed, and landmarks that stay true."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyphoto_cli.data.bank import BankIdentity
from anyphoto_cli.data.samples import PersonRecord, PictureRecord
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.norm_crop import face_patch
from anyphoto_cli.geometry import arcface_template, is_mirrored
from anyphoto_cli.train.contact_sheet import _SIDE, _font, _lines
from anyphoto_cli.train.crops import SquareCrop, most_together, square_crop
from anyphoto_cli.train.degradations import DEGRADATIONS, degrade, flipped, happening, middling
from anyphoto_cli.train.replacement import SAME_PHOTO, choose_reference, other_photos, replacement_probability
from anyphoto_cli.train.wide_groups import WideGroups, wide_groups
from anyphoto_cli.types import Box


def test_the_curriculum_climbs_at_its_milestones_and_stays():
    p = [
        replacement_probability(step, 1000, "curriculum", 0.5) for step in (0, 49, 50, 99, 100, 200, 300, 399, 400, 999)
    ]
    assert p == [0, 0, 0.1, 0.1, 0.2, 0.3, 0.4, 0.4, 0.5, 0.5]
    assert replacement_probability(400, 1000, "curriculum", 0.8) == pytest.approx(0.8)
    assert {replacement_probability(step, 1000, "fixed", 0.5) for step in range(0, 1000, 50)} == {0.5}


def test_the_picture_itself_is_never_another_photo_of_the_person():
    """Neither by its name nor, under another name, by its face; a copy is seldom equal to the last number."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, 512)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    known = BankIdentity("ana", (), rows, rows[0], ("a.jpg", "b.jpg", "c.jpg"))
    copy = rows[2] + 0.005 * rng.standard_normal(512)
    assert SAME_PHOTO < copy @ rows[2] / np.linalg.norm(copy) < 0.999
    assert other_photos("b.jpg", rows[1], known) == [0, 2]
    assert other_photos("x.jpg", copy * 3, known) == [0, 1]
    assert other_photos("b.jpg", rng.standard_normal(512), known) == [0, 2]  # by the name alone
    assert {choose_reference([0, 2], 1.0, rng) for _ in range(200)} == {0, 2}
    assert choose_reference([], 1.0, rng) == -1
    rates = [choose_reference([0, 1], 0.3, rng) >= 0 for _ in range(4000)]
    assert np.mean(rates) == pytest.approx(0.3, abs=0.03)
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    assert (choose_reference([0, 1], 0.0, one), choose_reference([0, 1], 1.0, other) >= 0) == (-1, True)
    assert one.random() == other.random()  # p moves nothing that comes after


@given(
    width=st.integers(32, 900),
    height=st.integers(32, 900),
    edges=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    seed=st.integers(0, 999),
)
def test_the_square_keeps_what_is_to_be_kept_wherever_it_can(width, height, edges, seed):
    x0, x1 = sorted((edges[0] * width, edges[1] * width))
    y0, y1 = sorted((edges[2] * height, edges[3] * height))
    crop = square_crop(width, height, Box(x0, y0, x1, y1), 64, np.random.default_rng(seed))
    assert crop.side == min(width, height)
    assert 0 <= crop.x <= width - crop.side and 0 <= crop.y <= height - crop.side
    if max(x1 - x0, y1 - y0) <= crop.side - 1:
        assert crop.x <= x0 and x1 <= crop.x + crop.side and crop.y <= y0 and y1 <= crop.y + crop.side
    elif x1 - x0 > crop.side + 1:
        assert x0 - 1 <= crop.x and crop.x + crop.side <= x1 + 1


def test_all_places_that_fit_are_taken_and_pixels_and_points_go_the_same_way():
    rng = np.random.default_rng(0)
    crops = [square_crop(40, 20, Box(12, 0, 18, 20), 20, rng) for _ in range(400)]
    assert {crop.x for crop in crops} == set(range(13))
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[9:12, 39:42] = 255
    crop = square_crop(60, 30, Box(30, 0, 58, 30), 90, rng)
    seen = crop.of_picture(picture)[..., 0].astype(float)
    rows, columns = np.mgrid[:90, :90]
    middle = np.array([(columns * seen).sum(), (rows * seen).sum()]) / seen.sum()
    assert np.allclose(middle, crop.of_points(np.array([[40.0, 10.0]]))[0], atol=0.1)
    assert crop.covers(Box(0, 0, crop.x, 30)) == 0 and crop.covers(Box(crop.x, 0, crop.x + 30, 30)) == 1


def test_a_wide_group_is_told_by_the_most_that_one_square_holds():
    left, middle, right = Box(20, 200, 120, 320), Box(700, 200, 800, 320), Box(1000, 200, 1100, 320)
    assert most_together(1126, 661, [left, middle, right], 0.9) == (2, 3)  # two of the right
    assert most_together(1126, 661, [middle, right], 0.9) == (2, 2)
    assert most_together(661, 1126, [Box(b.y0, b.x0, b.y1, b.x1) for b in (left, middle, right)], 0.9) == (2, 3)
    # A tenth of a face may be cut off at either end; whom the picture itself cuts off, no square brings back.
    assert most_together(300, 200, [Box(0, 0, 100, 100), Box(120, 0, 220, 100)], 0.9) == (2, 2)
    assert most_together(300, 200, [Box(0, 0, 100, 100), Box(121, 0, 221, 100)], 0.9) == (1, 2)
    assert most_together(300, 200, [Box(10, 0, 60, 60), Box(-40, 0, 60, 100)], 0.9) == (1, 1)
    rng = np.random.default_rng(0)
    for _ in range(60):
        places = rng.integers(0, 340, 4)
        boxes = [Box(x, 10, x + w, 60) for x, w in zip(places, rng.integers(20, 60, 4), strict=True)]
        tried = [
            sum(crop.covers(box) >= 0.9 for box in boxes) for crop in (SquareCrop(x, 0, 150, 64) for x in range(251))
        ]
        assert most_together(400, 150, boxes, 0.9) == (max(tried), 4)


def test_people_who_cannot_be_in_one_square_are_counted():
    def person(x, identity="ana"):
        return PersonRecord(
            Box(0, 0, 0, 0), 0, "", Box(x, 100, x + 80, 180), np.zeros((5, 2)), 1, identity, 1, 1, 4, ""
        )

    def record(*people):
        keep = Box(0, 0, 1, 1)
        return json.dumps(PictureRecord("k", "s", "", 1100, 660, "", "", keep, people).to_json()).encode()

    texts = [record(person(10)), record(person(10), person(200)), record(person(10), person(200), person(1000)),
             record(person(10), person(400), person(1000, ""))]  # fmt: skip
    index = SimpleNamespace(
        faces=np.array([1, 2, 3, 2]), keys=list("abcd"), file=Path("train-000000.tar"), read_json=texts.__getitem__
    )
    assert wide_groups([index]) == WideGroups(groups=3, looked_at=3, apart=1, faces=3, lost=1)
    assert wide_groups([index] * 4, most=6) == WideGroups(12, 6, 2, 6, 2)
    assert wide_groups([index]).line() == (
        "1 of 3 samples of several people have people that no square holds together: at least 1 of their 3 faces are "
        "left out"
    )
    assert "1 of 2 samples of several people, evenly taken from 9, have" in WideGroups(9, 2, 1, 3, 1).line()
    assert WideGroups(3, 3, 0, 0, 0).line() == ""
    texts[1] = b"{}"
    with pytest.raises(InputError, match="train-000000.tar/b: is not an entry of anyphoto's shards"):
        wide_groups([index])


def patch_of(side=224):
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (14, 14, 3)).astype(np.uint8)
    alpha = np.full((side, side, 1), 255, np.uint8)
    alpha[:, :10] = 0
    return np.concatenate([np.kron(small, np.ones((side // 14, side // 14, 1), np.uint8)), alpha], 2)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_each_degradation_changes_the_picture_by_its_seed_alone(name):
    patch, points = patch_of(), arcface_template(224)
    first, moved = degrade(patch, points, {name: 1.0}, seed=5)
    again, _ = degrade(patch, points, {name: 1.0}, seed=5)
    assert np.array_equal(first, again) and first.shape == patch.shape and first.dtype == np.uint8
    assert not np.array_equal(first[..., :3], patch[..., :3])
    if name != "horizontal_flip":
        assert np.array_equal(moved, points) and np.array_equal(first[..., 3], patch[..., 3])
    if name not in ("horizontal_flip", "grayscale", "autocontrast"):  # no strength, or hardly any
        assert not np.array_equal(first, degrade(patch, points, {name: 1.0}, seed=6)[0])
    same, untouched = degrade(patch, points, {name: 0.0}, seed=5)
    assert np.array_equal(same, patch) and untouched is points


def test_thirteen_and_switching_one_off_leaves_the_others_as_they_were():
    assert len(DEGRADATIONS) == 13
    patch, points = patch_of(), arcface_template(224)
    rates = dict.fromkeys(["blur", "gaussian_noise", "jpeg"], 1.0)
    flat = np.full_like(patch, 120)  # which no blur changes
    for shown, alike in ((patch, False), (flat, True)):
        both, without = (degrade(shown, points, rates | {"blur": p}, seed=1)[0] for p in (1.0, 0.0))
        assert np.array_equal(both, without) == alike and not np.array_equal(without, shown)


def test_what_is_named_is_what_happened():
    patch, points = patch_of(), arcface_template(224)
    rates = dict.fromkeys(DEGRADATIONS, 0.3)
    named = [happening(rates, seed) for seed in range(12)]
    assert len(set(named)) > 6 and sum(map(len, named)) / 12 == pytest.approx(13 * 0.3, abs=1.5)
    for seed, names in enumerate(named):
        worn, moved = degrade(patch, points, rates, seed)
        only, also = degrade(patch, points, dict.fromkeys(names, 1.0), seed)
        assert np.array_equal(worn, only) and np.array_equal(moved, also)


def test_a_patch_keeps_the_order_of_its_colours_and_its_points_their_pixels():
    patch, points = patch_of(), np.array([[0, 0], [40, 3], [223, 223], [10, 200], [100, 90]], np.float64)
    worn, _ = degrade(patch, points, {"salt_and_pepper": 1.0}, seed=5)
    assert (worn == patch).all(-1).mean() > 0.9  # few pixels are hit
    mirrored, moved = degrade(patch, points, {"horizontal_flip": 1.0}, seed=5)

    def under(pixels, places):
        return sorted(pixels[y, x].tolist() for x, y in places.astype(int))

    assert under(mirrored, moved) == under(patch, points)


def test_a_middling_one_is_neither_the_weakest_nor_the_strongest():
    patch, points = patch_of(), arcface_template(224)

    def change(worn):
        return np.abs(worn.astype(float) - patch).mean()

    for name in ("color_jitter", "illumination", "gaussian_noise", "blur"):
        draws = sorted(change(degrade(patch, points, {name: 1.0}, seed)[0]) for seed in range(2, 11))
        assert change(middling(patch, points, name, 2)) == pytest.approx(draws[4], rel=1e-5)


def test_names_under_a_canvas_fit_and_none_is_lost():
    lines = _lines(list(DEGRADATIONS))
    assert max(_font().getlength(line) for line in lines) <= _SIDE and len(lines) < 13
    assert " ".join(lines).split(", ") == list(DEGRADATIONS) and _lines([]) == []


@pytest.mark.parametrize("side", [448, 112])
def test_lost_resolution_shows_on_the_canvas(side):
    """Fine detail; a patch of 448 px is shown with some 192 px, one of 112 with 48."""
    import cv2

    fine = np.random.default_rng(0).integers(0, 256, (side, side, 4)).astype(np.uint8)
    patch = cv2.GaussianBlur(fine, (0, 0), side / 200)

    def shown(pixels):
        return cv2.resize(pixels[..., :3].astype(np.float32), (side * 3 // 7,) * 2, interpolation=cv2.INTER_AREA)

    lost = [degrade(patch, arcface_template(side), {"resolution_loss": 1.0}, seed)[0] for seed in range(24)]
    left = [np.corrcoef(shown(one).ravel(), shown(patch).ravel())[0, 1] for one in lost]
    assert np.mean(left) < 0.7, (side, left)


def test_landmarks_follow_the_flip_and_twice_is_nothing(photos, face_pack):
    """The recogniser sees the flipped patch's landmarks where they are: the face is still found upright and the same."""
    from anyphoto_cli.faces.norm_crop import norm_crop
    from anyphoto_cli.faces.reference_face import find_reference_face
    from anyphoto_cli.files.images import read_picture

    picture = read_picture(photos / "refs" / "obama" / "obama.jpg")
    patch = face_patch(picture, find_reference_face(face_pack, picture).face.landmarks, 448)
    points = arcface_template(448)
    mirrored, moved = flipped(patch, points)
    assert not is_mirrored(moved) and np.allclose(flipped(mirrored, moved)[1], points)
    [found] = face_pack.detect([np.pad(mirrored[..., :3], ((150, 150), (150, 150), (0, 0)))])
    assert np.abs(found[0].landmarks - 150 - moved).max() < 448 * 0.05
    crops = np.stack([norm_crop(patch[..., :3], points), norm_crop(mirrored[..., :3], moved)])
    one, other = face_pack.embed(crops)
    assert one @ other > 0.6
