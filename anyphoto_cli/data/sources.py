"""Where photos come from: folder trees, webdataset tars (MultiID-2M's among them), and lists of paths.

Everything is listed once, in an order that depends on names alone, one record a photo and nothing of its content: the
list is what runs are split by and resumed by. Nothing here writes, moves or deletes.
"""

from __future__ import annotations

import json
import math
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import InputError, one_line
from anyphoto_cli.files.texts import odd_bytes_shown

PICTURE_SUFFIXES = (
    "jpg",
    "jpeg",
    "png",
    "webp",
    "avif",
    "bmp",
    "gif",
    "tif",
    "tiff",
    "heic",
    "heif",
    "ppm",
    "jp2",
    "tga",
    "jfif",
    "jpe",
    "mpo",
)
CAPTION_SUFFIXES = ("txt", "caption")
"""Of the texts beside pictures, as trainers of adapters and img2dataset write them; the first one wins."""
LEFTOVERS = (".DS_Store", "Thumbs.db", "desktop.ini")
LIST_SUFFIXES = (".jsonl", ".ndjson", ".parquet")
MAX_DEPTH = 64


@dataclass(frozen=True)
class Span:
    """Bytes of a file: from offset, size long."""

    offset: int
    size: int


@dataclass(frozen=True)
class PhotoInput:
    """One line of the list. id: what the photo is called in reports and shards, unique. file: where its bytes are.

    picture: None for a file of its own, else its place in a tar. annotation, caption_text: the json and the text beside
    it, places in the same tar or names in the same folder. embeddings: MultiID-2M's npy in the same tar. caption, url,
    aesthetics, nsfw: what a list says. problem: why there is no photo here, or "".
    """

    id: str
    file: str
    picture: Span | None = None
    annotation: Span | str | None = None
    caption_text: Span | str | None = None
    embeddings: Span | None = None
    caption: str = ""
    url: str = ""
    aesthetics: float | None = None
    nsfw: float | None = None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without what is empty."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PhotoInput:
        """The opposite of `to_json`."""
        places = {key: value.get(key) for key in ("picture", "annotation", "caption_text", "embeddings")}
        spans = {key: Span(**place) for key, place in places.items() if isinstance(place, dict)}
        return cls(**{**value, **spans})


def list_photos(source: Path) -> Iterator[PhotoInput]:
    """Every entry of a folder, a tar, or a list, one record each, also for what cannot be read.

    Folders are walked in the order of their names; tars inside give their samples. Raises InputError when the source
    itself is missing or of no known kind.
    """
    if source.is_dir():
        yield from _folder(source, source, ())
    elif source.suffix == ".tar" and source.is_file():
        yield from _tar(source, _name(source, source.parent))
    elif source.suffix in LIST_SUFFIXES and source.is_file():
        yield from _list(source)
    elif source.exists():
        remedy = "Give a folder, a .tar, or a list of paths as .jsonl or .parquet"
        raise InputError("is no source of photos", file=source, remedy=remedy)
    else:
        raise InputError("no such file or folder", file=source)


