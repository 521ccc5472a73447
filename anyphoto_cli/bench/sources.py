"""Where a case's pictures lie: in files of their own, or in a column of parquet or arrow rows. Read when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.images import decode, read_bytes
from anyphoto_cli.types import Picture


@dataclass(frozen=True)
class FileSource:
    """A picture file."""

    file: Path

    def read(self) -> bytes:
        """Raises InputError as `read_picture` does."""
        return read_bytes(self.file)

    @property
    def told(self) -> str:
        """For messages."""
        return str(self.file)


@dataclass(frozen=True)
class RowSource:
    """Picture `place` of a column's list, or the column's only one (None), in one row."""

    file: Path
    row: int
    column: str
    place: int | None

    def read(self) -> bytes:
        """Raises InputError for a cell without bytes."""
        cell = open_rows(self.file).cell(self.row, self.column)
        if self.place is not None:
            cell = cell[self.place]
        data = cell.get("bytes") if isinstance(cell, dict) else None
        if not data:
            raise InputError("holds no picture", file=self.told)
        return bytes(data)

    @property
    def told(self) -> str:
        """For messages."""
        place = "" if self.place is None else f"[{self.place}]"
        return f"{self.file.name}, row {self.row}, {self.column}{place}"


Source = FileSource | RowSource


def picture_of(source: Source) -> Picture:
    """[H, W, 3] RGB, upright. Raises InputError as `read_picture` does."""
    import numpy as np

    return np.asarray(decode(source.read(), Path(source.told)))


class Rows:
    """Any row of a parquet or arrow file; of parquet one row group is held at a time."""

    def __init__(self, file: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.ipc
            import pyarrow.parquet
        except ImportError as error:
            remedy = 'Run: pip install "anyphoto[bench]"'
            raise EnvironmentFault(
                "pyarrow is not installed, which parquet and arrow files need", remedy=remedy
            ) from error

        self._file, self._damaged = file, pa.ArrowException
        self._group: tuple[int, Any] | None = None
        self._parquet: Any = None
        try:
            if file.suffix == ".parquet":
                self._parquet = pa.parquet.ParquetFile(file)
                counts = [self._parquet.metadata.row_group(k).num_rows for k in range(self._parquet.num_row_groups)]
                self._starts = [sum(counts[:k]) for k in range(len(counts) + 1)]
            else:
                mapped = pa.memory_map(str(file))
                try:
                    self._table = pa.ipc.open_stream(mapped).read_all()
                except pa.ArrowInvalid:
                    self._table = pa.ipc.open_file(mapped).read_all()
                self._starts = [0, self._table.num_rows]
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"cannot be read ({type(error).__name__})", file=file) from error

    def __len__(self) -> int:
        """Rows."""
        return int(self._starts[-1])

    def cell(self, row: int, column: str) -> Any:
        """As Python has it. Raises KeyError for a column that is not there."""
        table, place = self._part(row)
        return table.column(column)[place].as_py()

    def texts(self, row: int) -> dict[str, Any]:
        """All of a row but its pictures."""
        table, place = self._part(row)
        plain = [name for name in table.column_names if name not in ("GT", "input_images")]
        return {name: table.column(name)[place].as_py() for name in plain}

    def pictures(self, row: int, column: str) -> int:
        """How many pictures a list of them holds; none is decoded."""
        table, place = self._part(row)
        return len(table.column(column)[place])

    def _part(self, row: int) -> tuple[Any, int]:
        if self._parquet is None:
            return self._table, row
        group = next(k for k in range(len(self._starts) - 1) if row < self._starts[k + 1])
        if self._group is None or self._group[0] != group:
            self._group = (group, self._read(group))
        return self._group[1], row - self._starts[group]

    def _read(self, group: int) -> Any:
        try:
            return self._parquet.read_row_group(group)
        except (self._damaged, OSError) as error:
            raise InputError(
                f"cannot be read: its data are damaged ({type(error).__name__})", file=self._file
            ) from error


@lru_cache(maxsize=4)
def open_rows(file: Path) -> Rows:
    """Raises InputError where the file is broken."""
    return Rows(file)
