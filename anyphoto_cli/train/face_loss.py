"""The identity loss: whoever stands at L_i in the model's one-step estimate must look like the reference. Paper 3.5.

Eq. 23 F_i = NormCrop(D(X_0), L_i); Eq. 24 L_id = 1/N sum_i (1 - cos(e_i, ArcFace(F_i))). The place is the given one: no
detector looks at half-made pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from anyphoto_cli.faces.norm_crop_torch import norm_crop_torch
from anyphoto_cli.geometry import ARCFACE_SIZE, arcface_template, fit_similarity
from anyphoto_cli.model.vae import DOWN, decode
from anyphoto_cli.runtime.uploads import upload
from anyphoto_cli.types import Points

LEAST_EYES = 12.0
"""Eyes nearer to each other than so many px show nobody."""
STEP = {"cuda": 8}
"""Windows are so many latent pixels wide, or twice as many, and so on: those of one size are one call. On a GPU, which
waits for its host's calls; a CPU would only have more to decode.
"""
DECODED_AT_ONCE = {"cuda": 2**18}
"""Of windows that are decoded in one call: as many as a picture of 512 px has, whose layers want memory. Elsewhere each
window is a call.
"""

Window = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class FaceTarget:
    """landmarks: [5, 2] px of the training crop. embedding: [512], unit length: whom the face must resemble."""

    landmarks: Points
    embedding: Tensor

    def shows_somebody(self, width: int, height: int) -> bool:
        """Whether the face lies in the picture and is large enough to be told from others."""
        inside = (self.landmarks >= 0).all() and (self.landmarks <= (width - 1, height - 1)).all()
        return bool(inside and np.hypot(*(self.landmarks[1] - self.landmarks[0])) >= LEAST_EYES)


@dataclass(frozen=True, eq=False)
class FaceLoss:
    """loss: scalar, the mean over samples of the mean over their valid faces. cosines: [valid], without gradient."""

    loss: Tensor
    cosines: Tensor

    @property
    def valid(self) -> int:
        """Faces that counted."""
        return len(self.cosines)


def face_loss(
    clean: Tensor,
    faces: Sequence[Sequence[FaceTarget]],
    vae: Any,
    recogniser: nn.Module,
    *,
    margin: int | None = 4,
    recompute: bool = False,
    step: int | None = None,
) -> FaceLoss:
    """L_id of a batch. Source: Eq. 23, 24.

    clean: [n, 16, h, w] one-step estimates, as `model.vae.encode` scales latents. faces: of each sample. margin: latent
    pixels decoded around each face; None decodes whole pictures (the literal form, and several times the memory).
    recompute: decode again in the backward pass instead of keeping what lies between. step: windows grow to its
    multiples; None: `STEP` of the device. 0 where no face is valid.
    """
    height, width = clean.shape[2] * DOWN, clean.shape[3] * DOWN
    groups = [[face for face in group if face.shows_somebody(width, height)] for group in faces]
    if not any(groups):
        return FaceLoss(clean.sum() * 0.0, clean.new_zeros(0))
    step = STEP.get(clean.device.type, 1) if step is None else step
    crops = _crops(clean, groups, vae, margin, recompute, step)
    # All faces of the batch at once: a small network would keep a large card waiting for its calls.
    wanted = upload(torch.stack([face.embedding for valid in groups for face in valid]), clean.device)
    found = (recogniser(crops.float()) * F.normalize(wanted.float(), dim=1)).sum(1)
    per_sample = [(1 - part).mean() for part in found.split([len(valid) for valid in groups]) if len(part)]
    return FaceLoss(torch.stack(per_sample).mean(), found.detach())


def _crops(
    clean: Tensor, groups: Sequence[Sequence[FaceTarget]], vae: Any, margin: int | None, recompute: bool, step: int
) -> Tensor:  # fmt: skip
    """[faces, 3, 112, 112], sample after sample. Windows of one size are decoded together."""
    height, width = clean.shape[2:]
    parts: dict[tuple[int, Window], list[tuple[int, Points]]] = {}
    numbers = itertools.count()
    for sample, faces in enumerate(groups):
        for face, window in zip(faces, _windows(faces, width, height, margin, step), strict=True):
            points = face.landmarks - (window[0] * DOWN, window[1] * DOWN)
            parts.setdefault((sample, window), []).append((next(numbers), points))
    crops: dict[int, Tensor] = {}
    for alike in _of_one_size(list(parts), DECODED_AT_ONCE.get(clean.device.type, 0)):
        latents = [clean[sample : sample + 1, :, y0:y1, x0:x1] for sample, (x0, y0, x1, y1) in alike]
        pictures = _decoded(vae, torch.cat(latents), recompute).split(1)
        shown = [picture for part, picture in zip(alike, pictures, strict=True) for _ in parts[part]]
        seen = [look for part in alike for look in parts[part]]
        landmarks = torch.from_numpy(np.stack([np.asarray(points, np.float64) for _, points in seen]))
        found = norm_crop_torch(torch.cat(shown), landmarks).split(1)
        crops |= {number: crop for (number, _), crop in zip(seen, found, strict=True)}
    return torch.cat([crops[number] for number in sorted(crops)])


def _windows(faces: Sequence[FaceTarget], width: int, height: int, margin: int | None, step: int) -> list[Window]:
    """Of each face of a sample; the whole picture where windows together are larger, and save nothing."""
    windows = [_grown(latent_window(face.landmarks, width, height, margin or 0), width, height, step) for face in faces]
    cut = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in windows)
    return [(0, 0, width, height)] * len(faces) if margin is None or cut >= width * height else windows


def _grown(window: Window, width: int, height: int, step: int) -> Window:
    """The same, larger by as little as makes its sides multiples of `step`, or the picture's own."""
    x0, y0, x1, y1 = window
    wide, high = min(-(-(x1 - x0) // step) * step, width), min(-(-(y1 - y0) // step) * step, height)
    x0, y0 = min(x0, width - wide), min(y0, height - high)
    return x0, y0, x0 + wide, y0 + high


def _of_one_size(parts: Sequence[tuple[int, Window]], pixels: int) -> Iterator[list[tuple[int, Window]]]:
    """As many at once as have so many pixels together, but one."""
    by_size: dict[tuple[int, int], list[tuple[int, Window]]] = {}
    for sample, window in parts:
        x0, y0, x1, y1 = window
        by_size.setdefault((x1 - x0, y1 - y0), []).append((sample, window))
    for (wide, high), alike in by_size.items():
        room = max(pixels // (wide * high * DOWN**2), 1)
        for first in range(0, len(alike), room):
            yield alike[first : first + room]


def _decoded(vae: Any, latents: Tensor, recompute: bool) -> Tensor:
    if not recompute:
        return decode(vae, latents)
    picture: Tensor = checkpoint(lambda z: decode(vae, z), latents, use_reentrant=False)
    return picture


def latent_window(landmarks: Points, width: int, height: int, margin: int) -> Window:
    """x0, y0, x1, y1 in latent pixels: all that the norm-crop sees, and `margin` around it, inside width x height.

    A convolution near the edge of a window sees zeros where the whole picture had latents: the margin keeps that out of
    the face.
    """
    back = fit_similarity(arcface_template(), landmarks)
    edge = ARCFACE_SIZE - 0.5
    corners = back(np.array([(-0.5, -0.5), (edge, -0.5), (edge, edge), (-0.5, edge)]))
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    return (
        min(max(int(np.floor(x0 / DOWN)) - margin, 0), width - 1),
        min(max(int(np.floor(y0 / DOWN)) - margin, 0), height - 1),
        max(min(int(np.ceil(x1 / DOWN)) + margin, width), 1),
        max(min(int(np.ceil(y1 / DOWN)) + margin, height), 1),
    )
