"""The location canvas: a face patch pasted at its place on white, and the mask of where it lies.

Scale and translation only: the similarity between landmarks is used to read the scale, rotation is never applied.
One canvas per identity. Source: appendix A.3, Eq. 26-30.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.geometry import TOKEN_PX, arcface_template, fit_similarity, intersection
from anyphoto_cli.types import Box, Patch, Picture, Points


@dataclass(frozen=True, eq=False)
class LocationCanvas:
    """C_i and M_i. pixels: [H, W, 3] RGB, 0-255. mask: [H, W] bool. box: where the patch was pasted, px, unclipped."""

    pixels: Picture
    mask: NDArray[np.bool_]
    box: Box


def paste_transform(
    patch_points: Points, image_points: Points, scale_range: tuple[float, float]
) -> tuple[float, tuple[int, int]]:
    """Scale and offset that put a face patch on its place; rotation is read, not applied.

    patch_points, image_points: [5, 2] p_k in the patch, q_k in the picture; px, ArcFace order.
    scale_range: (s_min, s_max). Returns s and the corner (x, y), px, may be negative: the paste clips.
    Raises ValueError when the image points coincide. Source: Eq. 27 scale, 28 reciprocal and clamp, 29 offset.
    """
    s_hat = fit_similarity(image_points, patch_points).scale
    if not s_hat > 0:
        raise ValueError("the points hold no scale")
    s = float(np.clip(1.0 / s_hat, *scale_range))
    delta = (image_points - s * patch_points).mean(0)
    return s, (int(np.floor(delta[0] + 0.5)), int(np.floor(delta[1] + 0.5)))


def scale_range(width: int, height: int, method: MethodConfig) -> tuple[float, float]:
    """(s_min, s_max): a patch covers at least a token and at most the longer side. Source: Eq. 28, bounds ours."""
    return method.scale_min_px / method.patch_size, max(width, height) / method.patch_size


def paste_box(place: Points, width: int, height: int, method: MethodConfig, patch_points: Points | None = None) -> Box:
    """Where the patch of a face at `place` ([5, 2] px) will lie, px, unclipped. Raises as `paste_transform`.

    patch_points: [5, 2] px, where the landmarks lie in the patch; the ArcFace template's, unless it was changed.
    """
    size = method.patch_size
    points = arcface_template(size) if patch_points is None else patch_points
    s, (x, y) = paste_transform(points, place, scale_range(width, height, method))
    side = max(1, round(size * s))
    return Box(x, y, x + side, y + side)


def covered_tokens(place: Points, width: int, height: int, side: int, method: MethodConfig) -> int:
    """How many tokens a face's patch covers when the largest square crop of a picture is scaled to `side` px.

    place: [5, 2] px of the picture of width x height px. Counted in the whole picture, no crop being chosen yet: a crop
    that cuts the patch leaves fewer.
    """
    scale = side / min(width, height)
    wide, high = round(width * scale), round(height * scale)
    try:
        box = intersection(paste_box((place + 0.5) * scale - 0.5, wide, high, method), Box(0, 0, wide, high))
    except ValueError:  # landmarks that coincide
        return 0
    if box.area <= 0:
        return 0
    across = int(-(-box.x1 // TOKEN_PX) - box.x0 // TOKEN_PX)
    return across * int(-(-box.y1 // TOKEN_PX) - box.y0 // TOKEN_PX)


def location_canvas(
    patch: Patch, place: Points, width: int, height: int, method: MethodConfig, patch_points: Points | None = None
) -> LocationCanvas:
    """Paste a patch at `place` on a white canvas of width x height px; what reaches beyond the border is cut off.

    patch: [P, P, 4] RGBA. place: [5, 2] px. patch_points: as for `paste_box`. Raises as `paste_transform`.
    Source: A.3, Eq. 27-30.
    """
    box = paste_box(place, width, height, method, patch_points)
    scaled = _resize(patch, int(box.width)).astype(np.float32)
    canvas = np.full((height, width, 3), 255, np.uint8)
    mask = np.zeros((height, width), bool)
    x0, y0 = max(int(box.x0), 0), max(int(box.y0), 0)
    x1, y1 = min(int(box.x1), width), min(int(box.y1), height)
    if x0 < x1 and y0 < y1:
        cut = scaled[y0 - int(box.y0) : y1 - int(box.y0), x0 - int(box.x0) : x1 - int(box.x0)]
        alpha = cut[..., 3:] / 255
        canvas[y0:y1, x0:x1] = np.rint(cut[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        mask[y0:y1, x0:x1] = cut[..., 3] > method.alpha_threshold  # Eq. 30
    return LocationCanvas(canvas, mask, box)


def _resize(patch: Patch, side: int) -> Patch:
    """Antialiased when it shrinks. Pillow weighs colours by alpha, so that the photo's end does not bleed in."""
    from PIL import Image

    return np.asarray(Image.fromarray(patch).resize((side, side), Image.Resampling.BICUBIC))


def token_mask(mask: NDArray[np.bool_], rule: str = "any") -> NDArray[np.bool_]:
    """M at token resolution: [H, W] bool -> [H/16, W/16] bool. Source: paper 3.2; rules: MethodConfig.mask_rule."""
    rows, columns = mask.shape[0] // TOKEN_PX, mask.shape[1] // TOKEN_PX
    cells = mask.reshape(rows, TOKEN_PX, columns, TOKEN_PX)
    if rule == "nearest":
        return cells[:, TOKEN_PX // 2, :, TOKEN_PX // 2].copy()
    at_least = {"any": 1, "majority": TOKEN_PX * TOKEN_PX // 2}[rule]
    kept: NDArray[np.bool_] = cells.sum(axis=(1, 3)) >= at_least
    return kept
