"""How good the VAE and the base are, on people and prompts they never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.mini.captions import caption
from anyphoto_cli.mini.identity import identity
from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.picture import draw_picture, held_out_identities
from anyphoto_cli.mini.pose import draw_pose
from anyphoto_cli.mini.pretrain.vae import as_tensor, reconstruct
from anyphoto_cli.mini.probe import read_scene_and_style
from anyphoto_cli.mini.types import HELD_OUT, SCENES, STYLES, DrawnPicture
from anyphoto_cli.types import Picture

STEPS, GUIDANCE = 20, 3.5
LEGIBLE = 0.5
"""The detector's score from which a face counts as one."""


@torch.no_grad()
def measure_vae(vae: Any, pack: Path, pictures: int = 240) -> dict[str, Any]:
    """PSNR (dB) and cosine of each face before and after, by style and on white canvases with a pasted face."""
    faces = open_faces(pack)
    psnr: dict[str, list[float]] = {}
    cosines: dict[str, list[float]] = {}
    for number in range(pictures):
        style = STYLES[number % len(STYLES)]
        people = held_out_identities(Chance("judge", number), 1 + number // len(STYLES) % 4)
        drawn = draw_picture(HELD_OUT + number, identities=people, style=style)
        for name, original in ((style, drawn.pixels), ("canvas", _canvas(drawn))):
            decoded = to_picture(reconstruct(vae, as_tensor(original[None])))[0]
            squared = np.square(original.astype(np.float64) - decoded).mean()
            psnr.setdefault(name, []).append(10 * np.log10(255**2 / max(squared, 1e-9)))
            seen = [person for person in drawn.people if person.visible >= 0.5]
            if seen:
                before, after = (
                    faces.embed(np.stack([norm_crop(pixels, person.landmarks) for person in seen]))
                    for pixels in (original, decoded)
                )
                cosines.setdefault(name, []).extend((before * after).sum(1).tolist())
    pictures_only = [name for name in psnr if name != "canvas"]
    return {
        "psnr": float(np.mean([value for name in pictures_only for value in psnr[name]])),
        "face_cosine": float(np.mean([value for name in pictures_only for value in cosines[name]])),
        "by_style": {
            name: {
                "psnr": float(np.mean(psnr[name])),
                "face_cosine": float(np.mean(cosines[name])),
                "face_cosine_p05": float(np.quantile(cosines[name], 0.05)),
            }
            for name in psnr
        },
    }


def _canvas(drawn: DrawnPicture) -> Picture:
    """The faces of a picture on white, as references lie on a location canvas."""
    canvas = np.full_like(drawn.pixels, 255)
    for person in drawn.people:
        x0, y0, x1, y1 = (max(round(value), 0) for value in person.face_box)
        canvas[y0:y1, x0:x1] = drawn.pixels[y0:y1, x0:x1]
    return canvas


def prompts(count: int) -> list[tuple[str, int, str, str]]:
    """(prompt, people, scene, style): every number, place and style in turn, about people nobody was trained on."""
    asked = []
    for number in range(count):
        chance = Chance("prompt", number)
        people = held_out_identities(chance, 1 + number % 4)
        scene, style = SCENES[number // 4 % len(SCENES)], STYLES[(number // 4 + number // 32) % len(STYLES)]
        posed = [(identity(who), draw_pose(chance, 1.0)) for who in people]
        asked.append((caption(posed, scene, style, chance), len(people), scene, style))
    return asked


def measure_base(pipeline: Any, pack: Path, pictures: int = 192) -> dict[str, Any]:
    """Shares of pictures with as many faces as asked for, in the place and style asked for."""
    asked, faces = prompts(pictures), open_faces(pack)
    drawn = render(pipeline, [prompt for prompt, *_ in asked])
    found = _legible(faces, drawn)
    read = read_scene_and_style(drawn)
    count = [got == people for got, (_, people, _, _) in zip(found, asked, strict=True)]
    scene = [got == wanted for (got, _), (_, _, wanted, _) in zip(read, asked, strict=True)]
    style = [got == wanted for (_, got), (_, _, _, wanted) in zip(read, asked, strict=True)]
    return {
        "people": float(np.mean(count)),
        "scene": float(np.mean(scene)),
        "style": float(np.mean(style)),
        "people_drawn": _drawn_by_people(faces, pictures // 4),
        "by_people": {str(n): _share(count, [people == n for _, people, _, _ in asked]) for n in range(1, 5)},
        "by_scene": {name: _share(scene, [wanted == name for _, _, wanted, _ in asked]) for name in SCENES},
        "by_style": {name: _share(style, [wanted == name for *_, wanted in asked]) for name in STYLES},
        "pictures": pictures,
    }


def _legible(faces: Any, pictures: Sequence[Picture]) -> list[int]:
    return [sum(face.score >= LEGIBLE for face in found) for found in faces.detect(pictures)]


def _drawn_by_people(faces: Any, each: int) -> dict[str, float]:
    """The share that drawn pictures themselves reach, by number of people: in groups one may hide another."""
    shares = {}
    for count in range(1, 5):
        people = [held_out_identities(Chance("drawn", count, number), count) for number in range(each)]
        drawn = [draw_picture(HELD_OUT + number, identities=who).pixels for number, who in enumerate(people)]
        shares[str(count)] = float(np.mean([got == count for got in _legible(faces, drawn)]))
    return shares


def _share(hits: Sequence[bool], chosen: Sequence[bool]) -> float:
    kept = [hit for hit, wanted in zip(hits, chosen, strict=True) if wanted]
    return float(np.mean(kept)) if kept else float("nan")


def render(pipeline: Any, asked: Sequence[str], size: tuple[int, int] = (128, 128), seed: int = 0, batch: int = 16,
           guidance: float = GUIDANCE, steps: int = STEPS) -> list[Picture]:  # fmt: skip
    """Pictures for prompts through stock FluxPipeline's call; picture k has seed + k."""
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Picture] = []
    for first in range(0, len(asked), batch):
        part = list(asked[first : first + batch])
        generators = [torch.Generator().manual_seed(seed + first + k) for k in range(len(part))]
        result = pipeline(
            part, height=size[1], width=size[0], num_inference_steps=steps, guidance_scale=guidance,
            generator=generators, max_sequence_length=48, output_type="np",
        )  # fmt: skip
        pictures += list((result.images * 255).round().astype(np.uint8))
    return pictures


def to_picture(values: torch.Tensor) -> np.ndarray:
    """[n, 3, H, W], -1 to 1 -> [n, H, W, 3], 0-255."""
    pixels: np.ndarray = ((values.float().permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    return pixels
