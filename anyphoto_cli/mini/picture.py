"""People in a place: one seed, one picture, and everything that is true of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anyphoto_cli.mini.body import paint_body
from anyphoto_cli.mini.captions import caption
from anyphoto_cli.mini.face import Head, paint_glasses, paint_head
from anyphoto_cli.mini.hair import paint_back_hair, paint_front_hair
from anyphoto_cli.mini.identity import Identity, identity
from anyphoto_cli.mini.pen import HIDDEN, NEUTRAL_LIGHT, Chance, Pen, Sheet, ellipse
from anyphoto_cli.mini.pose import Pose, draw_pose
from anyphoto_cli.mini.scene import paint_scene
from anyphoto_cli.mini.styles import apply_style
from anyphoto_cli.mini.types import HELD_OUT, MAX_PEOPLE, SCENES, STYLES, DrawnPerson, DrawnPicture
from anyphoto_cli.types import Box

TRAINING_IDENTITIES = 100_000
PARAPHRASES = 3
_HEAD = {1: 0.235, 2: 0.185, 3: 0.150, 4: 0.128}
_STYLE_WEIGHTS = {"photo": 5.0} | dict.fromkeys(STYLES[1:], 1.0)


@dataclass(frozen=True)
class Place:
    """Where a head goes: its centre and half its height, px."""

    x: float
    y: float
    scale: float


def draw_picture(
    seed: int,
    *,
    identities: Sequence[int] | None = None,
    style: str | None = None,
    scene: str | None = None,
    size: tuple[int, int] = (128, 128),
    places: Sequence[Place] | None = None,
    calm: float = 1.0,
    obstacles: bool = True,
) -> DrawnPicture:
    """1 to 4 people somewhere; what is not given is drawn by lot. size: (width, height), px.

    The same arguments give the same bytes on every machine. calm: < 1 for poses nearer to a passport photo's.
    obstacles: whether a balloon, a cup or a leaf may be in front of somebody.
    """
    chance, people, style, scene, where = _draw_lots(seed, identities, style, scene, size, places, calm)
    sheet = Sheet(*size)
    paint_scene(scene, sheet, chance)
    truths: list[DrawnPerson] = [None] * len(people)  # type: ignore[list-item]
    for number in sorted(range(len(people)), key=lambda i: where[i].scale):  # the nearer, the later
        truths[number] = _paint_person(sheet, *people[number], where[number], number + 1, chance)
    if obstacles and chance.happens(0.12):
        _paint_obstacle(sheet, truths, chance)
    pixels = apply_style(style, _develop(sheet, scene, chance))
    order = sorted(range(len(people)), key=lambda i: where[i].x)
    seen = [_with_visibility(truths[i], sheet, i + 1) for i in order]
    said = [caption([people[i] for i in order], scene, style, chance) for _ in range(1 + PARAPHRASES)]
    return DrawnPicture(pixels, tuple(seen), said[0], scene, style, tuple(said[1:]))


def heads_of(seed: int, size: tuple[int, int] = (128, 128)) -> list[Place]:
    """Where the heads of `draw_picture(seed, size=size)` are, without painting it."""
    return _draw_lots(seed, None, None, None, size, None, 1.0).where


def style_of(seed: int) -> str:
    """Of `draw_picture(seed)`, without painting it."""
    return _draw_lots(seed, None, None, None, (128, 128), None, 1.0).style


class _Lots(NamedTuple):
    """chance: goes on where the lots ended."""

    chance: Chance
    people: list[tuple[Identity, Pose]]
    style: str
    scene: str
    where: list[Place]


def _draw_lots(
    seed: int, identities: Sequence[int] | None, style: str | None, scene: str | None, size: tuple[int, int],
    places: Sequence[Place] | None, calm: float,
) -> _Lots:  # fmt: skip
    """What a picture shows; all lots are drawn in the same order, whatever is given."""
    chance = Chance("picture", seed)
    count = chance.pick((1, 2, 2, 3, 3, 4))
    drawn = [chance.below(TRAINING_IDENTITIES) for _ in range(MAX_PEOPLE)]
    lot_scene, lot_style = chance.pick(SCENES), chance.weighted(_STYLE_WEIGHTS)
    light = chance.pick((-1.0, 1.0)) * chance.uniform(0.3, 1.0)
    people = [(identity(number), draw_pose(chance, light, calm)) for number in identities or drawn[:count]]
    where = list(places) if places is not None else _places(len(people), size, chance)
    return _Lots(chance, people, style or lot_style, scene or lot_scene, where)


def draw_portrait(number: int, seed: int, *, style: str = "photo", side: int = 128, calm: float = 0.8) -> DrawnPicture:
    """A reference photo of one person."""
    chance = Chance("portrait", number, seed)
    scale = side * chance.uniform(0.22, 0.27)
    place = Place(side * chance.uniform(0.42, 0.58), side * chance.uniform(0.42, 0.52), scale)
    picture_seed = chance.below(2**48)
    return draw_picture(
        picture_seed, identities=[number], style=style, size=(side, side), places=[place], calm=calm, obstacles=False
    )


def held_out_identities(chance: Chance, count: int, people: int = 1000) -> list[int]:
    """Different people that no model was trained on."""
    found: list[int] = []
    while len(found) < count:
        number = HELD_OUT + chance.below(people)
        if number not in found:
            found.append(number)
    return found


def _places(count: int, size: tuple[int, int], chance: Chance) -> list[Place]:
    """Side by side, nearer or further, sometimes overlapping; whole heads stay in the picture."""
    width, height = size
    room = min(height, width * 1.25, width / (count * 0.26 + 0.12))
    squeeze = 0.5 if count == 1 else (0.30 if chance.happens(0.25) else 0.12) / (1 if count < 3 else 1.4)
    places = []
    for i in range(count):
        scale = min(_HEAD[count] * max(room, min(size)), height * 0.27) * chance.uniform(0.84, 1.12)
        x = ((i + 0.5) / count + chance.uniform(-squeeze, squeeze)) * width
        x = min(max(x, scale * 1.0), width - scale * 1.0)
        y = chance.uniform(0.34, 0.56) * height
        places.append(Place(x, min(max(y, scale * 1.35), height - scale * 1.25), scale))
    return places


def _paint_person(sheet: Sheet, who: Identity, pose: Pose, at: Place, number: int, chance: Chance) -> DrawnPerson:
    head = Head(who, pose)
    top = Pen(sheet, at.x, at.y, at.scale, pose.roll, number)
    below = Pen(sheet, at.x, at.y, at.scale, pose.roll * 0.25, number)
    paint_back_hair(top, head)
    paint_body(below, head, lean=-math.sin(pose.roll) * 0.5)
    paint_head(top, head, number)
    paint_front_hair(top, head)
    paint_glasses(top, head)
    outline = top.place(head.outline)
    low, high = np.minimum(top.low, below.low), np.maximum(top.high, below.high)
    return DrawnPerson(
        identity=who.number,
        person_box=_clipped(low, high, sheet),
        face_box=_clipped(outline.min(0), outline.max(0), sheet),
        landmarks=top.place(head.landmarks),
        visible=_inside(outline, sheet),
    )


def _clipped(low: Any, high: Any, sheet: Sheet) -> Box:
    """px where the centre of the first pixel is 0 -> a box whose edges lie within the picture's."""
    x0, y0 = max(float(low[0]), -0.5), max(float(low[1]), -0.5)
    return Box(x0, y0, min(float(high[0]), sheet.width - 0.5), min(float(high[1]), sheet.height - 0.5))


