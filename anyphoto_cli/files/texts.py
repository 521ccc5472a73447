"""Texts from the world that files can hold."""

from __future__ import annotations


def storable(text: str) -> str:
    """What UTF-8 has no bytes for is shown, as in \\udcff: halves of characters in JSON, odd bytes of a file's name."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def odd_bytes_shown(name: str) -> str:
    """A file's name as text: bytes of it that are no UTF-8 are shown, as in \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
