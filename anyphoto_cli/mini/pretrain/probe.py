"""The probe: a small classifier of scene and style, used as a judge of generated pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyphoto_cli.mini.pretrain.album import Album, fresh_pictures, open_album, through_codec
from anyphoto_cli.mini.pretrain.judge import to_picture
from anyphoto_cli.mini.pretrain.loop import Schedule, fit, load_trained
from anyphoto_cli.mini.pretrain.onnx_file import write_onnx
from anyphoto_cli.mini.pretrain.persons import PICTURES, SETTLED, settle
from anyphoto_cli.mini.pretrain.refine import trained_vae_parts
from anyphoto_cli.mini.pretrain.vae import as_tensor, reconstruct
from anyphoto_cli.mini.probe import PROBE_SIDE, probe_square, read_scene_and_style
from anyphoto_cli.mini.types import SCENES, STYLES, DrawnPicture
from anyphoto_cli.types import Picture

SCHEDULE = Schedule(steps=6400, batch=32, lr=3e-3, decay=0.8)
FACES, NO_SCENE = 0.35, -100
"""The share of samples that are one face, enlarged: it shows a style and, for all one can tell, no scene."""
DECODED, DECODED_SHARE = 6000, 0.5
"""Pictures that went through the VAE, and their share of the samples. All that is judged came out of it, and it draws
the blocks of pixel art softer than the renderer does.
"""


class ProbeNet(nn.Module):
    """[n, 3, 128, 128] RGB 0-1 -> logits of scenes [n, 8] and styles [n, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(_block(3, 16), _block(16, 32), _block(32, 48), _block(48, 64), _block(64, 64, 1))
        self.answers = nn.Linear(128, len(SCENES) + len(STYLES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.trunk(pictures).flatten(2)
        # The mean tells texture and light, the largest value the one window or tree that shows between people.
        logits = self.answers(torch.cat([features.mean(2), features.amax(2)], 1))
        return logits[:, : len(SCENES)], logits[:, len(SCENES) :]


def _block(inputs: int, outputs: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def train_probe(
    folder: Path, minutes: float | None = None, device: str = "cpu", album_folder: Path | None = None
) -> nn.Module:
    """Train, or go on training, in `folder`. album_folder: where pictures lie already, such as the detector's."""
    where = album_folder or folder / "album"
    album = open_album(where, PICTURES)
    vae = trained_vae_parts(folder)
    decoded = through_codec(album, where, DECODED, lambda picture: _decoded(vae, picture))
    torch.manual_seed(0)
    loss = partial(_loss, album, decoded)
    return fit("probe", ProbeNet(), loss, SCHEDULE, folder, device=device, minutes=minutes)


@torch.no_grad()
def _decoded(vae: Any, picture: Picture) -> Picture:
    return np.asarray(to_picture(reconstruct(vae, as_tensor(picture[None])))[0], np.uint8)


def _loss(album: Album, decoded: Album, model: nn.Module, samples: range, step: int) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    settle(model, step >= SETTLED * SCHEDULE.steps)
    indices, squares, alone = zip(*(_sample(album, decoded, number) for number in samples), strict=True)
    pixels = torch.from_numpy(np.stack(squares)).to(device).permute(0, 3, 1, 2)
    scenes, styles = model(pixels.float() / 255)
    facts = torch.from_numpy(album.facts[list(indices), 2:].astype(np.int64)).to(device)
    wanted = torch.where(torch.tensor(alone, device=device), NO_SCENE, facts[:, 0])
    losses = [
        functional.cross_entropy(scenes.float(), wanted, ignore_index=NO_SCENE),
        functional.cross_entropy(styles.float(), facts[:, 1]),
    ]
    right = ((scenes.argmax(1) == wanted) | (wanted == NO_SCENE)) & (styles.argmax(1) == facts[:, 1])
    return {"loss": losses[0] + losses[1], "scene": losses[0], "style": losses[1], "right": right.float().mean()}


def _sample(drawn: Album, decoded: Album, number: int) -> tuple[int, Picture, bool]:
    """(index, pixels, whether they are a face alone)."""
    chance = np.random.default_rng((11, number))
    album = decoded if chance.random() < DECODED_SHARE else drawn
    index = int(chance.integers(len(album)))
    seen = album.people_of(index)[album.people_of(index)[:, 8] >= 0.5]
    alone = bool(len(seen)) and chance.random() < FACES
    if alone:
        box = seen[int(chance.integers(len(seen))), 4:8]
        picture = face_of(album.picture(index), box + chance.uniform(-0.12, 0.12, 4) * (box[2] - box[0]))
    else:
        picture = _shifted(album.picture(index), chance)
    if chance.random() < 0.5:
        picture = np.asarray(cv2.flip(picture, 1), np.uint8)
    return index, probe_square(worn(picture, chance)) if chance.random() < 0.8 else probe_square(picture), alone


def face_of(picture: Picture, box: Any) -> Picture:
    """What lies in a face's box (x0, y0, x1, y1 from the picture's edge, px), at least 8 px wide and high."""
    height, width = picture.shape[:2]
    left, top = (min(max(round(float(box[k])), 0), side - 8) for k, side in ((0, width), (1, height)))
    right, bottom = max(round(float(box[2])), left + 8), max(round(float(box[3])), top + 8)
    return np.ascontiguousarray(picture[top:bottom, left:right])


def _shifted(picture: Picture, chance: np.random.Generator) -> Picture:
    """A crop of at least .85 of each side."""
    height, width = picture.shape[:2]
    inner = [round(side * chance.uniform(0.85, 1)) for side in (height, width)]
    top, left = (int(chance.integers(side - part + 1)) for side, part in zip((height, width), inner, strict=True))
    return np.ascontiguousarray(picture[top : top + inner[0], left : left + inner[1]])


def worn(picture: Picture, chance: np.random.Generator) -> Picture:
    """Light, blur, noise and JPEG, each sometimes: a generated picture is not as clean as a drawn one."""
    gain = chance.uniform(0.9, 1.1) * chance.uniform(0.97, 1.03, 3)
    table = (np.arange(256)[:, None] * gain + chance.uniform(-8, 8)).clip(0, 255).astype(np.uint8)
    picture = np.asarray(cv2.LUT(picture, table.reshape(1, 256, 3)), np.uint8)
    steps: list[Callable[[Picture, np.random.Generator], Picture]] = [_blurred, _noisy, _jpeg]
    for step in steps:
        if chance.random() < 0.35:
            picture = step(picture, chance)
    return picture


def _blurred(picture: Picture, chance: np.random.Generator) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), chance.uniform(0.3, 1.1)), np.uint8)


def _noisy(picture: Picture, chance: np.random.Generator) -> Picture:
    """Grain of 1-3 px, as decoders leave it."""
    height, width = picture.shape[:2]
    coarse = int(chance.integers(1, 4))
    noise = chance.normal(0, chance.uniform(2, 9), (height // coarse, width // coarse, 3)).astype(np.float32)
    grain = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray((picture + grain).clip(0, 255), np.uint8)


def _jpeg(picture: Picture, chance: np.random.Generator) -> Picture:
    quality = int(chance.integers(40, 96))
    _, packed = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])


class _Probabilities(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        scenes, styles = self.net(pictures)
        return scenes.softmax(1), styles.softmax(1)


def export_probe(folder: Path, out_file: Path) -> None:
    """Write the trained net of `folder` as ONNX: pictures [n, 3, 128, 128] -> probabilities `scene` and `style`."""
    module = _Probabilities(load_trained(folder, "probe", ProbeNet()))
    about = {"description": "anyphoto-mini probe of scene and style, trained on drawn pictures only"}
    about |= {"author": "anyphoto", "license": "Apache-2.0", "scenes": ",".join(SCENES), "styles": ",".join(STYLES)}
    example = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE)
    write_onnx(module, example, "pictures", ["scene", "style"], out_file, batch="batch", facts=about)


def measure_probe(file: Path, vae: Any, pictures: Sequence[DrawnPicture] | int = 960) -> dict[str, Any]:
    """Share of right answers on pictures of held-out people: clean, worn, faces alone (worn, and of pictures that went
    through the VAE, which is the most that a render can reach), and what is taken for what.
    """
    drawn = fresh_pictures(pictures) if isinstance(pictures, int) else pictures
    chance = np.random.default_rng(5)
    clean = read_scene_and_style([picture.pixels for picture in drawn], file)
    rough = read_scene_and_style([worn(picture.pixels, chance) for picture in drawn], file)
    truth = [(picture.scene, picture.style) for picture in drawn]
    faces, decoded, whose = [], [], []
    for picture in drawn:
        seen = [person.face_box for person in picture.people if person.visible >= 0.5]
        after = _decoded(vae, picture.pixels)
        faces += [worn(face_of(picture.pixels, box), chance) for box in seen]
        decoded += [face_of(after, box) for box in seen]
        whose += [(picture.scene, picture.style)] * len(seen)
    alone, after_vae = (read_scene_and_style(some, file) for some in (faces, decoded))
    return {
        "pictures": len(drawn),
        "scene": _share(clean, truth, 0),
        "style": _share(clean, truth, 1),
        "worn_scene": _share(rough, truth, 0),
        "worn_style": _share(rough, truth, 1),
        "face_style": _share(alone, whose, 1),
        "decoded_face_style": _share(after_vae, whose, 1),
        "mistakes": sorted(
            {f"{t[k]} read as {a[k]}" for a, t in zip(clean, truth, strict=True) for k in (0, 1) if a[k] != t[k]}
        ),
        "bytes": file.stat().st_size,
    }


def _share(answers: list[tuple[str, str]], truth: list[tuple[str, str]], which: int) -> float:
    return float(np.mean([answer[which] == true[which] for answer, true in zip(answers, truth, strict=True)]))