def _inside(outline: Any, sheet: Sheet) -> float:
    """Share of a polygon's area inside the picture, by its bounds."""
    (x0, y0), (x1, y1) = outline.min(0), outline.max(0)
    wide = min(x1, sheet.width - 0.5) - max(x0, -0.5)
    high = min(y1, sheet.height - 0.5) - max(y0, -0.5)
    return float(max(wide, 0.0) * max(high, 0.0) / ((x1 - x0) * (y1 - y0)))


def _with_visibility(person: DrawnPerson, sheet: Sheet, number: int) -> DrawnPerson:
    """What others and obstacles hide counts off; a head fills .78 of its box."""
    seen = float(np.count_nonzero(sheet.owner == number))
    whole = max(person.face_box.area * 0.80, 1.0)
    return DrawnPerson(
        person.identity, person.person_box, person.face_box, person.landmarks,
        person.visible * min(seen / whole, 1.0),
    )  # fmt: skip


def _paint_obstacle(sheet: Sheet, people: Sequence[DrawnPerson], chance: Chance) -> None:
    """A balloon, a cup or a leaf in front of somebody."""
    kind, person = chance.pick(("balloon", "cup", "leaf")), people[chance.below(len(people))]
    half = person.face_box.height / 2
    x = (person.face_box.x0 + person.face_box.x1) / 2 + chance.uniform(-1.1, 1.1) * half
    y = (person.face_box.y0 + person.face_box.y1) / 2 + chance.uniform(0.3, 1.6) * half
    pen = Pen(sheet, x, y, half * chance.uniform(0.6, 0.95), chance.bell(0.4))
    if kind == "balloon":
        colour = chance.pick(((222, 60, 70), (70, 120, 210), (246, 200, 70), (110, 190, 120)))
        pen.line([(0, 0.6), (0.1, 1.6), (0.0, 3.0)], (240, 240, 240), 0.05)
        pen.fill(shape := ellipse(0, 0, 0.62, 0.74, 24), colour)
        pen.fill(ellipse(-0.2, -0.3, 0.14, 0.2, 12), (255, 240, 240))
    elif kind == "cup":
        shape = np.array([(-0.42, -0.45), (0.42, -0.45), (0.34, 0.55), (-0.34, 0.55)])
        pen.fill(shape, (246, 244, 238))
        pen.fill([(-0.40, -0.2), (0.40, -0.2), (0.37, 0.2), (-0.37, 0.2)], (196, 92, 70))
    else:
        pen.fill(
            shape := np.array([(-0.9, 0.9), (-0.5, -0.1), (0.3, -0.5), (0.8, -0.9), (0.7, -0.1), (0.1, 0.5)]),
            (58, 128, 66),
        )
        pen.line([(-0.9, 0.9), (0.1, 0.0), (0.8, -0.9)], (110, 176, 104), 0.07)
    pen.own(shape, HIDDEN)
    pen.shade(shape, NEUTRAL_LIGHT)


