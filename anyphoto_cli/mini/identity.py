"""Who somebody is: attributes that stay from picture to picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from anyphoto_cli.mini.pen import Chance, Colour, scaled

SKINS: tuple[Colour, ...] = (
    (255, 226, 204), (247, 209, 178), (240, 194, 152), (226, 174, 128), (205, 150, 104), (178, 122, 82),
    (146, 96, 62), (116, 74, 48), (88, 56, 38), (250, 216, 184),
)  # fmt: skip
HAIR_COLOURS: dict[str, Colour] = {
    "black": (30, 26, 30), "dark brown": (72, 44, 30), "brown": (122, 78, 44), "blonde": (226, 184, 104),
    "red": (184, 74, 32), "grey": (152, 152, 158), "white": (232, 230, 222), "pink": (224, 96, 150),
    "blue": (64, 98, 190), "green": (58, 146, 104),
}  # fmt: skip
IRISES: tuple[Colour, ...] = ((74, 46, 28), (48, 100, 176), (58, 134, 76), (112, 124, 134), (150, 102, 36))
FRAMES: dict[str, Colour] = {"black": (32, 32, 36), "red": (184, 44, 44), "blue": (44, 84, 174), "gold": (204, 164, 70)}
LIPS: tuple[Colour, ...] = ((196, 92, 88), (206, 48, 72), (150, 70, 66), (220, 120, 110))
EARRINGS: tuple[Colour, ...] = ((252, 214, 84), (232, 240, 250), (222, 54, 74))
# Hairstyle -> (weight for a man, for a woman).
HAIRSTYLES: dict[str, tuple[float, float]] = {
    "bald": (1.2, 0.1), "receding": (1.0, 0.0), "buzz": (1.2, 0.2), "short": (1.6, 0.5), "side": (1.4, 0.5),
    "spiky": (1.1, 0.2), "curly": (1.0, 1.1), "afro": (0.8, 1.0), "mohawk": (0.6, 0.4), "bob": (0.1, 1.4),
    "fringe": (0.2, 1.2), "long": (0.5, 1.6), "wavy": (0.3, 1.5), "bun": (0.3, 1.2), "ponytail": (0.3, 1.1),
    "braids": (0.1, 1.0),
}  # fmt: skip
BEARDS = {"none": 5.0, "stubble": 1.0, "goatee": 1.1, "full": 1.4, "moustache": 1.2, "long": 0.7}
GLASSES = {"none": 5.5, "round": 1.5, "square": 1.5, "sunglasses": 1.0}
MARKS = {"none": 5.0, "mole left": 1.0, "mole right": 1.0, "mole chin": 0.7, "scar": 0.7}


YOUNGER = 9
"""Last digit of those who look like the one before."""


@dataclass(frozen=True)
class Identity:
    """Persistent looks. Lengths are in units of half a head's height; see `face.py` for what each one bends."""

    number: int
    woman: bool
    age: float
    skin: Colour
    hairstyle: str
    hair_name: str
    hair: Colour
    iris: Colour
    beard: str
    glasses: str
    frame_name: str
    lips: Colour
    mark: str
    freckles: bool
    blush: bool
    earring: Colour | None
    head_width: float
    jaw: float
    chin: float
    eye_size: float
    eye_gap: float
    eye_tilt: float
    eye_height: float
    lid: float
    brow_thickness: float
    brow_slope: float
    brow_height: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    lip_thickness: float
    ear_size: float
    hairline: float


@lru_cache(maxsize=16384)
def identity(number: int) -> Identity:
    """The person of that number: every tenth is a sibling of the one before, so that some people look alike."""
    if number % 10 == YOUNGER:
        return _sibling(identity(number - 1), number)
    chance = Chance("identity", number)
    woman = chance.happens(0.5)
    age = chance.uniform(0, 1)
    hair_name = _hair_colour(chance, age)
    return Identity(
        number=number,
        woman=woman,
        age=age,
        skin=scaled(chance.pick(SKINS), chance.uniform(0.96, 1.03)),
        hairstyle=chance.weighted({style: pair[woman] for style, pair in HAIRSTYLES.items()}),
        hair_name=hair_name,
        hair=scaled(HAIR_COLOURS[hair_name], chance.uniform(0.86, 1.12)),
        iris=chance.pick(IRISES),
        beard="none" if woman else chance.weighted(BEARDS),
        glasses=chance.weighted(GLASSES),
        frame_name=chance.pick(tuple(FRAMES)),
        lips=chance.pick(LIPS),
        mark=chance.weighted(MARKS),
        freckles=chance.happens(0.18),
        blush=chance.happens(0.3),
        earring=chance.pick(EARRINGS) if chance.happens(0.5 if woman else 0.08) else None,
        **_lengths(chance, woman),
    )


def sibling_of(number: int) -> int | None:
    """Who looks like that person; None for eight in ten."""
    return {YOUNGER - 1: number + 1, YOUNGER: number - 1}.get(number % 10)


def _hair_colour(chance: Chance, age: float) -> str:
    if age > 0.72:
        return chance.weighted({"grey": 3.0, "white": 3.0, "dark brown": 1.0, "blonde": 0.7})
    natural = {"black": 2.2, "dark brown": 2.0, "brown": 2.0, "blonde": 1.8, "red": 1.4}
    return chance.weighted({**natural, "grey": 0.3, "pink": 0.7, "blue": 0.7, "green": 0.5})


def _lengths(chance: Chance, woman: bool) -> dict[str, float]:
    u = chance.uniform
    return {
        "head_width": u(0.70, 0.90) - 0.02 * woman,
        "jaw": u(2.0, 2.6) if woman else u(2.1, 3.4),
        "chin": u(0.10, 0.34) + 0.06 * woman,
        "eye_size": u(0.12, 0.18) + 0.015 * woman,
        "eye_gap": u(0.32, 0.42),
        "eye_tilt": u(-0.05, 0.05),
        "eye_height": u(-0.14, -0.02),
        "lid": u(0.0, 0.35),
        "brow_thickness": u(0.03, 0.07) if woman else u(0.05, 0.12),
        "brow_slope": u(-0.07, 0.05),
        "brow_height": u(0.17, 0.26),
        "nose_width": u(0.07, 0.15) if woman else u(0.09, 0.19),
        "nose_length": u(0.28, 0.44),
        "mouth_width": u(0.20, 0.35),
        "mouth_height": u(0.52, 0.62),
        "lip_thickness": u(0.045, 0.085) if woman else u(0.025, 0.065),
        "ear_size": u(0.13, 0.22),
        "hairline": u(-0.68, -0.48),
    }


def _sibling(elder: Identity, number: int) -> Identity:
    """The same family: skin, hair colour and half of the lengths stay."""
    own = _lengths(chance := Chance("sibling", number), elder.woman)
    kept = dict(zip(list(own)[::2], [getattr(elder, key) for key in list(own)[::2]], strict=True))
    return replace(
        elder,
        number=number,
        hairstyle=chance.weighted({style: pair[elder.woman] for style, pair in HAIRSTYLES.items()}),
        glasses=chance.weighted(GLASSES),
        beard="none" if elder.woman else chance.weighted(BEARDS),
        mark=chance.weighted(MARKS),
        iris=chance.pick(IRISES),
        **{**own, **kept},
    )
