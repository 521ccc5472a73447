"""What the model will see, as a picture: `anyphoto train preview`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.files.commit import committed
from anyphoto_cli.train.batches import Examples, samples_of
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.sampler import Plan
from anyphoto_cli.types import Picture

if TYPE_CHECKING:
    from PIL import Image

_CANVASES = 4
_SIDE, _GAP, _LINE = 192, 6, 18


def write_contact_sheet(config: TrainConfig, out: Path, step: int = 0, rows: int = 6) -> None:
    """One row an example: the picture with its faces, then each identity's canvas. Raises as training does."""
    from PIL import Image

    samples = samples_of(config, lazily=True)
    plan = Plan(samples.costs, 1, 1, config.seed)
    source, made = Examples(samples, config), []
    for micro, numbers in plan.from_step(step * config.gradient_accumulation_steps, 0):
        made += source[micro, numbers.tolist()]
        if len(made) >= rows:
            break
    sheet = np.concatenate([_row(example) for example in made])
    with committed(out) as file:
        Image.fromarray(sheet).save(file, format="PNG")


def _row(example: Example) -> Picture:
    from PIL import Image, ImageDraw

    wide = (1 + _CANVASES) * (_SIDE + _GAP) + _GAP
    row = Image.new("RGB", (wide, _SIDE + _LINE + _GAP), "white")
    draw = ImageDraw.Draw(row)
    row.paste(_with_places(example), (_GAP, _LINE))
    told = (
        f"{example.key}  {'identity dropped  ' if example.dropped else ''}{_plain(example.caption) or '(no caption)'}"
    )
    draw.text((_GAP, 3), told[:150], fill="black")
    for k, (canvas, mask) in enumerate(zip(example.canvases[:_CANVASES], example.masks, strict=False)):
        left = _GAP + (1 + k) * (_SIDE + _GAP)
        row.paste(Image.fromarray(_dimmed(canvas, mask)).resize((_SIDE, _SIDE)), (left, _LINE))
        kind = "another photo" if example.replaced[k] else "own face"
        draw.text((left + 4, _LINE + _SIDE - 14), f"{kind}, {int(mask.sum())} tokens", fill="black")
    return np.asarray(row)


def _plain(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def _with_places(example: Example) -> Image.Image:
    from PIL import Image, ImageDraw

    scale = _SIDE / example.picture.shape[0]
    picture = Image.fromarray(example.picture).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for points in example.landmarks:
        for x, y in (points + 0.5) * scale:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(60, 230, 130), outline="black")
    return picture


def _dimmed(canvas: Picture, mask: np.ndarray) -> Picture:
    """Cells whose token is not kept are grey: the model never sees them."""
    cell = canvas.shape[0] // mask.shape[0]
    kept = np.kron(mask, np.ones((cell, cell), bool))
    shown = canvas.copy()
    shown[~kept] = (shown[~kept] * 0.75).astype(np.uint8)
    return shown
