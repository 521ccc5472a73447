"""The benchmark's cases, in any of the forms they come in; METRICS of MultiID-Bench's own files.

| form | what it is |
|---|---|
| rows | the hub's parquet files, else its arrow files: GT, input_images, prompt, bboxes, subset, num_persons |
| tree | what hf2bench writes: p1.json, p2.json, p3.json and the pictures below p1/, p2/, p3/ |
| results | what the reference evaluator reads: <case>/{out, ori, ref_*}.jpg and meta.json |
| lines | a JSONL: id, prompt, references, and gt, boxes, landmarks, result where they are known |

A case that cannot be used is kept as broken, with its reason: it is counted, and never stops the others.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anyphoto_cli.bench.case_values import CROWD, boxes_of, id_of, landmarks_of, list_of, people_of, size_of, text_of
from anyphoto_cli.bench.sources import FileSource, RowSource, Source, open_rows
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.texts import storable
from anyphoto_cli.layout.read import is_storable
from anyphoto_cli.types import Box

SUBSETS = {1: "p1", 2: "p2", 3: "p3", 4: "p3"}
"""By the number of people. p3 holds 3 and 4, as the reference evaluator pools them."""
_TREES = {"p1": "p1", "p2": "p2", "p3": "p3", "v200_single": "p1", "v202": "p2", "v200_m": "p3"}
LONGEST_ID = 200
"""Bytes: with an ending and a seed it is a file's name, of which systems take 255."""
_FORMS = "Give parquet or arrow files, a folder that hf2bench wrote, a folder of finished cases, or a JSONL"


@dataclass(frozen=True)
class Case:
    """One picture to be made. gt: the real photo, None where there is none. result: a finished picture, or None.

    boxes: of the people's faces or of the people, in the references' order; landmarks: five points each. Both px of a
    picture of `size` (width, height); None: of `gt`.
    """

    id: str
    subset: str
    prompt: str
    references: tuple[Source, ...]
    gt: Source | None = None
    boxes: tuple[Box, ...] = ()
    landmarks: tuple[Any, ...] = ()
    result: Source | None = None
    size: tuple[float, float] | None = None

    @property
    def people(self) -> int:
        """How many are asked for."""
        return len(self.references)


@dataclass(frozen=True)
class Broken:
    """A case that cannot be used. people: asked for, as far as that is known, else 0."""

    id: str
    subset: str
    reason: str
    people: int = 0