def _folder(root: Path, folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[PhotoInput]:
    """Depth first. A folder that contains itself through a link, or cannot be read, is one record with a problem."""
    name = _name(folder, root)
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above or len(above) > MAX_DEPTH:
            yield PhotoInput(name, str(folder), problem="is a link to a folder above it")
            return
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield PhotoInput(name, str(folder), problem=f"folder cannot be read ({error.strerror})")
        return
    beside, names = _beside(entries), {entry.name for entry in entries}
    for entry in entries:
        path = Path(entry.path)
        stem, suffix = _stem_and_suffix(entry.name)
        mine = beside.get(stem, {})
        if mine.get(suffix) == entry.name or _of_img2dataset(entry.name, names):
            continue
        if _is_folder(entry):
            yield from _folder(root, path, (*above, here))
        elif path.suffix == ".tar" and _is_plain(entry):
            yield from _tar(path, _name(path, root))
        elif path.suffix in (".part", ".tmp") or entry.name in LEFTOVERS:
            yield PhotoInput(_name(path, root), str(path), problem="is no photo (left by another program)")
        elif suffix in PICTURE_SUFFIXES:
            text = next((mine[kind] for kind in CAPTION_SUFFIXES if kind in mine), None)
            yield PhotoInput(_name(path, root), str(path), annotation=mine.get("json"), caption_text=text)
        else:
            yield PhotoInput(_name(path, root), str(path))


def _of_img2dataset(name: str, names: Set[str]) -> bool:
    """Its table and its counts, 00000.parquet and 00000_stats.json, beside the tar or the folder they tell of."""
    for ending in (".parquet", "_stats.json"):
        if name.endswith(ending) and {name.removesuffix(ending), name.removesuffix(ending) + ".tar"} & names:
            return True
    return False


def _beside(entries: Sequence[os.DirEntry[str]]) -> dict[str, dict[str, str]]:
    """Stem of a picture -> suffix -> name of the text beside it: such a file belongs to the picture."""
    texts: dict[str, dict[str, str]] = {}
    for entry in entries:
        stem, suffix = _stem_and_suffix(entry.name)
        if suffix in ("json", *CAPTION_SUFFIXES) and _is_plain(entry):
            texts.setdefault(stem, {})[suffix] = entry.name
    named = [(_stem_and_suffix(entry.name), entry) for entry in entries] if texts else []
    pictures = {stem for (stem, suffix), entry in named if suffix in PICTURE_SUFFIXES and _is_plain(entry)}
    return {stem: mine for stem, mine in texts.items() if stem in pictures}


def _stem_and_suffix(name: str) -> tuple[str, str]:
    stem, _, suffix = name.rpartition(".")
    return (stem, suffix.lower()) if stem else (name, "")


def _is_plain(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a ring
        return False


def _name(path: Path, root: Path) -> str:
    """A text that any JSON can hold."""
    return odd_bytes_shown(path.relative_to(root).as_posix() or ".")


def _tar(path: Path, name: str) -> Iterator[PhotoInput]:
    """One record a sample: members of one key side by side, as webdataset has it. A broken rest is one record."""
    key, members = "", dict[str, Span]()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    if not member.isdir():
                        yield PhotoInput(
                            f"{name}/{one_line(member.name)}", str(path), problem="is no plain file in its tar"
                        )
                    continue
                found, _, extension = member.name.rpartition("/")[2].partition(".")
                found = member.name[: len(member.name) - len(extension) - 1] if extension else member.name
                if found != key and members:
                    yield _sample(path, name, key, members)
                    members = {}
                key = found
                members[extension.lower()] = Span(member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        if members:
            yield _sample(path, name, key, members)
        yield PhotoInput(f"{name}/", str(path), problem=f"is a broken tar from here on ({type(error).__name__})")
        return
    if members:
        yield _sample(path, name, key, members)


def _sample(path: Path, name: str, key: str, members: Mapping[str, Span]) -> PhotoInput:
    picture, text = (
        next((members[extension] for extension in suffixes if extension in members), None)
        for suffixes in (PICTURE_SUFFIXES, CAPTION_SUFFIXES)
    )
    return PhotoInput(
        id=f"{name}/{one_line(key)}", file=str(path), picture=picture, annotation=members.get("json"),
        caption_text=text, embeddings=members.get("npy"), problem="" if picture else "has no picture in its tar",
    )  # fmt: skip


def _list(file: Path) -> Iterator[PhotoInput]:
    """Rows with `path` (below the list's folder, or absolute); if given: `caption`, `url`, `aesthetics`, `nsfw`."""
    for number, row in enumerate(_jsonl(file) if file.suffix != ".parquet" else _parquet(file), 1):
        path = row.get("path")
        if not isinstance(path, str) or not path or "\0" in path:
            yield PhotoInput(f"{_name(file, file.parent)}:{number}", str(file), problem="is a row without a path")
            continue
        yield PhotoInput(
            id=one_line(path), file=str(file.parent / path), caption=str(row.get("caption") or ""),
            url=str(row.get("url") or ""), aesthetics=_score(row.get("aesthetics")), nsfw=_score(row.get("nsfw")),
        )  # fmt: skip


def _score(value: Any) -> float | None:
    """None for what is no number: a list may leave it open."""
    with suppress(OverflowError):  # whole numbers may be of any length
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    return None


def _jsonl(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for line in lines:
                if line.strip():
                    yield _row(line)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file) from error


def _row(line: str) -> Mapping[str, Any]:
    """Empty for what is no object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _parquet(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError("is parquet, which needs pyarrow", file=file, remedy="Run: pip install pyarrow") from error
    try:
        table = parquet.ParquetFile(file)
        columns = ("path", "caption", "url", "aesthetics", "nsfw")
        wanted = [name for name in columns if name in table.schema_arrow.names]
        if "path" not in wanted:
            raise InputError("has no column named path", file=file)
        for part in table.iter_batches(1024, columns=wanted):
            yield from part.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        remedy = "Copy or write it again"
        raise InputError(f"is a damaged parquet file ({type(error).__name__})", file=file, remedy=remedy) from error


def read_span(file: str, span: Span) -> bytes:
    """Bytes of a tar member. Raises InputError when the file is shorter than it was when listed."""
    try:
        with Path(file).open("rb") as source:
            source.seek(span.offset)
            data = source.read(span.size)
    except OSError as error:
        raise InputError(f"cannot be opened ({error.strerror})", file=file) from error
    if len(data) != span.size:
        raise InputError("ends before the photo does", file=file)
    return data
