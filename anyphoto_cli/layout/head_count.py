"""How many people a prompt speaks of, where that can be told: a prompt that disagrees fails (paper 4.4)."""

from __future__ import annotations

import re

_NUMBERS = {
    word: n
    for n, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], 1
    )
}
_NUMBERS |= {"both": 2}
# fmt: off
_ONE = [
    "man", "woman", "boy", "girl", "person", "guy", "lady", "gentleman", "child", "kid", "baby", "toddler",
    "teenager", "bride", "groom", "king", "queen", "father", "mother", "dad", "mom", "son", "daughter",
    "brother", "sister", "husband", "wife", "friend", "colleague", "astronaut", "actor", "actress", "singer",
    "chef", "doctor", "nurse", "soldier", "knight", "teacher", "student", "player", "scientist", "admiral",
    "politician", "president",
]
_IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "lady": "ladies", "baby": "babies",
    "wife": "wives", "actress": "actresses",
}
# fmt: on
_MANY = {_IRREGULAR.get(word, word + "s") for word in _ONE} | {"persons", "adults", "twins", "faces"}
_GROUPS = {"couple": 2, "pair": 2, "duo": 2, "trio": 3, "quartet": 4}
_VAGUE = re.compile(r"\b(crowd|group|several|some|many|people|team|family|audience|band|guests)\b", re.IGNORECASE)
_ADJECTIVES = r"(?:[\w'-]+\s+){0,3}?"


def count_people(prompt: str) -> int | None:
    """The number of people a prompt names, or None where it does not say clearly.

    Counts "three friends", "2 women", "a man and a woman", "a couple"; gives up on crowds, groups and lists of names.
    """
    text = prompt.lower()
    numbers = "|".join([*_NUMBERS, r"\d{1,2}"])
    counted = re.findall(rf"\b({numbers})\s+{_ADJECTIVES}({'|'.join(sorted(_MANY))})\b", text)
    rest = re.sub(rf"\b({numbers})\s+{_ADJECTIVES}({'|'.join(sorted(_MANY))})\b", " ", text)
    total = sum(_NUMBERS.get(number) or int(number) for number, _ in counted)
    groups = re.findall(
        rf"\b(?:a|the|one)\s+{_ADJECTIVES}({'|'.join(_GROUPS)})\b(?!\s+of\s+(?!{'|'.join(_MANY)}))", rest
    )
    total += sum(_GROUPS[group] for group in groups)
    # "three friends, a man and two women": the parts explain the whole.
    if len(counted) + len(groups) > 1 or _VAGUE.search(rest):
        return None if not counted or len(counted) > 1 else total
    singles = len(re.findall(rf"\b(?:an?|one|the)\s+{_ADJECTIVES}({'|'.join(_ONE)})\b", rest))
    if total and singles:  # "two women, an astronaut and an admiral" names the same people twice
        return total if total == singles else None
    return total or singles or None


_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def counted(people: int) -> str:
    """A photo of three people."""
    if people <= 0:
        return "A photo."
    number = _WORDS[people] if people < len(_WORDS) else str(people)
    return f"A photo of {number} {'person' if people == 1 else 'people'}."
