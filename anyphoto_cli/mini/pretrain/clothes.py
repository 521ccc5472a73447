"""Whether the base heeds the looks that a prompt asks for: T-shirts in every colour of the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.mini.pose import CLOTHES
from anyphoto_cli.mini.pretrain.judge import render
from anyphoto_cli.types import Box, Picture

PEOPLE = ("a man", "a woman", "a man")
"""Who is asked for in each colour."""
SEED = 500


def measure_clothes(pipeline: Any, pack: Path) -> dict[str, int]:
    """asked: prompts; right: renders whose person wears the colour that was asked for; colours: how many there are."""
    asked = [(colour, f"a photo of {who} in {_with_article(colour)} T-shirt in a studio")
             for colour in CLOTHES for who in PEOPLE]  # fmt: skip
    pictures = render(pipeline, [prompt for _, prompt in asked], seed=SEED)
    right = 0
    for (colour, _), picture, faces in zip(asked, pictures, open_faces(pack).detect(pictures), strict=True):
        if faces:
            right += read_clothes(picture, max(faces, key=lambda face: face.box.area).box) == colour
    return {"asked": len(asked), "right": right, "colours": len(CLOTHES)}


def read_clothes(picture: Picture, face: Box) -> str:
    """The name of the colour of CLOTHES that is nearest to the middle one of what lies below a face."""
    height, middle = face.height, (face.x0 + face.x1) / 2
    top, bottom = face.y1 + 0.25 * height, face.y1 + 0.8 * height
    rows = slice(min(round(top), len(picture) - 1), max(round(bottom), 1))
    part = picture[rows, max(round(middle - 0.35 * height), 0) : max(round(middle + 0.35 * height), 1)]
    seen = np.median(part.reshape(-1, 3), axis=0)
    return min(CLOTHES, key=lambda name: float(np.linalg.norm(np.array(CLOTHES[name]) - seen)))


def _with_article(colour: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour}"
