"""Neck, shoulders and clothes, in the head's units below it."""

from __future__ import annotations

import numpy as np

from anyphoto_cli.mini.face import Head
from anyphoto_cli.mini.pen import Pen, Shape, ellipse, scaled

_DEEP = 9.0
"""Bodies reach out of the picture at the bottom."""


def paint_body(pen: Pen, head: Head, lean: float) -> None:
    """pen: upright. lean: where the neck meets the head, own units."""
    pose = head.pose
    cloth, dark = pose.cloth, scaled(pose.cloth, 0.78)
    torso = _torso(head.who.woman)
    pen.fill(torso, dark, bounds=True)
    pen.fill(torso * (0.94, 1.0) + (pose.light * 0.05, 0.06), cloth)
    pen.shade(torso + np.array([-pose.light * 0.35, 0.2]), 116)
    pen.shade(torso * (0.8, 1.0) + (pose.light * 0.16, 0.1), 128)
    pen.shade(ellipse(pose.light * 0.7, 1.75, 0.5, 0.2, 12), 140)
    if pose.garment == "striped shirt":
        for y in (1.95, 2.35, 2.75, 3.15, 3.55):
            pen.line([(-1.36, y + 0.05), (0.0, y + 0.13), (1.36, y + 0.05)], pose.second_cloth, 0.14)
    _arms(pen, dark)
    _neck(pen, head, lean)
    _collar(pen, head)


def _torso(woman: bool) -> Shape:
    wide = 1.42 if woman else 1.62
    half = [(0.30, 1.28), (0.62, 1.40), (wide - 0.32, 1.58), (wide - 0.08, 1.84), (wide, 2.4), (wide - 0.02, _DEEP)]
    return np.array(half + [(-x, y) for x, y in reversed(half)])


def _arms(pen: Pen, dark: tuple[float, float, float]) -> None:
    for side in (-1, 1):
        pen.line([(side * 1.12, 2.3), (side * 1.08, 3.2), (side * 1.1, 4.5)], dark, 0.06)


def _neck(pen: Pen, head: Head, lean: float) -> None:
    wide = 0.30 if head.who.woman else 0.38
    neck = [(lean - wide, 0.5), (lean + wide, 0.5), (wide + 0.05, 1.35), (0.0, 1.62), (-wide - 0.05, 1.35)]
    pen.fill(neck, scaled(head.who.skin, 0.92), bounds=True)
    pen.shade([(lean - wide - 0.1, 0.6), (lean + wide + 0.1, 0.6), (lean + wide, 1.22), (lean - wide, 1.22)], 92)


def _collar(pen: Pen, head: Head) -> None:
    pose, dark = head.pose, scaled(head.pose.cloth, 0.7)
    if pose.garment in ("shirt", "suit"):
        inner = (244, 244, 240) if pose.garment == "suit" else pose.cloth
        if pose.garment == "suit":
            pen.fill([(-0.36, 1.3), (0.36, 1.3), (0.0, 2.75)], inner)
            pen.fill([(-0.09, 1.56), (0.09, 1.56), (0.13, 2.4), (0.0, 2.6), (-0.13, 2.4)], pose.second_cloth)
            for side in (-1, 1):
                pen.fill([(side * 0.34, 1.24), (side * 0.62, 1.42), (side * 0.5, 1.9), (0.0, 2.75)], dark)
        for side in (-1, 1):
            pen.fill(
                [(side * 0.40, 1.22), (side * 0.46, 1.44), (side * 0.22, 1.72), (side * 0.02, 1.60)],
                scaled(inner, 0.96),
            )
            pen.line([(side * 0.46, 1.44), (side * 0.22, 1.72), (side * 0.02, 1.60)], scaled(inner, 0.7), 0.04)
        if pose.garment == "shirt":
            for y in (2.0, 2.45, 2.9):
                pen.fill(ellipse(0, y, 0.05, 0.05, 8), scaled(pose.cloth, 0.6))
    elif pose.garment == "hoodie":
        pen.fill([(-0.62, 1.38), (-0.36, 1.22), (0.0, 1.75), (0.36, 1.22), (0.62, 1.38), (0.0, 2.08)], dark)
        for side in (-1, 1):
            pen.line([(side * 0.16, 1.9), (side * 0.18, 2.5)], (240, 240, 236), 0.05)
    elif pose.garment == "dress":
        pen.fill([(-0.42, 1.28), (0.42, 1.28), (0.0, 2.05)], scaled(head.who.skin, 0.97))
        pen.line([(-0.44, 1.26), (0.0, 2.07), (0.44, 1.26)], dark, 0.06)
    elif pose.garment == "turtleneck":
        pen.fill([(-0.42, 1.02), (0.42, 1.02), (0.46, 1.5), (0.0, 1.62), (-0.46, 1.5)], scaled(pose.cloth, 0.9))
        pen.line([(-0.42, 1.04), (0.42, 1.04)], dark, 0.05)
    else:
        pen.line([(-0.42, 1.30), (-0.2, 1.58), (0.0, 1.66), (0.2, 1.58), (0.42, 1.30)], dark, 0.08)
