"""What models said of a picture or text, kept by its content's hash: the same question is never asked twice."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class Memory:
    """folder: shared by runs and processes; None: nothing is kept. about: of the model, and how it is asked."""

    def __init__(self, folder: Path | None, about: str) -> None:
        self._folder, self._about = folder, about.encode()

    def recall(self, content: bytes) -> Arrays | None:
        """None for what is not there, or is torn: it is only a memory."""
        file = self._file(content)
        if file is None:
            return None
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def keep(self, content: bytes, arrays: Arrays) -> None:
        """Renamed into place, not synced: what a power cut takes is asked again."""
        file = self._file(content)
        if file is None:
            return
        with suppress(OSError):  # full, or not to be written to: it is asked again the next time
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".tmp")
            try:
                with os.fdopen(descriptor, "wb") as out:
                    np.savez(out, **arrays)  # type: ignore[arg-type]
                Path(name).replace(file)
            finally:
                Path(name).unlink(missing_ok=True)

    def rows(self, contents: Sequence[bytes], ask: Callable[[list[int]], NDArray[Any]]) -> NDArray[Any]:
        """A row each, [n, ...]. ask: the places of those not known -> their rows."""
        if not contents:
            return ask([])
        found = [self.recall(content) for content in contents]
        unknown = [k for k, arrays in enumerate(found) if arrays is None]
        for k, row in zip(unknown, ask(unknown) if unknown else (), strict=True):
            found[k] = {"row": row}
            self.keep(contents[k], {"row": row})
        return np.stack([arrays["row"] for arrays in found if arrays is not None])

    def _file(self, content: bytes) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(self._about + hashlib.sha256(content).digest()).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.npz"
