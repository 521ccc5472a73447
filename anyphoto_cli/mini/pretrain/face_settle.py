"""The second half of the recogniser's training: a face stays the same person on its way through the VAE.

Real recognisers learned from JPEG files and so from blurred, blocky faces; what a generator renders is such a face.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from anyphoto_cli.faces.recogniser_torch import to_input
from anyphoto_cli.files.commit import sha256_of_bytes, sha256_of_state
from anyphoto_cli.mini.pretrain.face_pictures import DrawnPictures, drawn_pictures
from anyphoto_cli.mini.pretrain.face_recogniser import (
    MARGIN,
    NAME,
    Classified,
    CropSamples,
    FaceRecogniser,
    arcface,
)
from anyphoto_cli.mini.pretrain.loop import Schedule, fast_bfloat16, fit, load_trained
from anyphoto_cli.mini.pretrain.phases import RECOGNISER, last_begun
from anyphoto_cli.mini.pretrain.vae import as_tensor, reconstruct
from anyphoto_cli.mini.types import STYLES
from anyphoto_cli.runtime.jobs import batches

SETTLED = "face-settled"
SCHEDULE = Schedule(steps=3000, batch=32, lr=8e-4, warmup=50, decay=0.9, weight_decay=0.05, betas=(0.9, 0.98), clip=5.0)
PICTURES = 10_000
SAME_WEIGHT = 24.0
"""Of 1 - cosine between the two views, beside ArcFace's cross-entropy at a scale of 24."""


class Views:
    """Crop k of a drawn picture and of the same picture after the VAE, cut and lit alike, and who it is."""

    def __init__(self, pictures: DrawnPictures, decoded: list[NDArray[np.uint8]]) -> None:
        self._before = CropSamples(pictures)
        self._after = CropSamples(DrawnPictures(decoded, pictures.truth))

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], int]:
        """[2, 112, 112, 3] and the person's number."""
        (before, who), (after, _) = self._before[number], self._after[number]
        return np.stack([before, after]), who


class SettleLoss:
    """ArcFace on both views, and what is between them."""

    def __init__(self, views: Views, device: str = "cpu") -> None:
        self.views, self.device = views, device

    def __call__(self, model: Any, numbers: range, step: int) -> dict[str, Tensor]:
        """See loop.Loss."""
        pairs = [self.views[number] for number in numbers]
        crops = torch.from_numpy(np.concatenate([crop for crop, _ in pairs])).to(self.device)
        who = torch.tensor([person for _, person in pairs], device=self.device).repeat_interleave(2)
        embedding = F.normalize(model.net(to_input(crops).contiguous(memory_format=torch.channels_last)).float(), dim=1)
        cosines = embedding @ F.normalize(model.people, dim=1).T
        same = (embedding[::2] * embedding[1::2]).sum(1).mean()
        loss = arcface(cosines.float(), who, MARGIN) + SAME_WEIGHT * (1 - same)
        return {"loss": loss, "same": same, "right": (cosines.argmax(1) == who).float().mean()}


def settle_recogniser(folder: Path, vae: Any, minutes: float | None = None, device: str = "cpu") -> None:
    """Go on from the trained recogniser in `folder`; all processes make the decoded pictures, the first one trains."""
    pictures = drawn_pictures(folder)
    some = DrawnPictures(pictures.chunks, pictures.truth[:PICTURES])
    decoded = decoded_pictures(some, vae, folder / "decoded", device)
    torch.manual_seed(6)
    model = load_trained(folder, NAME, Classified()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(SETTLED, model.train(), SettleLoss(Views(some, decoded), device), SCHEDULE, folder,
        device=device, minutes=minutes)  # fmt: skip


def settled_recogniser(folder: Path) -> FaceRecogniser:
    """The net of a run, ready for use; the one before this phase where it was not run."""
    model: Any = load_trained(folder, last_begun(folder, *RECOGNISER), Classified())
    net: FaceRecogniser = model.net.eval()
    return net


def decoded_pictures(pictures: DrawnPictures, vae: Any, home: Path, device: str) -> list[NDArray[np.uint8]]:
    """Every picture encoded and decoded, in the pictures' own chunks; each process makes its share.

    They lie below `home` by what they were made of: another VAE, or another renderer, starts anew.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    home = home / _digest(pictures, vae)
    home.mkdir(parents=True, exist_ok=True)
    vae = vae.to(device).eval()
    count = -(-len(pictures) // len(pictures.chunks[0]))
    for k in range(rank, count, world):
        if not _file(home, k).is_file():
            with _file(home, k).with_suffix(".tmp").open("wb") as out:
                np.save(out, _decoded(pictures.chunks[k], vae, device))
            _file(home, k).with_suffix(".tmp").replace(_file(home, k))
            print(f"decoded {k + 1}/{count}", flush=True)
    if world > 1:
        dist.barrier()
    return [np.load(_file(home, k), mmap_mode="r") for k in range(count)]


@torch.no_grad()
def _decoded(pixels: NDArray[np.uint8], vae: Any, device: str) -> NDArray[np.uint8]:
    parts, fast = [], fast_bfloat16(device)
    for part in batches(range(len(pixels)), 25):
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=fast):
            values = reconstruct(vae, as_tensor(np.asarray(pixels[part.start : part.stop])).to(device))
        parts.append(((values.float().permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy())
    return np.concatenate(parts)


def _digest(pictures: DrawnPictures, vae: Any) -> str:
    first = np.asarray(pictures.chunks[0][: len(STYLES) * 2])
    made_of = sha256_of_state(vae).encode() + first.tobytes() + pictures.truth.tobytes()
    return sha256_of_bytes(made_of)[:10]


def _file(home: Path, k: int) -> Path:
    return home / f"pixels-{k:03}.npy"