@dataclass(frozen=True)
class Cases:
    """In the benchmark's order. form: rows, tree, results or lines. order: ids of the whole benchmark where these are
    some of its subsets; (): these are all.
    """

    form: str
    cases: tuple[Case, ...]
    broken: tuple[Broken, ...] = field(default=())
    order: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Usable or not."""
        return len(self.cases) + len(self.broken)

    @property
    def ids(self) -> tuple[str, ...]:
        """Usable ones, then broken ones."""
        return (*(case.id for case in self.cases), *(one.id for one in self.broken))


def read_cases(path: Path) -> Cases:
    """Recognise the form and read it; pictures stay where they are. Raises InputError where no case is found."""
    form, found = _recognised(path)
    cases: list[Case] = []
    broken: list[Broken] = []
    seen: dict[str, int] = {}
    for one in found:
        seen[one.id] = count = seen.get(one.id, 0) + 1
        if count > 1:  # a name of its own, so that it is counted beside the first, never in its place
            broken.append(Broken(f"{one.id} ({count})", one.subset, "another case has the same id", one.people))
        elif isinstance(one, Broken):
            broken.append(one)
        else:
            cases.append(one)
    if not cases and not broken:
        raise InputError("holds no case", file=path, remedy=_FORMS)
    return Cases(form, tuple(cases), tuple(broken))


def only_subsets(cases: Cases, wanted: tuple[str, ...]) -> Cases:
    """Those subsets alone; none named: all. Raises InputError for a name that is none, or of which there is no case."""
    there = ({case.subset for case in cases.cases} | {one.subset for one in cases.broken}) - {""}
    for name in wanted:
        if name not in SUBSETS.values():
            raise InputError(f"{name!r} is no subset", field="--subset", remedy="Known: p1, p2, p3")
        if name not in there:
            remedy = f"There are {', '.join(sorted(there)) or 'none'}"
            raise InputError(f"the benchmark holds no case of {name}", field="--subset", remedy=remedy)
    if not wanted:
        return cases
    kept = tuple(case for case in cases.cases if case.subset in wanted)
    broken = tuple(one for one in cases.broken if one.subset in wanted)
    return replace(cases, cases=kept, broken=broken, order=cases.ids)


def _recognised(path: Path) -> tuple[str, Iterator[Case | Broken]]:
    if path.is_file() and path.suffix in (".jsonl", ".ndjson"):
        return "lines", _from_lines(path)
    if path.is_file() and path.suffix in (".parquet", ".arrow"):
        return "rows", _from_rows([path])
    if not path.is_dir():
        raise InputError("no such file or folder" if not path.exists() else "is no benchmark", file=path, remedy=_FORMS)
    # The hub's repository has both, of the same rows.
    rows = [*path.glob("*.parquet"), *path.glob("data/*.parquet")] or [*path.glob("data-*.arrow")]
    if rows:
        return "rows", _from_rows(sorted(rows))
    if any((path / f"{name}.json").is_file() for name in _TREES):
        return "tree", _from_tree(path)
    if any(True for _ in path.rglob("meta.json")):
        return "results", _from_results(path)
    raise InputError("is no benchmark", file=path, remedy=_FORMS)


def _made(id_: str, people: int, asked: int, **parts: Any) -> Case | Broken:
    """A case, or why it is none. people: references found; asked: how many the benchmark says, 0: it does not say.

    An id is also a file's name: it leads nowhere.
    """
    id_ = id_.replace("/", "_")
    wanted = asked or people
    subset = SUBSETS.get(wanted, "")
    if not _is_file_name(id_):
        return Broken(_shown(id_), subset, f"its id {_shown(id_)!r} is no name for a file", wanted)
    if not is_storable(parts["prompt"]):
        return Broken(id_, subset, "its prompt has characters that cannot be stored", wanted)
    if not subset:
        return Broken(id_, subset, f"asks for {wanted} people; the benchmark has 1 to 4", wanted)
    if asked and people != asked:
        return Broken(id_, subset, f"has {people} references for {asked} people", wanted)
    return Case(id=id_, subset=subset, **parts)


def _is_file_name(text: str) -> bool:
    """A folder's name may have bytes that are no UTF-8; half a character has none."""
    try:
        return text not in ("", ".", "..") and "\0" not in text and len(os.fsencode(text)) <= LONGEST_ID
    except UnicodeEncodeError:
        return False


def _shown(id_: str) -> str:
    id_ = storable(id_)
    return id_ if len(id_) <= 40 else f"{id_[:37]}..."


def _from_rows(files: list[Path]) -> Iterator[Case | Broken]:
    for file in files:
        rows = open_rows(file)
        for number in range(len(rows)):
            row = rows.texts(number)
            id_ = str(row.get("ID") or f"{file.stem}-{number:05d}")  # older copies have no ID
            try:
                references = tuple(
                    RowSource(file, number, "input_images", k) for k in range(rows.pictures(number, "input_images"))
                )
                yield _made(
                    id_, len(references), people_of(row.get("num_persons")), prompt=text_of(row["prompt"]),
                    references=references, gt=RowSource(file, number, "GT", None),
                    boxes=boxes_of(json.loads(row.get("bboxes") or "[]")),
                )  # fmt: skip
            except (KeyError, ValueError, TypeError) as error:
                what = f"row {number} is damaged ({type(error).__name__})"
                yield Broken(id_, str(row.get("subset") or ""), what, _known_people(row))


def _from_tree(folder: Path) -> Iterator[Case | Broken]:
    for name, subset in _TREES.items():
        index = folder / f"{name}.json"
        if not index.is_file():
            continue
        home = folder / name if subset == "p3" else folder / name / "untar"
        for number, entry in enumerate(_json_list(index)):
            try:
                original = str(entry["ori_img_path"])
                id_ = Path(original).with_suffix("").as_posix().replace("/", "_")
                references = tuple(FileSource(_below(home, str(file))) for file in entry["image_paths"])
                boxes = _beside(_below(home, original).with_suffix(".json"))
                asked = {"p1": 1, "p2": 2}.get(subset, len(references))
                yield _made(
                    id_, len(references), asked, prompt=text_of(entry["prompt"]), references=references,
                    gt=FileSource(_below(home, original)), boxes=boxes,
                )  # fmt: skip
            except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
                what = f"entry {number} of {index.name} is damaged ({error})"
                yield Broken(f"{name}-{number:04d}", subset, what, _known_people(entry, "image_paths"))


