"""What the files of cases say, value by value: each is what it should be, or an error in words.

Files come from anywhere: a text where a list should be, or a place of 1e308 px, would go wrong far from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from anyphoto_cli.types import Box

FARTHEST = 1e9
"""px of a place, and of a picture's side; of a side the inverse, too. Beyond it floats overflow further on."""
CROWD = 10_000
"""More people than any picture shows: a number of people that is none."""


def text_of(value: Any) -> str:
    """Raises TypeError for what is no text: None would be scored as the word."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def list_of(value: Any, key: str) -> list[Any]:
    """Raises TypeError for what is no list: of a text every letter would be one."""
    if not isinstance(value, list):
        raise TypeError(f"{key} is a list, not {value!r}")
    return value


def id_of(value: Any) -> str:
    """Text, or a whole number. Raises TypeError for others."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text_of(value)


def landmarks_of(told: Any, people: int) -> tuple[Any, ...]:
    """Raises ValueError unless there are five points for each, all of them finite."""
    points = tuple(tuple((place_of(x), place_of(y)) for x, y in five) for five in told or ())
    if points and (len(points) != people or any(len(five) != 5 for five in points)):
        raise ValueError("landmarks are five points for each reference")
    return points


def size_of(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """Raises ValueError for a side that is none."""
    if entry.get("width") is None and entry.get("height") is None:
        return None
    size = place_of(entry["width"]), place_of(entry["height"])
    if min(size) < 1 / FARTHEST:
        raise ValueError(f"a picture of {size[0]:g} x {size[1]:g} px is none")
    return size


def boxes_of(corners: Any) -> tuple[Box, ...]:
    """Raises as `place_of`, and TypeError for fewer than four corners."""
    return tuple(Box(*(place_of(value) for value in four[:4])) for four in corners)


def place_of(value: Any) -> float:
    """Raises ValueError for what is no number, or none that anything can be measured by."""
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not abs(number) <= FARTHEST:
        raise ValueError(f"{number:g} is no place")
    return number


def people_of(told: Any) -> int:
    """How many people; 0 where it does not say. Raises ValueError for what is no number of people."""
    try:
        number = int(told or 0)
    except OverflowError:  # infinity
        number = -1
    if not 0 <= number <= CROWD:
        raise ValueError("num_persons is no number of people")
    return number
