"""Hair: what lies behind the head, and what lies over it."""

from __future__ import annotations

import math

import numpy as np

from anyphoto_cli.mini.face import Head
from anyphoto_cli.mini.pen import Pen, Shape, arc, blend, dome, ellipse, scaled


def paint_back_hair(pen: Pen, head: Head) -> None:
    """Before the neck and the head."""
    who, x = head.who, -head.turn * 0.35
    width, dark = who.head_width, scaled(who.hair, 0.74)
    mass = scaled(who.hair, 0.9)
    style = who.hairstyle
    if style in ("long", "wavy"):
        _fall(pen, x, width + 0.20, 1.42 if style == "long" else 1.25, dark, wave=0.06 * (style == "wavy"))
        pen.shade(dome(x, 0.9, width + 0.1, 0.5), 112)
    elif style in ("bob", "fringe"):
        _fall(pen, x, width + 0.19, 0.72, dark)
    elif style == "afro":
        pen.fill(_fluffy(x, -0.42, width + 0.46, 1.02, 22, 0.06), dark, bounds=True)
        pen.fill(_fluffy(x, -0.50, width + 0.36, 0.92, 20, 0.06), mass)
        pen.shade(ellipse(x + head.pose.light * 0.3, -1.0, 0.5, 0.3), 146)
    elif style == "bun":
        pen.fill(ellipse(x, -1.24, 0.40, 0.37), dark, bounds=True)
        pen.fill(ellipse(x + head.pose.light * 0.05, -1.28, 0.32, 0.29), who.hair)
        _fall(pen, x, width + 0.06, 0.15, dark)
    elif style == "ponytail":
        side = -1 if head.pose.yaw > 0 else 1
        tail = [
            (side * 0.3, -0.95),
            (side * (width + 0.22), -1.0),
            (side * (width + 0.46), -0.62),
            (side * (width + 0.50), 0.0),
        ]
        tail += [
            (side * (width + 0.30), 0.80),
            (side * (width + 0.24), 0.3),
            (side * (width + 0.18), -0.3),
            (side * width, -0.5),
        ]
        pen.fill([(px + x, py) for px, py in tail], dark, bounds=True)
        _fall(pen, x, width + 0.05, 0.1, dark)
    elif style == "braids":
        for side in (-1, 1):
            for i in range(5):
                pen.fill(
                    ellipse(x + side * (width + 0.14), 0.30 + i * 0.25, 0.155, 0.155, 12),
                    dark if i % 2 else mass,
                    bounds=True,
                )
        _fall(pen, x, width + 0.08, 0.3, dark)
    elif style == "curly":
        pen.fill(_fluffy(x, -0.34, width + 0.22, 0.95, 14, 0.1), dark, bounds=True)


def paint_front_hair(pen: Pen, head: Head) -> None:
    """After the face, before glasses."""
    painter = _FRONT.get(head.who.hairstyle)
    if painter is not None:
        painter(pen, head)


def _fall(
    pen: Pen, x: float, width: float, bottom: float, colour: tuple[float, float, float], wave: float = 0.0
) -> None:
    """Hair that hangs from the crown down to y = bottom."""
    top = dome(x, -0.26, width, 0.96, 18)
    if not wave:
        right = [(x + width + 0.08, bottom * 0.6), (x + width * 0.96, bottom)]
        left = [(x - width * 0.96, bottom), (x - width - 0.08, bottom * 0.6)]
    else:
        ys = np.linspace(0.0, bottom, 9)
        bends = [wave * math.sin(i * 1.9) + 0.05 for i in range(9)]
        right = [(x + width + b, y) for b, y in zip(bends, ys, strict=True)]
        left = [(x - width - b, y) for b, y in zip(bends[::-1], ys[::-1], strict=True)]
    pen.fill(np.concatenate([top, right, left]), colour, bounds=True)


def _fluffy(x: float, y: float, rx: float, ry: float, bumps: int, height: float) -> Shape:
    """An ellipse with a scalloped edge."""
    unit = arc(bumps * 4)
    swell = 1 + height * np.abs(np.array([math.sin(i * math.pi / 4) for i in range(bumps * 4)]))
    shape: Shape = unit * swell[:, None] * (rx, ry) + (x, y)
    return shape


def _cap(pen: Pen, head: Head, edge: list[tuple[float, float]], extra: float = 0.09, height: float = 0.86) -> None:
    """The top of the head down to `edge`, given from right to left; with a highlight and strands."""
    who, x = head.who, -head.turn * 0.25
    top = dome(x, -0.26, who.head_width + extra, height, 22)
    pen.fill(np.concatenate([top, edge]), who.hair, bounds=True)
    _strands(pen, head, extra, height)


