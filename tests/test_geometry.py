"""Similarities against scikit-image and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from anyphoto_cli.geometry import (
    Similarity,
    arcface_template,
    fit_similarity,
    is_mirrored,
    overlap,
    upright_landmarks,
)
from anyphoto_cli.types import Box

numbers = st.floats(-500, 500)
similarities = st.builds(
    lambda scale, angle, tx, ty: Similarity(scale * np.cos(angle), scale * np.sin(angle), tx, ty),
    st.floats(0.05, 20),
    st.floats(-np.pi, np.pi),
    numbers,
    numbers,
)
faces = st.builds(
    lambda s, noise: s(arcface_template()) + np.array(noise).reshape(5, 2) * s.scale,
    similarities,
    st.lists(st.floats(-8, 8), min_size=10, max_size=10),
)


@given(faces, faces)
def test_fit_equals_scikit_image(source, target):
    found, expected = fit_similarity(source, target), SimilarityTransform.from_estimate(source, target)
    scale = max(1.0, float(np.abs(expected.params).max()))
    np.testing.assert_allclose(found.matrix, expected.params[:2], atol=1e-6 * scale)
    assert found.scale == pytest.approx(float(expected.scale), rel=1e-6, abs=1e-9)


@given(similarities)
def test_fit_recovers_a_known_similarity(known):
    found = fit_similarity(arcface_template(), known(arcface_template()))
    np.testing.assert_allclose(found.matrix, known.matrix, rtol=1e-6, atol=1e-6)


@given(similarities)
def test_rotation_never_mirrors_and_exchange_always_does(place):
    points = place(arcface_template())
    assert not is_mirrored(points)
    assert is_mirrored(points[[1, 0, 2, 4, 3]])


def test_coinciding_points_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        fit_similarity(np.ones((5, 2)), arcface_template())


@settings(max_examples=50)
@given(numbers, numbers, st.floats(1, 300), st.floats(1, 300))
def test_a_box_holds_its_upright_face(x, y, width, height):
    points = upright_landmarks(Box(x, y, x + width, y + height))
    assert (points >= [x - 1e-6, y - 1e-6]).all() and (points <= [x + width + 1e-6, y + height + 1e-6]).all()
    fit = fit_similarity(arcface_template(), points)
    assert fit.b == pytest.approx(0, abs=1e-9) and fit.scale == pytest.approx(min(width, height) / 112)


def test_overlap_by_hand():
    assert overlap(Box(0, 0, 10, 10), Box(5, 0, 15, 10)) == pytest.approx(0.5)
    assert overlap(Box(0, 0, 10, 10), Box(2, 2, 4, 4)) == 1
    assert overlap(Box(0, 0, 10, 10), Box(10, 0, 20, 10)) == 0
