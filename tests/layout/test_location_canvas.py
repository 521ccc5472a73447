"""Appendix A.3 by hand, and its properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.geometry import Similarity, arcface_template, intersection
from anyphoto_cli.layout.location_canvas import (
    location_canvas,
    paste_box,
    paste_transform,
    scale_range,
    token_mask,
)
from anyphoto_cli.types import Box

METHOD = MethodConfig(patch_size=112)
W, H = 256, 192


def patch(size: int = 112, alpha: int = 255) -> np.ndarray:
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 200, alpha
    return pixels


def place(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    """The template about its middle, turned and scaled, moved to x, y."""
    turned = Similarity(scale * np.cos(angle), scale * np.sin(angle), 0, 0)(arcface_template() - 56)
    return turned + [x, y]


def test_paste_by_hand():
    """An upright face at half size: s = 1/2, and the patch's corner lies 28 px left and above its middle."""
    s, corner = paste_transform(arcface_template(), place(0.5, 0, 100, 80), (0.01, 10))
    assert s == pytest.approx(0.5)
    assert corner == (72, 52)


def test_rotation_is_read_but_not_applied():
    """A turned face has the same size; the offset puts the mean of the points on its place. Eq. 27-29."""
    points = place(0.5, 0.6, 100, 80)
    s, corner = paste_transform(arcface_template(), points, (0.01, 10))
    assert s == pytest.approx(0.5)
    delta = (points - 0.5 * arcface_template()).mean(0)
    assert corner == tuple(np.round(delta).astype(int))


@settings(max_examples=200)
@given(st.floats(0.1, 6), st.floats(-3, 3), st.floats(-200, 400), st.floats(-200, 400))
def test_paste_equals_scikit_image(scale, angle, x, y):
    points = place(scale, angle, x, y)
    s, corner = paste_transform(arcface_template(), points, (1e-3, 1e3))
    estimate = SimilarityTransform.from_estimate(points, arcface_template())
    assert s == pytest.approx(1 / float(estimate.scale), rel=1e-6)
    assert np.abs(np.array(corner) - (points - s * arcface_template()).mean(0)).max() <= 0.5 + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 3), st.floats(-1, 1), st.floats(-40, 300), st.floats(-40, 240))
def test_canvas_is_white_outside_the_mask_and_clipped_inside_the_border(scale, angle, x, y):
    points = place(scale, angle, x, y)
    canvas = location_canvas(patch(), points, W, H, METHOD)
    assert canvas.pixels.shape == (H, W, 3) and canvas.mask.shape == (H, W)
    assert (canvas.pixels[~canvas.mask] == 255).all()
    assert (canvas.pixels[canvas.mask] == [200, 0, 0]).all()
    assert canvas.box == paste_box(points, W, H, METHOD)
    inside = intersection(canvas.box, Box(0, 0, W, H))
    assert canvas.mask.sum() == inside.area
    if canvas.mask.any():
        assert token_mask(canvas.mask).any()  # the rule "any" never loses a face


def test_scale_is_clamped():
    low, high = scale_range(W, H, METHOD)
    assert (low, high) == (16 / 112, 256 / 112)
    assert paste_transform(arcface_template(), place(0.01, 0, 100, 80), (low, high))[0] == low
    assert paste_transform(arcface_template(), place(50, 0, 100, 80), (low, high))[0] == high


def test_alpha_blends_with_white_and_decides_the_mask():
    half = location_canvas(patch(alpha=128), place(1, 0, 100, 90), W, H, METHOD)
    assert abs(int(half.pixels[90, 100, 0]) - round(200 * 128 / 255 + 255 * 127 / 255)) <= 1
    assert half.mask[90, 100]
    strict = MethodConfig(patch_size=112, alpha_threshold=200)
    assert not location_canvas(patch(alpha=128), place(1, 0, 100, 90), W, H, strict).mask.any()
    assert not location_canvas(patch(alpha=0), place(1, 0, 100, 90), W, H, METHOD).mask.any()