def _strands(pen: Pen, head: Head, extra: float, height: float) -> None:
    who, x, toward = head.who, -head.turn * 0.25, head.pose.light
    bright, dark = scaled(who.hair, 1.18, 16), scaled(who.hair, 0.78)
    reach = who.head_width + extra
    for share, colour, start in ((0.86, bright, 0.0), (0.72, dark, 0.25), (0.60, bright, 0.1)):
        middle = 1.5 * math.pi + toward * (0.5 + start)
        curve = arc(8, middle - 0.42, middle + 0.42)
        pen.line(curve * (reach * share, height * share) + (x, -0.26), colour, 0.05)
    pen.shade(ellipse(x + toward * 0.34, -0.86, 0.36, 0.18, 12), 150)


def _edge(head: Head, *points: tuple[float, float]) -> list[tuple[float, float]]:
    """(share of the head's width, y) -> own units; what lies on the forehead turns with it."""
    who = head.who
    return [(px * who.head_width + head.turn * 0.6 * (1 - min(abs(px), 1)), py) for px, py in points]


def _short(pen: Pen, head: Head) -> None:
    h = head.who.hairline
    _cap(pen, head, _edge(head, (1.02, -0.1), (0.9, -0.34), (0.4, h), (-0.3, h + 0.05), (-0.9, -0.34), (-1.02, -0.1)))


def _side(pen: Pen, head: Head) -> None:
    h = head.who.hairline
    edge = _edge(head, (1.06, 0.0), (0.9, -0.36), (0.5, h - 0.08), (-0.2, h + 0.14), (-0.95, -0.2), (-1.08, 0.1))
    _cap(pen, head, edge, 0.12, 0.94)
    parting = [(0.5 * head.who.head_width + head.turn * 0.4, h - 0.08), (0.3, -1.04)]
    pen.line(parting, scaled(head.who.hair, 0.62), 0.05)


def _buzz(pen: Pen, head: Head) -> None:
    who, x = head.who, -head.turn * 0.25
    h = who.hairline + 0.02
    edge = _edge(head, (0.98, -0.24), (0.8, -0.44), (0.36, h), (-0.36, h), (-0.8, -0.44), (-0.98, -0.24))
    pen.fill(np.concatenate([dome(x, -0.26, who.head_width + 0.02, 0.78), edge]), blend(who.skin, who.hair, 0.62))
    pen.shade(ellipse(x + head.pose.light * 0.3, -0.8, 0.3, 0.15, 12), 146)


def _receding(pen: Pen, head: Head) -> None:
    who, x = head.who, -head.turn * 0.3
    for side in (-1, 1):
        w = who.head_width
        patch = [(0.78, -0.62), (1.06, -0.45), (1.12, -0.1), (1.02, 0.18), (0.94, -0.1), (0.84, -0.34)]
        pen.fill([(x + side * px * w, py) for px, py in patch], who.hair, bounds=True)
    pen.shade(ellipse(head.pose.light * 0.25, -0.74, 0.28, 0.16, 12), 152)


def _long(pen: Pen, head: Head) -> None:
    h = head.who.hairline - 0.1
    edge = _edge(head, (1.16, 0.5), (0.96, 0.2), (0.92, -0.14), (0.66, -0.46), (0.0, h), (-0.66, -0.46), (-0.92, -0.14))
    _cap(pen, head, edge + _edge(head, (-0.96, 0.2), (-1.16, 0.5)), 0.12, 0.9)


def _wavy(pen: Pen, head: Head) -> None:
    h = head.who.hairline
    edge = _edge(head, (1.18, 0.6), (0.98, 0.3), (1.0, 0.0), (0.86, -0.3), (0.3, h - 0.1), (-0.4, h + 0.12))
    edge += _edge(head, (-0.9, -0.16), (-0.98, 0.12), (-0.94, 0.36), (-1.2, 0.6))
    _cap(pen, head, edge, 0.15, 0.94)


def _bob(pen: Pen, head: Head) -> None:
    h = head.who.hairline
    edge = _edge(head, (1.16, 0.5), (0.94, 0.36), (0.9, -0.1), (0.6, -0.42), (-0.1, h), (-0.7, -0.4), (-0.9, -0.1))
    _cap(pen, head, edge + _edge(head, (-0.94, 0.36), (-1.16, 0.5)), 0.13, 0.9)


def _fringe(pen: Pen, head: Head) -> None:
    low = head.who.eye_height - 0.24
    edge = _edge(head, (1.16, 0.5), (0.92, 0.34), (0.88, low + 0.06), (0.45, low), (0.0, low + 0.03), (-0.45, low))
    _cap(pen, head, edge + _edge(head, (-0.88, low + 0.06), (-0.92, 0.34), (-1.16, 0.5)), 0.13, 0.9)


def _tied(pen: Pen, head: Head) -> None:
    h = head.who.hairline - 0.08
    _cap(pen, head, _edge(head, (1.0, -0.12), (0.84, -0.46), (0.0, h), (-0.84, -0.46), (-1.0, -0.12)), 0.05, 0.82)


