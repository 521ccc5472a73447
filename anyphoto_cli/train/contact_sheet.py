"""What the model will see, as a picture: `anyphoto train preview`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.images import refuse_no_png
from anyphoto_cli.files.texts import in_ascii
from anyphoto_cli.geometry import arcface_template
from anyphoto_cli.train.batches import batches, samples_of
from anyphoto_cli.train.degradations import DEGRADATIONS, middling
from anyphoto_cli.train.examples import Bank, Example
from anyphoto_cli.types import Patch, Picture

if TYPE_CHECKING:
    from PIL import Image, ImageFont

_CANVASES = 4
_COLUMNS = 5
_SIDE, _GAP, _LINE = 192, 6, 18
_FONT_PX = 12


def write_contact_sheet(config: TrainConfig, out: Path, step: int = 0, rows: int = 6) -> None:
    """One row an example: the picture with its faces, then each identity's canvas and what its reference went through.

    Raises as training does, and InputError where `out` does not end in .png.
    """
    from PIL import Image

    refuse_no_png(out)
    here = config.data.model_copy(update={"workers": 0})  # they would read ahead, and hash shards that are not shown
    alone = config.model_copy(update={"train_batch_size": 1, "data": here})
    samples = samples_of(alone, lazily=True)
    made = islice(batches(samples, alone, step * config.gradient_accumulation_steps, 0, 1), rows)
    _save(Image.fromarray(np.concatenate([_row(example) for [example] in made])), out)


def write_degradations(config: TrainConfig, out: Path) -> None:
    """One reference of the first folder's bank as it is, and after each of the thirteen degradations, by name and p.

    Who it is and how strong each is follow from the seed. Raises InputError for a bank that is missing or
    empty, and where `out` does not end in .png.
    """
    from PIL import Image

    refuse_no_png(out)
    patch = _somebody(config)
    points = arcface_template(len(patch))
    rates = config.data.degradations
    tiles = [("as it is", patch)] + [
        (f"{name}, p {rates.get(name, 0.0):g}", middling(patch, points, name, config.seed)) for name in DEGRADATIONS
    ]
    down = -(-len(tiles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * (_SIDE + _GAP) + _GAP, down * (_SIDE + _LINE + _GAP) + _GAP), "white")
    for number, (told, tile) in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_SIDE + _GAP), _GAP + row * (_SIDE + _LINE + _GAP)
        shown = Image.fromarray(tile).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        sheet.paste(shown, (left, top), shown)
        _write(sheet, [told], left, top + _SIDE)
    _save(sheet, out)


def _somebody(config: TrainConfig) -> Patch:
    """[P, P, 4] of the bank."""
    folder = config.data.folders[0] / "bank"
    bank = Bank(folder, config.method.patch_size)
    if not bank.names:
        raise InputError("knows nobody", file=folder, field="data.shards", remedy="Run preprocess with --refs")
    return bank.patch(bank.names[int(np.random.default_rng(config.seed).integers(len(bank.names)))], 0)


def _row(example: Example) -> Picture:
    from PIL import Image

    worn = example.worn or ((),) * len(example.canvases)
    kinds = [
        f"{'another photo' if replaced else 'own face'}, {int(mask.sum())} tokens"
        for replaced, mask in zip(example.replaced, example.masks, strict=True)
    ]
    told = [[kind, *_lines(names)] for kind, names in zip(kinds, worn, strict=True)][:_CANVASES]
    under = max(len(lines) for lines in told)
    wide = (1 + _CANVASES) * (_SIDE + _GAP) + _GAP
    row = Image.new("RGB", (wide, _LINE + _SIDE + under * _LINE + _GAP), "white")
    row.paste(_with_places(example), (_GAP, _LINE))
    _write(row, [_title(example, wide - 2 * _GAP)], _GAP, 0)
    for k, (canvas, mask, lines) in enumerate(zip(example.canvases, example.masks, told, strict=False)):
        left = _GAP + (1 + k) * (_SIDE + _GAP)
        row.paste(Image.fromarray(_dimmed(canvas, mask)).resize((_SIDE, _SIDE)), (left, _LINE))
        _write(row, lines, left, _LINE + _SIDE)
    return np.asarray(row)


def _title(example: Example, width: int) -> str:
    """Key, what is dropped, who is not shown, caption; as much of it as there is room for."""
    more = len(example.canvases) - _CANVASES
    parts = [
        example.key, "identity dropped" if example.dropped else "", f"{more} more people" if more > 0 else "",
        in_ascii(example.caption) or "(no caption)",
    ]  # fmt: skip
    told = "   ".join(part for part in parts if part)
    if _font().getlength(told) <= width:
        return told
    while _font().getlength(told + "...") > width:
        told = told[:-1]
    return told + "..."


def _lines(names: Sequence[str]) -> list[str]:
    """Names one after another, in lines that a tile has room for."""
    lines: list[str] = []
    for name in names:
        if lines and _font().getlength(f"{lines[-1]}, {name},") <= _SIDE:
            lines[-1] += f", {name}"
        else:
            lines = [*(line.rstrip(",") + "," for line in lines), name]
    return lines


def _write(picture: Image.Image, lines: Sequence[str], left: int, top: int) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((left, top + number * _LINE + 2), line, fill="black", font=_font())


@cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.load_default(_FONT_PX)


def _save(sheet: Image.Image, out: Path) -> None:
    with committed(out) as file:
        sheet.save(file, format="PNG")


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