def _from_results(folder: Path) -> Iterator[Case | Broken]:
    for meta in sorted(folder.rglob("meta.json")):
        home = meta.parent
        above = (*home.relative_to(folder).parts, folder.resolve().name)  # or one subset's folder is what was named
        subset = next((part for part in above if part in SUBSETS.values()), "")
        id_ = home.name
        told: Any = None
        try:
            told = json.loads(meta.read_text(encoding="utf-8"))
            references = _numbered(home)
            asked = people_of(told.get("num_persons")) or _asked(subset, id_, told)
            gt, result = (_picture(home, name) for name in ("ori", "out"))
            if gt is None:
                yield Broken(id_, subset, "has no ori.jpg", asked)
                continue
            boxes = boxes_of(told.get("bboxes") or [])
            yield _made(
                id_of(told.get("id") or id_), len(references), asked, prompt=text_of(told["prompt"]),
                references=references, gt=gt, result=result, boxes=boxes,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = str(error) if isinstance(error, ValueError) else f"meta.json: {error!r}"[:120]
            yield Broken(id_, subset, what, _known_people(told) or _asked(subset, id_, told))


def _numbered(home: Path) -> tuple[Source, ...]:
    """ref_0 ... or ref_1 ..., all of them. Raises ValueError where a number is missing in between."""
    found = {int(m[1]): f for f in home.iterdir() if (m := re.fullmatch(r"ref_(\d+)\.\w+", f.name))}
    numbers = sorted(found)
    if not numbers:
        raise ValueError("has no ref_*.jpg")
    if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError(f"its references are numbered {', '.join(map(str, numbers))}: one is missing")
    return tuple(FileSource(found[number]) for number in numbers)


def _asked(subset: str, id_: str, told: Any) -> int:
    """What the folders say: p1, p2, or num_3_0003 below p3; else how many boxes or names meta.json lists. 0: nothing
    says how many, and the references that are there are taken for all.
    """
    if subset in ("p1", "p2"):
        return int(subset[1])
    if numbered := re.match(r"num_(\d)_", id_):
        return int(numbered[1])
    listed = [told.get(key) for key in ("bboxes", "name")] if isinstance(told, Mapping) else []
    return next((len(one) for one in listed if isinstance(one, list) and one), 0)


def _from_lines(file: Path) -> Iterator[Case | Broken]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start})", file=file, remedy="Save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file) from error
    # By \n alone: splitlines would also cut where a prompt has a line separator, which JSON takes as it is.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        entry: Any = None
        try:
            entry = json.loads(line)
            references = tuple(
                FileSource(file.parent / str(name)) for name in list_of(entry["references"], "references")
            )
            gt, result = (
                FileSource(file.parent / str(entry[key])) if entry.get(key) else None for key in ("gt", "result")
            )
            boxes, landmarks = boxes_of(entry.get("boxes") or []), landmarks_of(entry.get("landmarks"), len(references))
            size = size_of(entry)
            if gt is None and size is None and (boxes or landmarks):
                raise ValueError("boxes and landmarks without gt need width and height, of what they are px of")
            yield _made(
                id_of(entry["id"]), len(references), people_of(entry.get("num_persons")),
                prompt=text_of(entry["prompt"]), references=references, gt=gt, result=result, boxes=boxes,
                landmarks=landmarks, size=size,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            told = str(error) if type(error) in (ValueError, TypeError) else f"{type(error).__name__}: {error}"
            what = f"line {number} of {file.name} is no case ({told[:100]})"
            yield Broken(f"line {number}", "", what, _known_people(entry, "references"))


def _known_people(entry: Any, references: str = "") -> int:
    """How many a damaged entry asks for: what it says, else the references it lists; 0 where it tells neither."""
    if not isinstance(entry, Mapping):
        return 0
    said, named = entry.get("num_persons"), entry.get(references)
    if isinstance(said, int) and 0 < said <= CROWD:
        return said
    return len(named) if isinstance(named, list) else 0


def _beside(file: Path) -> tuple[Box, ...]:
    """The boxes of hf2bench's own json; none where it wrote none."""
    if not file.is_file():
        return ()
    told: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return boxes_of(told.get("bboxes") or [])


def _below(home: Path, name: str) -> Path:
    """Raises InputError for a name that leads out of the benchmark's folder."""
    file = home / name
    if not file.resolve().is_relative_to(home.resolve()):
        raise InputError(f"{name!r} leads out of the benchmark", file=home)
    return file


def _picture(home: Path, name: str) -> Source | None:
    found = sorted(file for file in home.glob(f"{name}.*") if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    return FileSource(found[0]) if found else None


def _json_list(file: Path) -> list[Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file) from error
    if not isinstance(entries, list):
        raise InputError("is no list of cases", file=file)
    return entries
