"""Each degradation by its name does what it says, and no more of it: a face that is worn can still be told."""

import cv2
import numpy as np
import pytest

from anyphoto_cli.train.degradations import DEGRADATIONS, stream

SEEDS = range(20)
NOISE = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)


def worn(name, picture):
    return [DEGRADATIONS[name](picture.copy(), stream(seed, name)) for seed in SEEDS]


def plain(*colour):
    return np.full((128, 128, 3), colour, np.uint8)


def hue(picture):
    return cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 0].astype(int).mean()


def test_a_saved_picture_keeps_its_colours():
    ramp = plain(60, 40, 20) + np.arange(128, dtype=np.uint8)[:, None, None]
    assert all(np.abs(one.mean((0, 1)) - ramp.mean((0, 1))).max() < 8 for one in worn("jpeg", ramp))


def test_jitter_turns_no_colour_into_its_opposite_and_greys_into_none():
    red, grey = plain(130, 70, 50), plain(120, 120, 120)
    for one in worn("color_jitter", red):
        assert abs((hue(one) - hue(red) + 90) % 180 - 90) <= 10 and one[0, 0, 0] > one[0, 0].min() + 20
    assert all(np.ptp(one, axis=-1).max() <= 1 for one in worn("color_jitter", grey))


def test_few_pixels_are_salt_or_pepper():
    for one in worn("salt_and_pepper", plain(120, 130, 140)):
        hit = one[(one != (120, 130, 140)).any(-1)]
        assert 0.001 < len(hit) / 128**2 < 0.035 and set(hit.ravel().tolist()) == {0, 255}


def test_what_lies_before_a_face_is_of_one_colour_and_leaves_most_of_it_to_see():
    shares = []
    for one in worn("occlusion", NOISE):
        covered = one[(one != NOISE).any(-1)]
        _, often = np.unique(covered, axis=0, return_counts=True)
        shares.append(len(covered) / 128**2)
        assert often.max() > 0.4 * len(covered)
    assert max(shares) <= 0.35 and min(shares) > 0.01 and np.mean(shares) == pytest.approx(0.12, abs=0.05)


def test_light_from_one_side_changes_slowly_over_the_whole_patch():
    for one in (*worn("illumination", plain(150, 150, 150)), *worn("illumination", plain(235, 235, 235))):
        lit = one.astype(int)  # white at most, of which more light makes no black
        assert np.abs(np.diff(lit, axis=0)).max() <= 3 and np.abs(np.diff(lit, axis=1)).max() <= 3
        assert np.ptp(lit[..., 0]) > 40
