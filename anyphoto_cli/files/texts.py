"""Texts from the world that files can hold."""

from __future__ import annotations


def storable(text: str) -> str:
    """What UTF-8 has no bytes for is shown, as in \\udcff: halves of characters in JSON, odd bytes of a file's name."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
