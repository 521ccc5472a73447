"""The shipped recogniser taught to see through the VAE, without the run that trained it.

The pack's own embedding of a clean crop is the target for that crop and for the same crop after encoding and decoding:
who is who stays as it was, and what the codec takes from a face no longer matters as much.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.recogniser_torch import RecogniserTorch, load_recogniser, to_input
from anyphoto_cli.mini.pretrain.face_augment import relight
from anyphoto_cli.mini.pretrain.face_pictures import Drawn, DrawnPictures, drawn_pictures
from anyphoto_cli.mini.pretrain.face_recogniser import LEAST_VISIBLE, jittered
from anyphoto_cli.mini.pretrain.face_settle import decoded_pictures
from anyphoto_cli.mini.pretrain.loop import Schedule, fit, progress_of
from anyphoto_cli.mini.pretrain.onnx_file import HALF, read_whole, write_halved

NAME = "face-steady"
PICTURES = 4000
SCHEDULE = Schedule(steps=1500, batch=48, lr=6e-4, warmup=50, decay=0.9, weight_decay=0.0, betas=(0.9, 0.98), ema=0.99)


class Trainable(nn.Module):
    """A recogniser's buffers as parameters."""

    def __init__(self, frozen: RecogniserTorch) -> None:
        super().__init__()
        self.frozen = frozen
        self.names = [name for name, _ in frozen.named_buffers()]
        self.weights = nn.ParameterList([nn.Parameter(value.clone()) for _, value in frozen.named_buffers()])

    def forward(self, faces: Tensor) -> Tensor:
        """As `RecogniserTorch`."""
        weights = dict(zip(self.names, self.weights, strict=True))
        answer: Tensor = torch.func.functional_call(self.frozen, weights, (faces,))
        return answer


def steady_recogniser(folder: Path, file: Path, vae: Any, minutes: float | None = None, device: str = "cpu") -> None:
    """Train in `folder` from the recogniser in `file`, and write it there again once all steps are done."""
    pictures = drawn_pictures(folder, PICTURES)
    samples = _Pairs(pictures, decoded_pictures(pictures, vae, folder / "decoded", device))
    teacher = load_recogniser(file).to(device)
    student = Trainable(load_recogniser(file))

    def loss(model: nn.Module, numbers: range, step: int) -> dict[str, Tensor]:
        clean, worn = (
            torch.from_numpy(np.stack(crops)).to(device) for crops in zip(*map(samples, numbers), strict=True)
        )
        with torch.no_grad():
            wanted = teacher(to_input(clean))
        seen, through = (model(to_input(crops)).float() for crops in (clean, worn))
        own, same = (seen * wanted).sum(1).mean(), (through * wanted).sum(1).mean()
        return {"loss": (1 - own) + (1 - same), "own": own, "same": same}

    fit(NAME, student, loss, SCHEDULE, folder, device=device, minutes=minutes)
    if progress_of(folder, NAME) >= SCHEDULE.steps:
        write_back(student, file)


class _Pairs:
    """Number -> one face's crop before and after the VAE, cut and lit alike."""

    def __init__(self, pictures: DrawnPictures, decoded: list[NDArray[np.uint8]]) -> None:
        self._before, self._after = pictures, DrawnPictures(decoded, pictures.truth)
        seen = pictures.truth["visible"] >= LEAST_VISIBLE
        self._faces = np.argwhere(seen & (np.arange(seen.shape[1]) < pictures.truth["people"][:, None]))

    def __call__(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        rng = np.random.default_rng([number, 11])
        picture, person = self._faces[int(rng.integers(len(self._faces)))]
        before: Drawn = self._before[int(picture)]
        points = jittered(before.landmarks[person], rng) if rng.random() < 0.5 else before.landmarks[person]
        light = int(rng.integers(2**31))
        lit = rng.random() < 0.4
        crops = [norm_crop(pixels, points) for pixels in (before.pixels, self._after[int(picture)].pixels)]
        if lit:
            crops = [relight(crop, np.random.default_rng(light)) for crop in crops]
        return crops[0], crops[1]


def write_back(model: Trainable, file: Path) -> None:
    """The trained numbers into the ONNX file they came from; its graph stays."""
    from onnx import numpy_helper

    document = read_whole(file)
    stored = {buffer: value.detach().cpu().numpy() for buffer, value in zip(model.names, model.weights, strict=True)}
    for value in document.graph.initializer:
        buffer = model.frozen.buffer_of(value.name) or model.frozen.buffer_of(value.name + HALF)
        if buffer is not None:
            value.CopyFrom(numpy_helper.from_array(stored[buffer], value.name))
    write_halved(document, file)
