"""The mini face recogniser: norm-crops to 512 numbers, trained with ArcFace on drawn people."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.recogniser_torch import to_input
from anyphoto_cli.mini.pretrain.face_augment import degrade, relight
from anyphoto_cli.mini.pretrain.face_detector import ConvNorm, Residual
from anyphoto_cli.mini.pretrain.face_pictures import IDENTITIES, DrawnPictures, drawn_pictures
from anyphoto_cli.mini.pretrain.loop import Schedule, fit
from anyphoto_cli.types import Picture

NAME = "face-recogniser"
SCHEDULE = Schedule(steps=8000, batch=64, lr=2.5e-3, decay=0.8, weight_decay=0.05, betas=(0.9, 0.98), clip=5.0)

MARGIN, _SCALE, _MARGIN_STEPS = 0.35, 24.0, 1000
LEAST_VISIBLE = 0.55
_SMALLEST = 15.0


class FaceRecogniser(nn.Module):
    """[n, 3, 112, 112], (RGB - 127.5) / 127.5 -> [n, 512]. Its direction is the identity."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128), narrow: int = 16) -> None:
        super().__init__()
        a, b, c, d = widths
        self.body = nn.Sequential(
            nn.Conv2d(3, a, 4, 2, 1),
            nn.ReLU(),
            ConvNorm(a, b, stride=2),
            Residual(b),
            ConvNorm(b, c, stride=2),
            Residual(c),
            ConvNorm(c, d, stride=2),
            Residual(d),
            # Most weights of a recogniser lie in its last layer: few channels before it keep the file small.
            ConvNorm(d, narrow, 1, active=False),
        )
        self.last = nn.Linear(7 * 7 * narrow, 512, bias=False)
        self.norm = nn.BatchNorm1d(512, affine=False)

    def forward(self, crops: Tensor) -> Tensor:
        """Not of unit length."""
        embedding: Tensor = self.norm(self.last(self.body(crops).flatten(1)))
        return embedding


class Classified(nn.Module):
    """The recogniser with one direction for each training person, which training alone needs."""

    def __init__(self, people: int = IDENTITIES) -> None:
        super().__init__()
        self.net = FaceRecogniser()
        self.people = nn.Parameter(F.normalize(torch.randn(people, 512), dim=1))

    def forward(self, crops: Tensor) -> Tensor:
        """[n, 3, 112, 112] -> cosine to every person, [n, people]."""
        embedding = F.normalize(self.net(crops).float(), dim=1)
        cosines: Tensor = embedding @ F.normalize(self.people, dim=1).T
        return cosines.float()


def arcface(cosines: Tensor, who: Tensor, margin: float, scale: float = _SCALE) -> Tensor:
    """Cross-entropy with the right person's angle made larger by `margin`. cosines: [n, people]; who: [n]."""
    right = cosines.gather(1, who[:, None]).clamp(-1 + 1e-5, 1 - 1e-5)
    angle = torch.acos(right) + margin
    # Beyond pi the cosine would rise again: go on linearly there.
    harder = torch.where(angle < math.pi, torch.cos(angle), right - margin * math.sin(margin))
    return F.cross_entropy(scale * cosines.scatter(1, who[:, None], harder), who)


class CropSamples:
    """Crop k: one face of the drawn pictures as a recogniser may meet it, and who it is."""

    def __init__(self, pictures: DrawnPictures) -> None:
        self.pictures = pictures
        seen = pictures.truth["visible"] >= LEAST_VISIBLE
        self.faces = np.argwhere(seen & (np.arange(seen.shape[1]) < pictures.truth["people"][:, None]))
        self._order = lru_cache(maxsize=2)(lambda turn: np.random.default_rng([turn, 3]).permutation(len(self.faces)))

    def __getitem__(self, number: int) -> tuple[Picture, int]:
        """[112, 112, 3] and the person's number. Passes through all faces in a new order each time."""
        turn, place = divmod(number, len(self.faces))
        picture, person = self.faces[self._order(turn)[place]]
        drawn = self.pictures[int(picture)]
        rng = np.random.default_rng([number, 7])
        crop = norm_crop(drawn.pixels, jittered(drawn.landmarks[person], rng))
        if rng.random() < 0.6:
            crop = relight(crop, rng)
        return degrade(crop, rng, smallest=_SMALLEST, share=0.5), int(drawn.identity[person])


def jittered(landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a detector would place them: each a little off, now and then all together more so."""
    points = landmarks.astype(np.float64)
    size = float(np.linalg.norm(points[:2].mean(0) - points[3:].mean(0))) * 2.2
    spread = 0.045 if rng.random() < 0.15 else 0.018
    shift, each = rng.normal(0, spread, (1, 2)), rng.normal(0, spread, (5, 2))
    jittered: np.ndarray = points + size * (0.6 * shift + each)
    return jittered


class RecogniserLoss:
    """ArcFace; the margin grows from 0, because a fresh net cannot climb it."""

    def __init__(self, samples: CropSamples, device: str = "cpu") -> None:
        self.samples, self.device = samples, device

    def __call__(self, model: nn.Module, numbers: range, step: int) -> dict[str, Tensor]:
        """See loop.Loss."""
        pairs = [self.samples[number] for number in numbers]
        crops = torch.from_numpy(np.stack([crop for crop, _ in pairs])).to(self.device)
        who = torch.tensor([person for _, person in pairs], device=self.device)
        cosines = model(to_input(crops).contiguous(memory_format=torch.channels_last))
        loss = arcface(cosines, who, MARGIN * min(1.0, step / _MARGIN_STEPS))
        return {"loss": loss, "right": (cosines.argmax(1) == who).float().mean()}


def train_recogniser(
    folder: Path, minutes: float | None = None, device: str = "cpu", schedule: Schedule = SCHEDULE
) -> FaceRecogniser:
    """Train, or go on training, in `folder`; draws its pictures first. About 35 minutes of one free core in all."""
    torch.manual_seed(2)
    model = Classified()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = RecogniserLoss(CropSamples(drawn_pictures(folder)), device)
    fit(NAME, model, loss, schedule, folder, device=device, minutes=minutes)
    return model.net.eval()
