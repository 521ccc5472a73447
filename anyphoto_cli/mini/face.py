"""A head without its hair. Units: half a head's height; (0, 0) is its centre, the chin is at y = 1."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from anyphoto_cli.mini.identity import FRAMES, Identity
from anyphoto_cli.mini.pen import Colour, Pen, Shape, arc, blend, ellipse, rounded, scaled
from anyphoto_cli.mini.pose import Pose

_DARK = (34, 22, 24)


class Head:
    """One identity in one pose: where its parts are and what colours they have."""

    def __init__(self, who: Identity, pose: Pose) -> None:
        self.who, self.pose = who, pose
        self.turn = pose.yaw * 0.17
        self.squeeze = 1 - 0.09 * abs(pose.yaw)
        self.lift = pose.pitch * 0.06
        self.shadow: Colour = (who.skin[0] * 0.78, who.skin[1] * 0.70, who.skin[2] * 0.68)

    def on_face(self, shape: Shape | list[tuple[float, float]]) -> Shape:
        """Turned with the head: the middle moves further than the sides, as on a ball."""
        points = np.array(shape, dtype=np.float64)
        across = points[:, 0] / self.who.head_width
        points[:, 0] = points[:, 0] * self.squeeze + self.turn * (1 - 0.45 * across * across)
        points[:, 1] += self.lift
        return points

    @cached_property
    def outline(self) -> Shape:
        """[56, 2] skull, jaw and chin."""
        unit, jaw, who = arc(56), self.who.jaw, self.who
        x, y = unit[:, 0], unit[:, 1]
        power = np.where(y > 0, 2 / jaw, 2 / 2.25)
        x, y = np.sign(x) * np.abs(x) ** power * who.head_width, np.sign(y) * np.abs(y) ** power
        below = np.maximum(y, 0.0)
        x = x * (1 - who.chin * below * below)
        return np.stack([x + self.turn * 0.25 * below, y], axis=1)

    @property
    def landmarks(self) -> Shape:
        """[5, 2] ArcFace order: pupils, nose tip, corners of the mouth."""
        who, (tip_x, tip_y) = self.who, self.nose_tip
        wide = self.mouth_half_width
        corner = float(self._mouth_y(1.0))
        points = self.on_face(
            [
                (-who.eye_gap, who.eye_height),
                (who.eye_gap, who.eye_height),
                (tip_x, tip_y),
                (-wide, corner),
                (wide, corner),
            ]
        )
        return points

    @property
    def nose_tip(self) -> tuple[float, float]:
        """The nose stands out: it turns further than the face."""
        return self.turn * 0.35, self.who.eye_height + self.who.nose_length + self.lift * 0.4

    @property
    def mouth_half_width(self) -> float:
        """Wider in a smile."""
        return self.who.mouth_width * (1 + 0.16 * max(self.pose.smile, 0) - 0.08 * max(-self.pose.smile, 0))

    def _mouth_y(self, across: float | Shape) -> float | Shape:
        """Height of the lips' line at `across` (-1 to 1): its corners rise in a smile."""
        return self.who.mouth_height + 0.02 - self.pose.smile * 0.10 * (across**2 - 0.4)


def paint_head(pen: Pen, head: Head, number: int) -> None:
    """Everything but the hair. number: who owns these pixels, see `Sheet.owner`."""
    _ears(pen, head)
    pen.fill(head.outline, head.shadow, bounds=True)
    rim = head.outline * (0.955, 0.97) + (head.pose.light * 0.02, -0.012)
    pen.fill(rim, head.who.skin)
    pen.own(head.outline, number)
    _light(pen, head)
    _cheeks(pen, head)
    _beard(pen, head)
    _mouth(pen, head)
    _nose(pen, head)
    for side in (-1, 1):
        _eye(pen, head, side)
    _marks(pen, head)


def _light(pen: Pen, head: Head) -> None:
    """A ball lit from one side, with sockets, cheekbones and a nose."""
    toward, who = head.pose.light, head.who
    pen.shade(head.outline, 106)
    pen.shade(head.outline * 0.9 + (toward * 0.13, -0.06), 128)
    pen.shade(ellipse(toward * 0.26 + head.turn * 0.5, -0.38, who.head_width * 0.55, 0.34), 144)
    for side in (-1, 1):
        pen.shade(head.on_face(ellipse(side * who.eye_gap, who.eye_height - 0.02, 0.19, 0.13, 10)), 118)
        pen.shade(head.on_face(ellipse(side * 0.42 + toward * 0.05, 0.26, 0.15, 0.12, 10)), 138)
    tip_x, tip_y = head.nose_tip
    pen.shade(head.on_face([(tip_x, -0.02), (tip_x - toward * 0.2, tip_y), (tip_x, tip_y + 0.08)]), 106)


def _ears(pen: Pen, head: Head) -> None:
    who = head.who
    for side in (-1, 1):
        x = side * (who.head_width + 0.01) - head.turn * 0.45
        far = side * head.pose.yaw > 0
        size = who.ear_size * (0.75 if far else 1.0)
        pen.fill(ellipse(x, 0.06, size * 0.78, size * 1.15, 14), head.shadow if far else scaled(who.skin, 0.95), True)
        pen.fill(ellipse(x + side * 0.01, 0.07, size * 0.4, size * 0.7, 10), head.shadow)
        if who.earring:
            pen.fill(ellipse(x + side * 0.03, 0.10 + size * 1.1, 0.075, 0.085, 10), who.earring)


