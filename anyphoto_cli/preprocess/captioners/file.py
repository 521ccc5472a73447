"""Captions that were written elsewhere: JSONL or parquet rows of `id` (or `path`) and `caption`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.errors import InputError, one_line
from anyphoto_cli.preprocess.caption_checks import BLANK, plain
from anyphoto_cli.seams import CaptionAnswer, Captioner, CaptionRequest

_COLUMNS = ("id", "path", "caption")
_REMEDY = 'Each row holds texts: {"id": ..., "caption": ...}, the id as in report.jsonl'


@dataclass(frozen=True)
class FileCaptioner:
    """file: its name. written: a photo's id in the input -> its caption."""

    file: str
    written: Mapping[str, str]
    looks = False

    @property
    def name(self) -> str:
        """The file is part of it."""
        return f"file:{self.file}"

    def captions(self, pictures: Iterable[CaptionRequest]) -> Iterator[CaptionAnswer]:
        """As written; a photo without a row is a problem."""
        for request in pictures:
            text = self.written.get(_key(request.source))
            problem = f"not in {self.file}" if text is None else "" if text else BLANK
            yield CaptionAnswer(request.id, text or "", problem)


def open_captioner(config: PreprocessConfig, options: RunOptions) -> Captioner:
    """Reads the whole file. Raises InputError naming the file and the row."""
    if config.caption_file is None:
        raise InputError("captioner file needs a file", field="--caption-file", remedy="Give --caption-file FILE")
    file = Path(config.caption_file)
    return FileCaptioner(one_line(file.name), _written(file))


def _written(file: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in _parquet(file) if file.suffix == ".parquet" else _jsonl(file):
        id_, caption = row.get("id") or row.get("path"), row.get("caption")
        if not isinstance(id_, str) or not isinstance(caption, str):
            raise InputError("has no id and caption", file=file, field=f"row {number}", remedy=_REMEDY)
        text = plain(caption)
        if found.setdefault(_key(id_), text) != text:
            raise InputError(f"{id_!r} has another caption above", file=file, field=f"row {number}")
    return found


def _key(id_: str) -> str:
    """As the list of photos names them: odd characters are shown."""
    return one_line(id_.removeprefix("./"))


def _jsonl(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _object(line)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, field="--caption-file") from error
    except (ValueError, RecursionError) as error:
        raise InputError("is no JSON object", file=file, field=f"row {number}", remedy=_REMEDY) from error


def _object(line: bytes) -> Mapping[str, Any]:
    row = json.loads(line.decode("utf-8-sig"))
    if not isinstance(row, dict):
        raise ValueError("no object")
    return row


def _parquet(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError("is parquet, which needs pyarrow", file=file, remedy="Run: pip install pyarrow") from error
    try:
        table = parquet.ParquetFile(file)
        wanted = [name for name in _COLUMNS if name in table.schema_arrow.names]
        parts = table.iter_batches(1024, columns=wanted)
        yield from enumerate((row for part in parts for row in part.to_pylist()), 1)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file, field="--caption-file") from error
