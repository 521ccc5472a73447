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
from anyphoto_cli.model.vae import DOWN, decode
from anyphoto_cli.runtime.uploads import upload
from anyphoto_cli.train.face_windows import CALLS, DecodeCalls, Window, evened, face_windows, of_one_size
from anyphoto_cli.types import Points

LEAST_EYES = 12.0
"""px between the eyes; in a photo, fewer show nobody. Paper: silent."""


@dataclass(frozen=True, eq=False)
class FaceTarget:
    """landmarks: [5, 2] px of the training crop. embedding: [512], unit length: whom the face must resemble."""

    landmarks: Points
    embedding: Tensor

    def shows_somebody(self, width: int, height: int, least_eyes: float) -> bool:
        """Whether the face lies in the picture and is large enough to be told from others: least_eyes, px, apart."""
        inside = (self.landmarks >= 0).all() and (self.landmarks <= (width - 1, height - 1)).all()
        return bool(inside and np.hypot(*(self.landmarks[1] - self.landmarks[0])) >= least_eyes)


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
    least_eyes: float = LEAST_EYES,
    recompute: bool = False,
    calls: DecodeCalls | None = None,
) -> FaceLoss:
    """L_id of a batch. Source: Eq. 23, 24.

    clean: [n, 16, h, w] one-step estimates, as `model.vae.encode` scales latents. faces: of each sample. margin: latent
    pixels decoded around each face; None decodes whole pictures (the literal form, and several times the memory).
    least_eyes: px; faces whose eyes are nearer to each other do not count. recompute: decode again in the backward pass
    instead of keeping what lies between. calls: None: `CALLS` of the device. 0 where no face is valid.
    """
    height, width = clean.shape[2] * DOWN, clean.shape[3] * DOWN
    groups = [[face for face in group if face.shows_somebody(width, height, least_eyes)] for group in faces]
    if not any(groups):
        return FaceLoss(clean.sum() * 0.0, clean.new_zeros(0))
    crops = _crops(clean, groups, vae, margin, recompute, calls or CALLS.get(clean.device.type, DecodeCalls()))
    # All faces of the batch at once: a small network would keep a large card waiting for its calls.
    wanted = upload(torch.stack([face.embedding for valid in groups for face in valid]), clean.device)
    found = (recogniser(crops.float()) * F.normalize(wanted.float(), dim=1)).sum(1)
    per_sample = [(1 - part).mean() for part in found.split([len(valid) for valid in groups]) if len(part)]
    return FaceLoss(torch.stack(per_sample).mean(), found.detach())


def _crops(
    clean: Tensor, groups: Sequence[Sequence[FaceTarget]], vae: Any, margin: int | None, recompute: bool,
    calls: DecodeCalls,
) -> Tensor:  # fmt: skip
    """[faces, 3, 112, 112], sample after sample. Windows of one size are decoded together."""
    height, width = clean.shape[2:]
    places = [[face.landmarks for face in faces] for faces in groups]
    needed = [window for faces in places for window in face_windows(faces, width, height, margin, calls.step)]
    windows = evened(needed, width, height, calls.spare)
    parts: dict[tuple[int, Window], list[tuple[int, Points]]] = {}
    samples = [(sample, face) for sample, faces in enumerate(groups) for face in faces]
    for number, ((sample, face), window) in enumerate(zip(samples, windows, strict=True)):
        points = face.landmarks - (window[0] * DOWN, window[1] * DOWN)
        parts.setdefault((sample, window), []).append((number, points))
    crops: dict[int, Tensor] = {}
    for alike in of_one_size(list(parts), calls.at_once):
        latents = [clean[sample : sample + 1, :, y0:y1, x0:x1] for sample, (x0, y0, x1, y1) in alike]
        pictures = _decoded(vae, torch.cat(latents), recompute).split(1)
        shown = [picture for part, picture in zip(alike, pictures, strict=True) for _ in parts[part]]
        seen = [look for part in alike for look in parts[part]]
        landmarks = torch.from_numpy(np.stack([np.asarray(points, np.float64) for _, points in seen]))
        found = norm_crop_torch(torch.cat(shown), landmarks).split(1)
        crops |= {number: crop for (number, _), crop in zip(seen, found, strict=True)}
    return torch.cat([crops[number] for number in sorted(crops)])


def _decoded(vae: Any, latents: Tensor, recompute: bool) -> Tensor:
    if not recompute:
        return decode(vae, latents)
    picture: Tensor = checkpoint(lambda z: decode(vae, z), latents, use_reentrant=False)
    return picture