def _cheeks(pen: Pen, head: Head) -> None:
    if head.who.blush:
        rosy = blend(head.who.skin, (232, 84, 88), 0.26)
        for side in (-1, 1):
            pen.fill(head.on_face(ellipse(side * 0.45, 0.30, 0.15, 0.10, 14)), rosy)
    if head.who.age > 0.66:
        crease = blend(head.who.skin, head.shadow, 0.7)
        for side in (-1, 1):
            pen.line(head.on_face([(side * 0.22, 0.34), (side * 0.34, 0.44), (side * 0.37, 0.56)]), crease, 0.03)
        pen.line(head.on_face([(-0.3, -0.50), (0.0, -0.52), (0.3, -0.50)]), crease, 0.025)


def _beard(pen: Pen, head: Head) -> None:
    who, kind = head.who, head.who.beard
    if kind in ("none", "moustache"):
        return
    colour = blend(who.skin, who.hair, 0.35) if kind == "stubble" else scaled(who.hair, 0.88)
    if kind == "goatee":
        pen.fill(head.on_face(rounded(0, 0.84, 0.22, 0.20, 2.6, 16)), colour)
        return
    jaw = head.outline[:29] * ((0.98, 1.34) if kind == "long" else (1.0, 1.0))
    width = who.head_width
    inner = [(-width * 0.84, 0.10), (-width * 0.66, 0.40), (-0.20, 0.40), (0.0, 0.43), (0.20, 0.40)]
    inner += [(width * 0.66, 0.40), (width * 0.84, 0.10)]
    pen.fill(np.concatenate([jaw, head.on_face(inner)]), colour, bounds=True)
    if kind != "stubble":
        light = scaled(who.hair, 1.12, 12)
        for x in (-0.34, -0.12, 0.12, 0.34):
            pen.line(head.on_face([(x, 0.78), (x * 0.9, 0.92 if kind == "full" else 1.12)]), light, 0.03)


def _mouth(pen: Pen, head: Head) -> None:
    who, pose = head.who, head.pose
    across = np.linspace(-1, 1, 11)
    bulge, x = 1 - across**2, across * head.mouth_half_width
    middle = np.asarray(head._mouth_y(across))
    lips = blend(who.skin, who.lips, 0.75 if who.woman else 0.45)
    thick = who.lip_thickness
    upper = np.stack([x, middle - (thick + pose.open * 0.03) * bulge**0.7], 1)
    lower = np.stack([x[::-1], (middle + (thick * 1.25 + pose.open * 0.20) * bulge)[::-1]], 1)
    pen.fill(head.on_face(np.concatenate([upper, lower])), lips)
    if pose.open > 0.2:
        top = np.stack([x * 0.84, middle - pose.open * 0.02 * bulge], 1)
        bottom = np.stack([x[::-1] * 0.84, (middle + pose.open * 0.17 * bulge)[::-1]], 1)
        pen.fill(head.on_face(np.concatenate([top, bottom])), (96, 30, 38))
        teeth = np.stack([x[::-1] * 0.74, (middle + pose.open * 0.055 * bulge)[::-1]], 1)
        pen.fill(head.on_face(np.concatenate([top * (0.9, 1), teeth])), (250, 248, 242))
    else:
        pen.line(head.on_face(np.stack([x, middle], 1)), blend(lips, _DARK, 0.5), 0.028)
    if who.beard in ("moustache", "full", "goatee", "long"):
        y = who.mouth_height - 0.10
        half = [(0.0, -0.05), (0.16, -0.06), (0.33, 0.06), (0.16, 0.055), (0.0, 0.03)]
        both = [(px, py + y) for px, py in half] + [(-px, py + y) for px, py in reversed(half)]
        pen.fill(head.on_face(both), scaled(who.hair, 0.8))


def _nose(pen: Pen, head: Head) -> None:
    who, (x, y) = head.who, head.nose_tip
    width, side = who.nose_width, -head.pose.light
    pen.fill(head.on_face(ellipse(x, y + 0.03, width, 0.075, 14)), head.shadow)
    pen.fill(head.on_face(ellipse(x - side * 0.012, y, width * 0.86, 0.075, 14)), scaled(who.skin, 1.03))
    bridge = [(x * 0.5 + side * width * 0.35, who.eye_height + 0.06), (x + side * width * 0.62, y - 0.04)]
    pen.line(head.on_face(bridge), head.shadow, 0.035)
    for nostril in (-1, 1):
        pen.fill(
            head.on_face(ellipse(x + nostril * width * 0.45, y + 0.055, 0.024, 0.018, 8)),
            blend(head.shadow, _DARK, 0.6),
        )


