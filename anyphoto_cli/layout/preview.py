"""A picture of the layout: the pasted references as the model sees them, their landmarks, and the token grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anyphoto_cli.files.texts import in_ascii
from anyphoto_cli.geometry import TOKEN_PX
from anyphoto_cli.layout.schema import Layout
from anyphoto_cli.types import PreparedFace

_COLOURS = ("#d1495b", "#00798c", "#8f5db7", "#2e933c", "#c9651b", "#30638e", "#9b2d6f", "#5f7a1f")
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
_GRID, _LABEL_PX = (0, 0, 0, 26), 15


def draw_preview(layout: Layout, faces: Sequence[PreparedFace]) -> Image.Image:
    """RGB, at least 512 px on the longer side.

    faces: as prepared for the model, in the layout's order. Where canvases overlap, later ones lie on top, as drawn
    only: for the model each identity has a canvas of its own.
    """
    zoom = max(1, -(-512 // max(layout.width, layout.height)))
    picture = Image.new("RGB", (layout.width, layout.height), "white")
    for face in faces:
        mask = np.kron(face.tokens, np.ones((TOKEN_PX, TOKEN_PX), bool))
        picture.paste(Image.fromarray(face.canvas), (0, 0), Image.fromarray(mask))
    picture = picture.resize((layout.width * zoom, layout.height * zoom), Image.Resampling.NEAREST).convert("RGBA")
    picture = Image.alpha_composite(picture, _grid(picture.size, TOKEN_PX * zoom))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_LABEL_PX)
    for i, (face, placed) in enumerate(zip(faces, layout.faces, strict=True)):
        colour = _COLOURS[i % len(_COLOURS)]
        _outline(draw, face.tokens, TOKEN_PX * zoom, colour)
        for x, y in (placed.place + 0.5) * zoom:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline="white", width=1)
        _label(draw, face, _in_ascii(face.name, i), zoom, colour, font)
    return picture.convert("RGB")


def _grid(size: tuple[int, int], step: int) -> Image.Image:
    layer = Image.new("RGBA", size)
    draw = ImageDraw.Draw(layer)
    for x in range(0, size[0], step):
        draw.line((x, 0, x, size[1]), fill=_GRID)
    for y in range(0, size[1], step):
        draw.line((0, y, size[0], y), fill=_GRID)
    return layer


def _outline(draw: ImageDraw.ImageDraw, tokens: np.ndarray, step: int, colour: str) -> None:
    """The border of the kept tokens."""
    padded = np.pad(tokens, 1)
    for row, column in zip(*np.nonzero(tokens), strict=True):
        x, y = int(column) * step, int(row) * step
        if not padded[row, column + 1]:
            draw.line((x, y, x + step, y), fill=colour, width=2)
        if not padded[row + 2, column + 1]:
            draw.line((x, y + step, x + step, y + step), fill=colour, width=2)
        if not padded[row + 1, column]:
            draw.line((x, y, x, y + step), fill=colour, width=2)
        if not padded[row + 1, column + 2]:
            draw.line((x + step, y, x + step, y + step), fill=colour, width=2)


def _in_ascii(name: str, index: int) -> str:
    """What the default font can write of a name; where nothing is left, the face's number."""
    letters = in_ascii(name)
    return letters if letters.strip("? ") else f"face {index + 1}"


def _label(
    draw: ImageDraw.ImageDraw, face: PreparedFace, name: str, zoom: int, colour: str, font: Font
) -> None:  # fmt: skip
    """Name and token count just above the face, kept inside the picture."""
    rows, columns = np.nonzero(face.tokens)
    if not len(rows):
        return
    text = f"{name}  {int(face.tokens.sum())} tokens"
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 10, bottom - top + 8
    x = min(int(columns.min()) * TOKEN_PX * zoom, face.canvas.shape[1] * zoom - int(width))
    y = int(rows.min()) * TOKEN_PX * zoom - int(height)
    x, y = max(x, 0), y if y >= 0 else int(rows.max() + 1) * TOKEN_PX * zoom
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 5 - left, y + 4 - top), text, fill="white", font=font)
