"""How somebody looks at one moment: everything about a person that another picture may change."""

from __future__ import annotations

from dataclasses import dataclass

from anyphoto_cli.mini.pen import Chance, Colour

GARMENTS = ("T-shirt", "striped shirt", "shirt", "suit", "hoodie", "dress", "turtleneck")
CLOTHES: dict[str, Colour] = {
    "red": (204, 60, 56), "blue": (58, 96, 180), "green": (70, 148, 92), "yellow": (238, 200, 80),
    "black": (48, 48, 56), "white": (238, 236, 230), "orange": (236, 140, 64), "purple": (128, 84, 168),
    "pink": (236, 150, 176), "brown": (140, 100, 70), "grey": (142, 146, 152),
}  # fmt: skip


@dataclass(frozen=True)
class Pose:
    """roll: radians. yaw, pitch, smile, brow, gaze: -1 to 1. open, blink: 0 to 1. light: -1 (from left) to 1."""

    roll: float
    yaw: float
    pitch: float
    smile: float
    open: float
    blink: float
    brow: float
    gaze: float
    light: float
    garment: str
    cloth_name: str
    cloth: Colour
    second_cloth: Colour


def draw_pose(chance: Chance, light: float, calm: float = 1.0) -> Pose:
    """calm: 1 for all there is, smaller for portraits that are nearer to a passport photo's."""
    cloth_name = chance.pick(tuple(CLOTHES))
    r, g, b = CLOTHES[cloth_name]
    return Pose(
        roll=chance.bell(0.13) * calm,
        yaw=chance.uniform(-1, 1) * calm,
        pitch=chance.uniform(-1, 1) * calm,
        smile=chance.uniform(-0.35, 1.0),
        open=max(0.0, chance.uniform(-1.2, 1.0)) * calm,
        blink=max(0.0, chance.uniform(-1.4, 0.8)) * calm,
        brow=chance.uniform(-1, 1) * calm,
        gaze=chance.uniform(-1, 1) * calm,
        light=light,
        garment=chance.pick(GARMENTS),
        cloth_name=cloth_name,
        cloth=(r + chance.bell(8), g + chance.bell(8), b + chance.bell(8)),
        second_cloth=CLOTHES[chance.pick(tuple(CLOTHES))],
    )
