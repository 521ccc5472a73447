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
_UNCOUNTED = re.compile(r"\b(?:hundreds?|thousands?|dozens?|scores|millions?)\b")
_ADJECTIVES = r"(?:(?!(?:of|with|and|or|in|on|at|by)\s)[\w'’-]+\s+){0,3}?"
_NOT_A_THING_OF_THEIRS = r"\b(?!['’]s?\b)(?!['’])"
"""After a noun: "the king's road" speaks of no king."""
_NUMBER = rf"(?:{'|'.join(_NUMBERS)}|\d{{1,2}})"
_SEVERAL = re.compile(
    rf"\b({_NUMBER})\s+{_ADJECTIVES}(?:{'|'.join(sorted(_MANY))}){_NOT_A_THING_OF_THEIRS}"
    rf"|\b(?:family|group|team|band|crew|party)\s+of\s+({_NUMBER})\b"
)
_GROUP = re.compile(
    rf"(?:^|\b(?:a|the|one|of)\s+){_ADJECTIVES}({'|'.join(_GROUPS)})\b(?!\s+of\s+(?!{_ADJECTIVES}(?:{'|'.join(_MANY)})\b))"
)
_SINGLE = re.compile(
    rf"\b(?:an?|one|the|his|her|their|my|our)\s+{_ADJECTIVES}(?:{'|'.join(_ONE)}){_NOT_A_THING_OF_THEIRS}"
)
_BARE_PAIR = re.compile(
    rf"(?:^|\bof\s+|[,:]\s*)(?:{'|'.join(_ONE)})\s+and\s+(?:{'|'.join(_ONE)}){_NOT_A_THING_OF_THEIRS}"
)


def count_people(prompt: str) -> int | None:
    """The number of people a prompt names, or None where it does not say clearly.

    Counts "three friends", "2 women", "a man and his wife", "mother and daughter", "a couple", "a family of four";
    gives up on crowds, groups and lists of names.
    """
    text = re.sub(r"\bhalf a dozen\b", "six", prompt.lower())
    text = re.sub(r"\b(?:a|one) dozen\b", "twelve", text)
    if _UNCOUNTED.search(text):
        return None
    counted = [_value(number or of) for number, of in _SEVERAL.findall(text)]
    rest = _SEVERAL.sub(" ", text)
    groups = [_GROUPS[group] for group in _GROUP.findall(rest)]
    total = sum(counted) + sum(groups)
    # "three friends, a man and two women": the parts explain the whole.
    if len(counted) + len(groups) > 1 or _VAGUE.search(rest):
        return total if len(counted) == 1 and not groups else None
    singles = _SINGLE.findall(rest)
    if not total:
        return len(singles) or (2 if _BARE_PAIR.search(rest) else None)
    # "two women, an astronaut and an admiral" names the same people twice; "two friends, the bride" may be three.
    return total if len(singles) in (0, total) else None


def _value(number: str) -> int:
    return _NUMBERS.get(number) or int(number)


_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def counted(people: int) -> str:
    """A photo of three people."""
    if people <= 0:
        return "A photo."
    number = _WORDS[people] if people < len(_WORDS) else str(people)
    return f"A photo of {number} {'person' if people == 1 else 'people'}."