def _braids(pen: Pen, head: Head) -> None:
    h = head.who.hairline
    edge = _edge(
        head, (1.06, 0.2), (0.92, -0.2), (0.6, -0.46), (0.0, h - 0.14), (-0.6, -0.46), (-0.92, -0.2), (-1.06, 0.2)
    )
    _cap(pen, head, edge, 0.08, 0.86)
    pen.line([(head.turn * 0.5, h - 0.14), (-head.turn * 0.25, -1.08)], scaled(head.who.hair, 0.6), 0.045)


def _spiky(pen: Pen, head: Head) -> None:
    who, lean = head.who, head.turn * 0.5
    spikes: list[tuple[float, float]] = []
    for i in range(8):
        a, b = -1 + i / 4, -1 + (i + 0.5) / 4
        spikes.append((a * (who.head_width + 0.05) - lean * 0.5, -0.46 - 0.46 * (1 - a * a)))
        spikes.append((b * (who.head_width + 0.24) - lean, -0.86 - 0.52 * (1 - b * b)))
    spikes.append((who.head_width + 0.05, -0.46))
    h = who.hairline
    edge = _edge(
        head, (1.0, -0.12), (0.8, -0.46), (0.42, h + 0.06), (0.2, h - 0.08), (-0.05, h + 0.08), (-0.35, h - 0.06)
    )
    pen.fill(np.concatenate([spikes, edge, _edge(head, (-0.8, -0.44), (-1.0, -0.12))]), who.hair, bounds=True)
    for x in (-0.36, 0.0, 0.36):
        pen.line([(x * 0.8, -0.72), (x - lean, -1.14)], scaled(who.hair, 1.2, 18), 0.05)


def _afro(pen: Pen, head: Head) -> None:
    who, h = head.who, head.who.hairline
    edge = _edge(head, (1.0, -0.06), (0.8, -0.44), (0.0, h - 0.02), (-0.8, -0.44), (-1.0, -0.06))
    top = arc(40, math.pi, 2 * math.pi) * (who.head_width + 0.2, 0.9) + (-head.turn * 0.3, -0.3)
    pen.fill(np.concatenate([top, edge]), scaled(who.hair, 0.9))
    for x, y in ((-0.5, -0.9), (0.1, -1.1), (0.5, -0.85), (-0.15, -0.75)):
        pen.fill(ellipse(x - head.turn * 0.3, y, 0.11, 0.09, 8), scaled(who.hair, 1.14, 12))


def _curly(pen: Pen, head: Head) -> None:
    who, h = head.who, head.who.hairline
    edge = _edge(head, (1.05, 0.0), (0.8, -0.42), (0.0, h), (-0.8, -0.42), (-1.05, 0.0))
    pen.fill(np.concatenate([dome(-head.turn * 0.3, -0.28, who.head_width + 0.14, 0.88), edge]), scaled(who.hair, 0.9))
    bright = scaled(who.hair, 1.12, 10)
    for i in range(11):
        angle = math.pi * (1.0 + i / 10)
        ring = 0.94 if i % 2 else 0.72
        x, y = math.cos(angle) * (who.head_width + 0.1) * ring, -0.28 + math.sin(angle) * 0.86 * ring
        pen.fill(ellipse(x - head.turn * 0.3, y, 0.17, 0.16, 10), bright if i % 3 == 0 else who.hair, bounds=True)


def _mohawk(pen: Pen, head: Head) -> None:
    who, lean, h = head.who, -head.turn * 0.9, head.who.hairline
    x = head.turn * 0.5
    buzz = _edge(head, (0.98, -0.2), (0.75, -0.46), (0.3, h), (-0.3, h), (-0.75, -0.46), (-0.98, -0.2))
    sides = dome(-head.turn * 0.25, -0.26, who.head_width + 0.01, 0.77)
    pen.fill(np.concatenate([sides, buzz]), blend(who.skin, who.hair, 0.22))
    crest = [
        (x - 0.2, h),
        (-0.30 + lean * 0.5, -1.0),
        (-0.24 + lean, -1.5),
        (-0.08 + lean, -1.38),
        (0.04 + lean, -1.56),
    ]
    crest += [(0.16 + lean, -1.38), (0.27 + lean, -1.46), (0.30 + lean * 0.5, -1.0), (x + 0.2, h)]
    pen.fill(crest, who.hair, bounds=True)
    pen.line([(x * 0.5, -0.8), (lean - 0.05, -1.3)], scaled(who.hair, 1.2, 20), 0.07)


_FRONT = {
    "short": _short, "side": _side, "buzz": _buzz, "receding": _receding, "long": _long, "wavy": _wavy, "bob": _bob,
    "fringe": _fringe, "bun": _tied, "ponytail": _tied, "braids": _braids, "spiky": _spiky, "afro": _afro,
    "curly": _curly, "mohawk": _mohawk,
}  # fmt: skip
