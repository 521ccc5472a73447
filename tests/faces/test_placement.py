"""Places, swaps, doubles and who is missing, on pictures of points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyphoto_cli.faces.placement import exchanged, placement
from anyphoto_cli.geometry import arcface_template, face_height


def face(x: float, y: float, size: float = 1.0) -> np.ndarray:
    points = arcface_template(112) * size
    return points - points.mean(0) + (x, y)


ASKED = np.stack([face(100, 100), face(400, 100), face(700, 100)])
HEIGHT = face_height(ASKED)[0]


def test_all_at_their_places():
    got = placement(ASKED[::-1], ASKED, np.eye(3)[::-1])
    assert (got.expected, got.faces, got.placed, got.swapped, got.duplicates, got.extra) == (3, 3, 3, 0, 0, 0)
    assert got.error == pytest.approx(0) and got.coverage == 1


def test_errors_are_in_face_heights_and_too_far_is_missing():
    found = np.stack([face(100 + 0.25 * HEIGHT, 100), face(400, 100 + 0.5 * HEIGHT), face(700, 100 + 1.5 * HEIGHT)])
    got = placement(found, ASKED, None)
    assert got.placed == 2 and got.error == pytest.approx(0.375) and got.coverage == pytest.approx(2 / 3)
    assert placement(found[2:], ASKED, None).error is None
    twice = np.stack([face(200, 200, 2), face(800, 200, 2), face(1400, 200, 2)])
    assert placement(found * 2, twice, None).error == pytest.approx(0.375)  # a larger picture says the same
    larger = placement(face(100 + 0.5 * HEIGHT, 100, 2)[None], ASKED, None)
    assert larger.error == pytest.approx(0.5)  # a face that was drawn too large is no nearer for it


def test_who_can_stand_at_a_place_stands_there_though_others_are_nearer_in_sum():
    """The second face reaches the first place alone; the first one, which stands there, reaches both."""
    asked = np.stack([face(100, 100), face(100 + 0.9 * HEIGHT, 100)])
    found = np.stack([face(100, 100), face(100 + 0.1 * HEIGHT, 100 + 0.8944 * HEIGHT)])
    got = placement(found, asked, None)
    assert got.placed == 2 and got.error == pytest.approx(0.9, abs=1e-3)


def test_swapped_people_stand_at_each_other_s_place():
    similar = np.eye(3)[[1, 0, 2]]
    assert placement(ASKED, ASKED, similar).swapped == 2
    assert placement(ASKED[:1], ASKED[:1], np.array([[0.0]])).swapped == 0


def test_a_stranger_at_somebody_s_place_is_not_swapped():
    """However unlike, one of the people asked for is the nearest."""
    similar = np.array([[0.1, 0.2, 0.15], [0.5, 0.3, 0], [0, 0.1, 0.39]])
    got = placement(ASKED, ASKED, similar)
    assert (got.swapped, got.strangers, got.placed) == (1, 2, 3)
    lower = placement(ASKED, ASKED, similar, same_person=0.2)
    assert (lower.swapped, lower.strangers) == (2, 0)
    beside = placement(ASKED + (0, 3 * HEIGHT), ASKED, similar)
    assert (beside.swapped, beside.strangers, beside.extra) == (0, 0, 0)  # none of them stands at a place
    assert placement(ASKED[:1], ASKED[:1], np.array([[0.0]])).strangers == 1
    assert placement(ASKED, ASKED, None).strangers == 0


def test_doubles_and_strangers():
    found = np.concatenate([ASKED, [face(1000, 100)], [face(1300, 100)]])
    similar = np.array([[0.8, 0, 0], [0, 0.8, 0], [0, 0, 0.8], [0.7, 0, 0], [0.2, 0.1, 0]])
    got = placement(found, ASKED, similar)
    assert (got.duplicates, got.extra, got.placed) == (1, 2, 3)
    assert placement(found, ASKED, similar, same_person=0.75).duplicates == 0


def test_whole_circles_are_exchanged_and_noise_is_not():
    right, cycle = 0.6 * np.eye(4), 0.6 * np.eye(4)[[1, 2, 0, 3]]
    assert exchanged(right) == {} and exchanged(cycle) == {0: 1, 1: 2, 2: 0}
    noise = np.array([[0.0, 0.2], [0.2, 0.0]])
    assert exchanged(noise) == {} and exchanged(1.3 * noise) == {0: 1, 1: 0}
    assert exchanged(np.array([[0.1, 0.6], [0.0, 0.2]])) == {}  # one there twice: nobody is at the first place
    assert exchanged(np.array([[0.1, 0.6], [0.1, 0.05]])) == {}  # only one of the two gains
    assert exchanged(np.zeros((0, 0))) == {}


def test_nobody():
    none = np.zeros((0, 5, 2))
    got = placement(none, ASKED, np.zeros((0, 3)))
    assert (got.placed, got.coverage, got.error, got.swapped, got.duplicates) == (0, 0, None, 0, 0)
    assert placement(ASKED, none, None).coverage == 1 and placement(ASKED, none, None).extra == 3


@given(st.integers(0, 10**6))
def test_the_order_of_faces_says_nothing(seed):
    rng = np.random.default_rng(seed)
    found = ASKED[rng.integers(3, size=4)] + rng.normal(0, 40, (4, 1, 2))
    similar, order = rng.uniform(-0.2, 1, (4, 3)), rng.permutation(4)
    one, other = placement(found, ASKED, similar), placement(found[order], ASKED, similar[order])
    assert (one.placed, one.swapped, one.duplicates) == (other.placed, other.swapped, other.duplicates)
    assert one.strangers == other.strangers and one.swapped + one.strangers <= one.placed
    assert (one.error is None) == (other.error is None) and (
        one.error is None or one.error == pytest.approx(other.error)
    )
