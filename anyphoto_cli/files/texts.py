"""Texts from the world that files can hold."""

from __future__ import annotations

import unicodedata

_SPELLED = str.maketrans({
    "ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i",
})  # fmt: skip
"""Latin letters that are no letter with an accent."""


def storable(text: str) -> str:
    """What UTF-8 has no bytes for is shown, as in \\udcff: halves of characters in JSON, odd bytes of a file's name."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def odd_bytes_shown(name: str) -> str:
    """A file's name as text: bytes of it that are no UTF-8 are shown, as in \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def in_ascii(text: str) -> str:
    """What Pillow's own font, which pictures are labelled in, can write of a text: accents go, ? for other scripts."""
    plain = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode()
