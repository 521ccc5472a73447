"""Who and what must not be in the data: removal requests bind every holder of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyphoto_cli.errors import InputError

_KINDS = ("identity", "source", "url")


@dataclass(frozen=True)
class Exclusions:
    """identities: names in the bank or the source. sources: photo ids, and folders or tars of them. urls."""

    identities: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()

    def of_photo(self, source: str, url: str, names: Sequence[str]) -> str:
        """Why a photo must go, or "": its own id, one of the folders above it, its URL, or a person in it."""
        parts = source.split("/")
        if not self.sources.isdisjoint("/".join(parts[: k + 1]) for k in range(len(parts))):
            return "excluded source"
        if url and url in self.urls:
            return "excluded URL"
        return "shows an excluded person" if not self.identities.isdisjoint(names) else ""


def read_exclusions(file: Path) -> Exclusions:
    """Lines `identity: NAME`, `source: ID`, `url: URL`; a bare line is any of the three. # begins a remark.

    Raises InputError when the file cannot be read or a line names another kind.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file, field="--exclude") from error
    found: dict[str, set[str]] = {kind: set() for kind in _KINDS}
    for line in lines:
        text = line.split(" #")[0].strip() if not line.startswith("#") else ""
        kind, colon, rest = text.partition(":")
        if colon and kind.strip() in _KINDS:
            found[kind.strip()].add(rest.strip())
        elif text:
            for values in found.values():
                values.add(text)
    return Exclusions(frozenset(found["identity"]), frozenset(found["source"]), frozenset(found["url"]))
