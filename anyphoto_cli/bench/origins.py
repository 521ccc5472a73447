"""What pictures and scores were made of: cases of two benchmarks share their names, and weights their folder.

A line of scores keeps a digest. `bench run` keeps asked/<id>.json for each picture, one file a case, so that shares can
write at once and a benchmark can grow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.sources import FileSource, Source
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.files.commit import committed, sha256_of_bytes
from anyphoto_cli.generate.png_metadata import read_record


def made_of(case: Case, original: bytes | None, references: Sequence[bytes]) -> dict[str, Any]:
    """All that a case asks for, as JSON has it; pictures by the sha256 of their files."""
    told = {
        "prompt": case.prompt, "original": None if original is None else sha256_of_bytes(original),
        "references": [sha256_of_bytes(data) for data in references], "boxes": [list(box) for box in case.boxes],
        "landmarks": case.landmarks, "size": case.size,
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def read_and_made_of(case: Case) -> dict[str, Any]:
    """The same, its pictures read for it. Raises InputError where one cannot be."""
    original = case.gt.read() if case.gt is not None else None
    return made_of(case, original, [reference.read() for reference in case.references])


def scored_of(origin: Mapping[str, Any], result: bytes) -> str:
    """Digest of a case and its picture: scores of equal ones are the same."""
    return sha256_of_bytes(json.dumps({**origin, "result": sha256_of_bytes(result)}, sort_keys=True).encode())


class Origins:
    """Of a run's pictures. out: its folder; weights: "adapter": sha256 of AnyPhoto's weights, None: made without;
    "base": content of the base, None: known by its name only, which the run's settings hold.
    """

    def __init__(self, out: Path, weights: Mapping[str, str | None]) -> None:
        self._folder = out / "asked"
        self._weights = {"adapter": weights.get("adapter"), "base": weights.get("base")}

    def keep(self, case: Case) -> None:
        """Before its picture is made. Raises InputError where one of its own pictures cannot be read."""
        self._write(case, self._now(case))

    def check(self, case: Case, picture: Source) -> None:
        """Raises InputError where the picture was made of something else, naming what.

        One of an older version, which kept no origins, is taken as far as it says itself.
        """
        try:
            now = self._now(case)
        except AnyPhotoError:
            return  # scoring says which of its pictures cannot be read
        was = self._read(case)
        known = _told_by(picture) if was is None else was
        unknown = {"base"} if None in (known.get("base"), now["base"]) else set()
        if (layout := _layout_of(picture)) not in (None, case.id):
            remedy = "Remove it, and it is made again"
            raise InputError(f"is the picture of another case, {layout}", file=picture.told, remedy=remedy)
        other = next((key for key in known if key not in unknown and known[key] != now.get(key)), None)
        if other is not None:
            raise InputError(
                "exists and was made from something else", file=picture.told, field=other,
                remedy="Name another folder with -o, or remove it",
            )  # fmt: skip
        if was is None:
            self._write(case, now)

    def _now(self, case: Case) -> dict[str, Any]:
        return read_and_made_of(case) | self._weights

    def _read(self, case: Case) -> dict[str, Any] | None:
        file = self._folder / f"{case.id}.json"
        if not file.is_file():
            return None
        was: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return was

    def _write(self, case: Case, told: Mapping[str, Any]) -> None:
        with committed(self._folder / f"{case.id}.json") as file:
            file.write((json.dumps(told, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def _layout_of(picture: Source) -> str | None:
    """The case that a picture of `generate` says it is of; None for any other."""
    try:
        return Path(read_record(picture.file)["layout_name"]).stem if isinstance(picture, FileSource) else None
    except InputError:
        return None


def _told_by(picture: Source) -> dict[str, Any]:
    """What a picture of `generate` says by itself; {} for any other."""
    try:
        record = read_record(picture.file) if isinstance(picture, FileSource) else {}
        references = [record["references"][face["reference"]] for face in record["layout"]["faces"]]
        adapter = (record["adapter"] or {}).get("sha256")
        return {"references": references, "adapter": adapter, "base": record.get("model", {}).get("revision")}
    except (InputError, KeyError):
        return {}