def _eye(pen: Pen, head: Head, side: int) -> None:
    who, pose = head.who, head.pose
    x, y, size = side * who.eye_gap, who.eye_height, who.eye_size
    tall = size * 0.78 * (1 - 0.85 * pose.blink)
    tilt = side * who.eye_tilt
    lash = blend(_DARK, who.hair, 0.25)
    almond = ellipse(0, 0, size, tall, 16)
    almond = almond + np.stack([np.zeros(16), -almond[:, 0] * tilt * 4], 1) + (x, y)
    pen.fill(head.on_face(almond * (1, 1) + (0, -0.018)), lash if who.woman else blend(head.shadow, _DARK, 0.35))
    pen.fill(head.on_face(almond), (250, 249, 246))
    look = x + pose.gaze * 0.045
    iris = min(size * 0.62, tall * 1.02)
    pen.fill(head.on_face(ellipse(look, y, size * 0.58, iris, 14)), who.iris)
    pen.fill(head.on_face(ellipse(look, y, size * 0.30, iris * 0.55, 10)), (14, 11, 14))
    pen.fill(head.on_face(ellipse(look + pose.light * 0.03, y - iris * 0.35, 0.03, 0.03, 8)), (255, 255, 255))
    if who.lid > 0.12 and pose.blink < 0.5:
        cover = [(x - size * 1.05, y - tall * 0.55), (x, y - tall * 1.12), (x + size * 1.05, y - tall * 0.55)]
        cover += [(x, y - tall * (1.0 - who.lid))]
        pen.fill(head.on_face(cover), scaled(who.skin, 0.93))
    if who.woman:
        outer = x + side * size
        pen.line(
            head.on_face([(outer - side * 0.05, y - tall * 0.6), (outer + side * 0.07, y - tall * 0.6 - 0.06)]),
            lash,
            0.04,
        )
    _brow(pen, head, side, x, y)


def _brow(pen: Pen, head: Head, side: int, x: float, y: float) -> None:
    who, pose = head.who, head.pose
    top = y - who.brow_height - pose.brow * 0.05
    thick, slope = who.brow_thickness, who.brow_slope
    inner, middle, outer = x - side * 0.17, x + side * 0.03, x + side * 0.20
    shape = [
        (inner, top + slope * 0.6), (middle, top - 0.05 - thick * 0.4), (outer, top - slope * 0.7 + 0.02),
        (outer - side * 0.01, top - slope * 0.7 + 0.02 + thick * 0.5), (middle, top - 0.05 + thick * 0.8),
        (inner, top + slope * 0.6 + thick),
    ]  # fmt: skip
    light_hair = who.hair_name in ("white", "blonde", "grey")
    pen.fill(head.on_face(shape), scaled(who.hair, 0.8 if light_hair else 0.62))


def _marks(pen: Pen, head: Head) -> None:
    who = head.who
    if who.freckles:
        for x, y in ((0.42, 0.12), (0.30, 0.18), (0.52, 0.20), (0.40, 0.26), (0.22, 0.12)):
            for side in (-1, 1):
                pen.fill(head.on_face(ellipse(side * x, y, 0.026, 0.026, 6)), blend(who.skin, (120, 60, 30), 0.5))
    spots = {"mole left": (-0.40, 0.40), "mole right": (0.38, 0.44), "mole chin": (0.18, 0.80)}
    if who.mark in spots:
        pen.fill(head.on_face(ellipse(*spots[who.mark], 0.045, 0.045, 10)), blend(head.shadow, _DARK, 0.75))
    elif who.mark == "scar":
        pen.line(head.on_face([(0.50, 0.06), (0.44, 0.24), (0.46, 0.40)]), blend(who.skin, (236, 130, 120), 0.6), 0.05)


def paint_glasses(pen: Pen, head: Head) -> None:
    """After the front hair: glasses lie over it."""
    who = head.who
    if who.glasses == "none":
        return
    colour, y = FRAMES[who.frame_name], who.eye_height + 0.02
    if who.glasses == "sunglasses":
        colour = scaled(colour, 0.7)
    power = 2.0 if who.glasses == "round" else 4.0
    tall = 0.24 if who.glasses != "square" else 0.20
    for side in (-1, 1):
        x = side * who.eye_gap
        rim = head.on_face(rounded(x, y, 0.26, tall, power, 24))
        if who.glasses == "sunglasses":
            pen.fill(rim, blend(colour, (24, 24, 34), 0.55))
            pen.line(head.on_face([(x - 0.12, y - 0.02), (x + 0.04, y - 0.12)]), scaled(colour, 0.6, 110), 0.05)
        else:
            glint = head.on_face([(x - 0.15, y + 0.02), (x - 0.02, y - 0.14)])
            pen.line(glint, (244, 248, 250), 0.02)
        pen.line(np.concatenate([rim, rim[:1]]), colour, 0.06)
        ear = (side * who.head_width * 0.99 - head.turn * 0.4, 0.0)
        pen.line([tuple(head.on_face([(x + side * 0.26, y)])[0]), ear], colour, 0.045)
    pen.line(
        head.on_face([(-who.eye_gap + 0.25, y - 0.02), (0.0, y - 0.06), (who.eye_gap - 0.25, y - 0.02)]), colour, 0.055
    )
