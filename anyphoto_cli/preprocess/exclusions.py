"""Who and what must not be in the data: removal requests bind every holder of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyphoto_cli.errors import InputError
from anyphoto_cli.preprocess.work import PhotoList, Work

_KINDS = ("identity", "source", "url")
REASONS = frozenset({"excluded source", "excluded URL", "shows an excluded person"})
"""Of photos that must not be in the data: no more is told of them."""


@dataclass(frozen=True)
class Exclusions:
    """identities: names in the bank or the source. sources: photo ids, and folders or tars of them. urls. lines: as
    the file has them.
    """

    identities: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    lines: tuple[str, ...] = ()

    def of_photo(self, source: str, url: str, names: Sequence[str]) -> str:
        """Why a photo must go, or "": its own id, one of the folders above it, its URL, or a person in it."""
        if not self.sources.isdisjoint(_with_folders(source)):
            return "excluded source"
        if url and url in self.urls:
            return "excluded URL"
        return "shows an excluded person" if not self.identities.isdisjoint(names) else ""


NOTHING = Exclusions()


def _with_folders(source: str) -> list[str]:
    """A photo's id after the folders above it."""
    parts = source.split("/")
    return ["/".join(parts[: k + 1]) for k in range(len(parts))]


def read_exclusions(file: Path) -> Exclusions:
    """Lines `identity: NAME`, `source: ID`, `url: URL`; a bare line is any of the three. # begins a remark.

    Raises InputError when the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file, field="--exclude") from error
    told = [line.split(" #")[0].strip() for line in lines if not line.startswith("#")]
    meant = [meaning for line in told for meaning in _meanings(line)]
    identities, sources, urls = (frozenset(text for kind, text in meant if kind == wanted) for wanted in _KINDS)
    return Exclusions(identities, sources, urls, tuple(line for line in told if line))


def _meanings(line: str) -> list[tuple[str, str]]:
    """What a line may mean, (kind, text) each. A folder's name may end with a slash, as shells complete it."""
    kind, colon, rest = (part.strip() for part in line.partition(":"))
    meanings = [(kind, rest)] if colon and kind in _KINDS else [(kind, line) for kind in _KINDS]
    texts = [(kind, text.rstrip("/") if kind == "source" else text) for kind, text in meanings]
    return [(kind, text) for kind, text in texts if text]


def unused_lines(exclusions: Exclusions, photos: PhotoList, work: Work, names: Iterable[str]) -> list[str]:
    """Lines that fit no photo, no URL and nobody, as they are written: who asked to be left out may still be in.

    work: with stage detect done. names: everybody of the bank, those that were kept out of it among them.
    """
    met = {("identity", name) for name in exclusions.identities.intersection(names)}
    for chunk in range(len(photos) if exclusions.lines else 0):
        for photo, row in zip(photos.photos(chunk), work.read("detect", chunk)[0], strict=True):
            known = [entry[4] for entry in row.get("known", ())]
            met |= {("identity", name) for name in exclusions.identities.intersection(known)}
            met |= {("source", above) for above in exclusions.sources.intersection(_with_folders(photo.id))}
            met |= {("url", url) for url in exclusions.urls.intersection([row.get("url", photo.url)])}
    return [line for line in exclusions.lines if met.isdisjoint(_meanings(line))]
