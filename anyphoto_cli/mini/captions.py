"""What a picture shows, in plain English, said in one of many ways."""

from __future__ import annotations

from collections.abc import Sequence

from anyphoto_cli.mini.identity import Identity
from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.pose import Pose

STYLE_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "photo": (("a photo of ", ""), ("", ""), ("a picture of ", ""), ("", ", photo"), ("a photograph of ", "")),
    "pencil": (
        ("a pencil drawing of ", ""), ("a pencil sketch of ", ""), ("", ", pencil drawing"), ("", ", pencil sketch"),
    ),
    "watercolour": (
        ("a watercolour painting of ", ""), ("a watercolour of ", ""), ("", ", watercolour"),
        ("", ", watercolor painting"),
    ),
    "pixel": (("pixel art of ", ""), ("", ", pixel art"), ("a pixel art picture of ", ""), ("", " as pixel art")),
    "comic": (("a comic of ", ""), ("a comic book panel of ", ""), ("", ", comic style"), ("", ", comic book style")),
    "sepia": (
        ("an old sepia photo of ", ""), ("a sepia photograph of ", ""), ("", ", old sepia photo"),
        ("a vintage photo of ", ""),
    ),
}  # fmt: skip
SCENE_WORDS: dict[str, tuple[str, ...]] = {
    "park": ("in a park", "in the park", "on the grass under the trees", "in a green park"),
    "beach": ("on a beach", "at the beach", "by the sea", "at the seaside"),
    "city": ("in a city", "in the city", "on a city street", "in front of tall buildings"),
    "room": ("in a living room", "at home", "in a room with a window", "indoors"),
    "snow": ("in the snow", "in snowy mountains", "in the mountains in winter", "on a snowy mountain"),
    "night": ("at night", "under the stars", "at night under the moon", "in a city at night"),
    "library": ("in a library", "in front of bookshelves", "among books", "in the library"),
    "studio": ("in a studio", "in front of a plain wall", "against a plain background", "in a photo studio"),
}
NUMBERS = {2: "two", 3: "three", 4: "four"}
STYLE_OF_HAIR = {
    "buzz": "very short {} hair", "receding": "receding {} hair", "short": "short {} hair", "side": "parted {} hair",
    "spiky": "spiky {} hair", "curly": "curly {} hair", "afro": "a {} afro", "mohawk": "a {} mohawk",
    "bob": "a {} bob", "fringe": "{} hair with a fringe", "long": "long {} hair", "wavy": "wavy {} hair",
    "bun": "{} hair in a bun", "ponytail": "a {} ponytail", "braids": "{} braids",
}  # fmt: skip
STYLE_OF_BEARD = {"goatee": "a goatee", "full": "a beard", "moustache": "a moustache", "long": "a long beard"}


def caption(people: Sequence[tuple[Identity, Pose]], scene: str, style: str, chance: Chance) -> str:
    """people: from left to right. Half of the captions only count them, the others say what they look like."""
    before, after = chance.pick(STYLE_WORDS[style])
    verb = chance.pick(("", "", " standing", " posing", " together" if len(people) > 1 else " looking at the camera"))
    place = chance.pick(SCENE_WORDS[scene])
    if chance.happens(0.5):
        who = " and ".join(_joined([_described(who, pose, chance, brief=len(people) > 2) for who, pose in people]))
    else:
        who = _counted([identity for identity, _ in people], chance)
    said = f"{before}{who}{verb} {place}{after}"
    if chance.happens(0.12):
        said = f"{place}, {before}{who}{after}"
    return said[0].upper() + said[1:] if chance.happens(0.3) else said


def _joined(parts: list[str]) -> list[str]:
    """a, b, c -> ["a, b", "c"]."""
    return [", ".join(parts[:-1]), parts[-1]] if len(parts) > 2 else parts


def _counted(people: list[Identity], chance: Chance) -> str:
    women = sum(person.woman for person in people)
    men, count = len(people) - women, len(people)
    if count == 1:
        return chance.pick(("a person", "a woman" if women else "a man", "one person"))
    number = NUMBERS[count]
    if chance.happens(0.5):
        return chance.pick((f"{number} people", f"{number} friends", f"a group of {number} people", f"{count} people"))
    if not men or not women:
        return f"{number} women" if women else f"{number} men"
    return f"{_some(women, 'woman', 'women')} and {_some(men, 'man', 'men')}"


def _some(count: int, one: str, many: str) -> str:
    return f"a {one}" if count == 1 else f"{NUMBERS[count]} {many}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _described(who: Identity, pose: Pose, chance: Chance, brief: bool) -> str:
    """brief: one feature at most, so that a caption of four people stays readable."""
    noun = "woman" if who.woman else "man"
    smiling = "smiling " if pose.smile > 0.55 and chance.happens(0.5) else ""
    bald = "bald " if who.hairstyle == "bald" else ""
    features = []
    if not bald and chance.happens(0.8):
        features.append(STYLE_OF_HAIR[who.hairstyle].format(who.hair_name))
    if who.beard in STYLE_OF_BEARD and chance.happens(0.8):
        features.append(STYLE_OF_BEARD[who.beard])
    if who.glasses != "none" and chance.happens(0.8):
        features.append("sunglasses" if who.glasses == "sunglasses" else f"{who.frame_name} glasses")
    if brief:
        features = features[:1]
    said = f"a {smiling}{bald}{noun}"
    if features:
        said += " with " + " and ".join(_joined(features))
    if chance.happens(0.3 if brief and features else 0.5):
        said += f" in {_article(pose.cloth_name)} {pose.cloth_name} {pose.garment}"
    return said
