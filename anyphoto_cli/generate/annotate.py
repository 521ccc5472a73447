"""A picture with what was found in it drawn on top: boxes, names, verdicts. A copy: the picture stays as it is."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anyphoto_cli.files.texts import in_ascii
from anyphoto_cli.generate.verification import FaceVerdict, Verdict
from anyphoto_cli.geometry import face_height
from anyphoto_cli.layout.schema import Layout
from anyphoto_cli.types import Box, Picture

_SHOWN, _LABEL_PX, _LINE = 768, 15, 3
_LABEL_SHARE, _LINE_SHARE = 1 / 72, 1 / 340
"""Of the longer side, where that is more: a photo of 12 megapixels is looked at as small as one of one."""
_GOOD, _UNSURE, _BAD = "#15803d", "#9a6700", "#c62f2f"
_COLOURS = {"good": _GOOD, "found": _UNSURE, "unlike": _BAD, "off": _BAD, "swapped": _BAD, "missing": _BAD,
            "perhaps swapped": _BAD, "twice": _BAD}  # fmt: skip
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def annotated(picture: Picture, layout: Layout, verdict: Verdict) -> Image.Image:
    """RGB, at least 768 px on the longer side: small pictures are enlarged, sharp, so that the words can be read."""
    zoom = max(1, -(-_SHOWN // max(picture.shape[:2])))
    image = Image.fromarray(picture)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(_LABEL_PX, int(max(image.size) * _LABEL_SHARE)))
    scale = np.array([picture.shape[1] / layout.width, picture.shape[0] / layout.height])
    for asked, face in zip(layout.faces, verdict.faces, strict=True):
        box = face.box or _box_of(asked.place * scale)
        _mark(draw, box, zoom, _COLOURS[face.state], _said(face), font, dashed=face.box is None)
    for extra in verdict.extra:
        said = f"{extra.twice} again" if extra.twice else "nobody asked for"
        _mark(draw, extra.box, zoom, _BAD, said, font)
    return image


def _said(face: FaceVerdict) -> str:
    number = "" if face.cosine is None else f" {face.cosine:.2f}"
    said = {"good": "", "found": "", "swapped": f" is {face.like}", "perhaps swapped": f" perhaps {face.like}",
            "twice": f" is {face.like} again"}  # fmt: skip
    state = said.get(face.state, f" {face.state}")
    return f"{face.name}{state}{number}"


def _box_of(points: np.ndarray) -> Box:
    """Where a face would be, from its landmarks."""
    half, (x, y) = float(face_height(points)) / 2, points.mean(0)
    return Box(x - 0.8 * half, y - half, x + 0.8 * half, y + half)


def _mark(
    draw: ImageDraw.ImageDraw, box: Box, zoom: int, colour: str, said: str, font: Font, dashed: bool = False
) -> None:
    x0, y0, x1, y1 = ((value + 0.5) * zoom for value in box)
    line = max(_LINE, int(max(draw.im.size) * _LINE_SHARE))
    if dashed:
        for k in range(int(x0), int(x1), 12):
            draw.line((k, y0, min(k + 6, x1), y0), fill=colour, width=line)
            draw.line((k, y1, min(k + 6, x1), y1), fill=colour, width=line)
        for k in range(int(y0), int(y1), 12):
            draw.line((x0, k, x0, min(k + 6, y1)), fill=colour, width=line)
            draw.line((x1, k, x1, min(k + 6, y1)), fill=colour, width=line)
    else:
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=line)
    text = in_ascii(said)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 10, bottom - top + 8
    x = max(min(x0, draw.im.size[0] - width), 0)
    y = y0 - height if y0 >= height else min(y1, draw.im.size[1] - height)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 5 - left, y + 4 - top), text, fill="white", font=font)
