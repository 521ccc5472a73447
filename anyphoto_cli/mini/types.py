"""What a drawn picture knows about itself."""

from __future__ import annotations

from dataclasses import dataclass

from anyphoto_cli.types import Box, Picture, Points

STYLES = ("photo", "pencil", "watercolour", "pixel", "comic", "sepia")
SCENES = ("park", "beach", "city", "room", "snow", "night", "library", "studio")
MAX_PEOPLE = 4
HELD_OUT = 1_000_000
"""Identities below are for training, from here on for tests: they never mix."""


@dataclass(frozen=True, eq=False)
class DrawnPerson:
    """One person in a picture, exactly.

    identity: number of the person. person_box: all that is drawn of them, clipped to the picture. face_box: the head's
    outline from forehead to chin without hair, clipped. landmarks: ArcFace order, px. visible: 0-1, the share of the
    face that nothing in front hides and that lies inside the picture.
    """

    identity: int
    person_box: Box
    face_box: Box
    landmarks: Points
    visible: float


@dataclass(frozen=True, eq=False)
class DrawnPicture:
    """A picture and its truth. people: from left to right. scene, style: one of SCENES, STYLES.

    paraphrases: other captions that are just as true.
    """

    pixels: Picture
    people: tuple[DrawnPerson, ...]
    caption: str
    scene: str
    style: str
    paraphrases: tuple[str, ...]
