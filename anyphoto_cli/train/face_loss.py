"""The identity loss: whoever stands at L_i in the model's one-step estimate must look like the reference. Paper 3.5.

Eq. 23 F_i = NormCrop(D(X_0), L_i); Eq. 24 L_id = 1/N sum_i (1 - cos(e_i, ArcFace(F_i))). The place is the given one: no
detector looks at half-made pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
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
) -> FaceLoss:
    """L_id of a batch. Source: Eq. 23, 24.

    clean: [n, 16, h, w] one-step estimates, as `model.vae.encode` scales latents. faces: of each sample. margin: latent
    pixels decoded around each face; None decodes whole pictures (the literal form, and several times the memory).
    recompute: decode again in the backward pass instead of keeping what lies between. 0 where no face is valid.
    """
    height, width = clean.shape[2] * DOWN, clean.shape[3] * DOWN
    groups = [[face for face in group if face.shows_somebody(width, height)] for group in faces]
    crops = [
        crop
        for latents, valid in zip(clean, groups, strict=True)
        if valid
        for crop in _crops(latents[None], valid, vae, margin, recompute)
    ]
    if not crops:
        return FaceLoss(clean.sum() * 0.0, clean.new_zeros(0))
    # All faces of the batch at once: a small network would keep a large card waiting for its calls.
    wanted = upload(torch.stack([face.embedding for valid in groups for face in valid]), clean.device)
    found = (recogniser(torch.cat(crops).float()) * F.normalize(wanted.float(), dim=1)).sum(1)
    per_sample = [(1 - part).mean() for part in found.split([len(valid) for valid in groups]) if len(part)]
    return FaceLoss(torch.stack(per_sample).mean(), found.detach())


def _crops(latents: Tensor, faces: Sequence[FaceTarget], vae: Any, margin: int | None, recompute: bool) -> list[Tensor]:
    """[1, 3, 112, 112] each."""
    height, width = latents.shape[2:]
    windows = [latent_window(face.landmarks, width, height, margin or 0) for face in faces]
    cut = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in windows)
    if margin is None or cut >= width * height:  # windows that together are larger than the picture save nothing
        picture = _decoded(vae, latents, recompute)
        return [norm_crop_torch(picture, _tensor(face.landmarks)) for face in faces]
    found = []
    for face, (x0, y0, x1, y1) in zip(faces, windows, strict=True):
        part = _decoded(vae, latents[:, :, y0:y1, x0:x1], recompute)
        found.append(norm_crop_torch(part, _tensor(face.landmarks - (x0 * DOWN, y0 * DOWN))))
    return found


def _tensor(points: Points) -> Tensor:
    return torch.from_numpy(np.asarray(points, np.float64))[None]


def _decoded(vae: Any, latents: Tensor, recompute: bool) -> Tensor:
    if not recompute:
        return decode(vae, latents)
    picture: Tensor = checkpoint(lambda z: decode(vae, z), latents, use_reentrant=False)
    return picture


def latent_window(landmarks: Points, width: int, height: int, margin: int) -> tuple[int, int, int, int]:
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