def _develop(sheet: Sheet, scene: str, chance: Chance) -> Any:
    """Fine ink -> picture, with its light, the light's colour and its fall-off."""
    import cv2

    size = (sheet.width, sheet.height)
    ink = cv2.resize(sheet.ink, size, interpolation=cv2.INTER_AREA)
    light = cv2.GaussianBlur(sheet.light, (5, 5), 0).astype(np.int32)
    angle, depth = chance.uniform(0, 2 * math.pi), chance.uniform(0, 22)
    across = (np.arange(sheet.width) * 2 - sheet.width) * (math.cos(angle) * depth / sheet.width)
    down = (np.arange(sheet.height) * 2 - sheet.height) * (math.sin(angle) * depth / sheet.height)
    level = NEUTRAL_LIGHT * chance.uniform(0.90, 1.08) * (0.92 if scene == "night" else 1.0)
    field = np.rint((across[None, :] + down[:, None] + level) * 16).astype(np.int32)
    tint = (0.94, 0.97, 1.08) if scene == "night" else (1.0, 1.0, 1.0)
    gain = np.rint([chance.uniform(0.93, 1.06) * share * 256 for share in tint]).astype(np.int32)
    lit = (ink.astype(np.int32) * light[..., None] >> 3) * field[..., None] >> 15
    return np.clip(lit * gain >> 8, 0, 255).astype(np.uint8)
