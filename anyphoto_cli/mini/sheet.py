"""The world at a glance: scenes by styles, and a few people in many moments."""

from __future__ import annotations

import numpy as np

from anyphoto_cli.mini.picture import draw_picture, draw_portrait
from anyphoto_cli.mini.types import SCENES, STYLES
from anyphoto_cli.types import Picture


def world_sheet(seed: int = 0, columns: int = 8, gap: int = 4, scale: int = 1) -> Picture:
    """Two rows of groups, one row a style, three rows of one person each, on white; `scale` times enlarged."""
    rows = [[draw_picture(seed + r * columns + c, style="photo", scene=SCENES[(c + 3 * r) % 8]) for c in range(columns)]
            for r in range(2)]  # fmt: skip
    rows += [
        [draw_picture(seed + 100 + c, style=style, scene=SCENES[(c + r) % 8]) for c in range(columns)]
        for r, style in enumerate(STYLES[1:])
    ]
    rows += [[draw_portrait(seed + 10 * r, c) for c in range(columns)] for r in range(1, 4)]
    return tiled([[picture.pixels for picture in row] for row in rows], gap, scale)


def tiled(rows: list[list[Picture]], gap: int = 4, scale: int = 1) -> Picture:
    """Rows of pictures of one size -> one picture."""
    height, width = rows[0][0].shape[:2]
    sheet = np.full((len(rows) * (height + gap) + gap, max(map(len, rows)) * (width + gap) + gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, pixels in enumerate(row):
            top, left = gap + r * (height + gap), gap + c * (width + gap)
            sheet[top : top + height, left : left + width] = pixels
    if scale == 1:
        return sheet
    from PIL import Image

    enlarged = Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.LANCZOS)
    return np.asarray(enlarged)
