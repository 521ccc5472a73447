"""report.html: reference, original and result of every case side by side, the worst first, to look through offline."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.choosing import CHOSEN_BY, case_value, chosen, worst_first
from anyphoto_cli.bench.footnotes import lacking_told
from anyphoto_cli.bench.results import Results
from anyphoto_cli.bench.rows import LOWER_IS_BETTER, SUBSET_NAMES, TITLES
from anyphoto_cli.bench.sources import Source
from anyphoto_cli.bench.summing import CLIP_AND_AESTHETIC, METRICS
from anyphoto_cli.errors import AnyPhotoError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.html import Histogram, Series, histogram, render_page
from anyphoto_cli.files.images import decode

SHOWN = 500
"""Cases with pictures: the whole benchmark; of more all others stand in the table alone."""
_RESULT_PX, _REFERENCE_PX = 224, 112
_BINS = 40
_LEFT_OUT: dict[str, Any] = {"placement": None, "legs": {}, "faces": None} | dict.fromkeys(CLIP_AND_AESTHETIC)
"""What a case that could not be scored has not."""
COLOURS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class DrawnBox:
    """A face on a thumbnail: px, and the look of whom it was taken for ("" for nobody)."""

    x: float
    y: float
    width: float
    height: float
    look: str


@dataclass(frozen=True)
class Thumbnail:
    """told: what the picture is. jpeg: b"" where there is none. width, height: px."""

    told: str
    jpeg: bytes
    width: int
    height: int
    boxes: tuple[DrawnBox, ...]


@dataclass(frozen=True)
class Card:
    """One case with its pictures. faces: (look, what is known of one generated face) each."""

    line: Mapping[str, Any]
    prompt: str
    result: Thumbnail
    original: Thumbnail | None
    references: tuple[Thumbnail, ...]
    faces: tuple[tuple[str, str], ...]


def write_report(
    file: Path, title: str, cases: Sequence[Case], results: Path | None, lines: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any], shown: int = SHOWN,
) -> None:  # fmt: skip
    """One page. lines: of all cases; shown: how many of them with pictures. Raises EnvironmentFault without jinja2."""
    ordered = [{**_LEFT_OUT, **line} for line in worst_first(lines)]
    known = {case.id: case for case in cases}
    there = Results(results)
    drawable = [line for line in ordered if line["id"] in known]
    cards = [card(known[line["id"]], there, line) for line in chosen(drawable, shown)]
    first = next(iter(summary["face_models"]), "")
    facts = [
        ("Cases", f"{len(lines):,}"),
        ("Scored", f"{sum(line['status'] == 'scored' for line in lines):,}"),
        ("Faces by", ", ".join(summary["face_models"])),
    ]
    page = render_page(
        Path(__file__).with_suffix(".html.j2").read_text(encoding="utf-8"), title, facts, summary=summary,
        subsets=[(name, SUBSET_NAMES.get(name, "all")) for name in summary["subsets"]], metrics=_metrics(summary),
        lower=LOWER_IS_BETTER, titles=TITLES, charts_of=_histograms(lines), lines=ordered, cards=cards, leg=first,
        told=_told, case_value=case_value, looks=COLOURS, lacking=lacking_told(summary["not_available"]),
        chosen_by=CHOSEN_BY if len(drawable) > shown else (),
    )  # fmt: skip
    with committed(file) as out:
        out.write(page)


def card(case: Case, results: Results, line: Mapping[str, Any]) -> Card:
    """The pictures of a case, small, with the faces that were seen in them."""
    seen = line.get("faces") or {}
    faces = next(iter((line.get("legs") or {"": {"faces": []}}).values()))["faces"]
    whose = [face["reference"] if face["reference"] is not None else face["original"] for face in faces]
    source = results.of(case)
    owners = _owners_in_original(faces)
    return Card(
        line, case.prompt, _thumbnail("result", source, seen.get("result"), whose, _RESULT_PX),
        None if case.gt is None else _thumbnail("original", case.gt, seen.get("gt"), owners, _RESULT_PX),
        tuple(
            _thumbnail(f"reference {k + 1}", reference, told, [k], _REFERENCE_PX)
            for k, (reference, told) in enumerate(
                zip(case.references, seen.get("references") or [None] * len(case.references), strict=False)
            )
        ),
        tuple((_look(who), _face_told(face)) for who, face in zip(whose, faces, strict=True)),
    )  # fmt: skip


def _owners_in_original(faces: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """Of the original's faces: the reference that the face matched with each was matched with."""
    owner = {face["original"]: face["reference"] for face in faces if face["original"] is not None}
    return [owner.get(k) for k in range(max(owner, default=-1) + 1)]


def _look(who: int | None) -> str:
    return COLOURS[who] if who is not None and who < len(COLOURS) else "other"


def _face_told(face: Mapping[str, Any]) -> str:
    named = (("Ref", face["sim_ref"]), ("GT", face["sim_gt"]), ("CP", face["copy_paste"]))
    known = [f"{name} {value:.2f}" for name, value in named if value is not None]
    return " · ".join(known) or "nobody's"


def _thumbnail(
    told: str, source: Source | None, seen: Mapping[str, Any] | None, whose: Sequence[int | None], longest: int
) -> Thumbnail:  # fmt: skip
    if source is None:
        return Thumbnail(told, b"", longest, longest, ())
    try:
        image = decode(source.read(), Path(source.told))
    except (AnyPhotoError, OSError):
        return Thumbnail(told, b"", longest, longest, ())
    scale = min(longest / max(image.size), 1.0)
    small = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    boxes = []
    if seen:
        factor = small.width / seen["size"][0]
        for k, (x0, y0, x1, y1) in enumerate(seen["boxes"]):
            look = _look(whose[k] if k < len(whose) else None)
            boxes.append(DrawnBox(x0 * factor, y0 * factor, (x1 - x0) * factor, (y1 - y0) * factor, look))
    return Thumbnail(told, buffer.getvalue(), small.width, small.height, tuple(boxes))


def _metrics(summary: Mapping[str, Any]) -> list[str]:
    """Those that any case has."""
    parts = summary["subsets"].values()
    return [metric for metric in METRICS if any(part["metrics"][metric]["n"] for part in parts)]


def _histograms(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Histogram]]:
    """(id, heading, chart) of likeness and of copy-paste."""
    likeness = [Series(TITLES[m], look, _counts(lines, m, -0.2, 1.0)) for m, look in (("sim_ref", "second"),)]
    own = [Series(TITLES["sim_gt"], "first", _counts(lines, "sim_gt", -0.2, 1.0))]
    pasted = [Series(TITLES["copy_paste"], "first", _counts(lines, "copy_paste", -1.0, 1.0))]
    return [
        ("sim-ref", "Likeness to the references", histogram("Sim(Ref)", likeness, -0.2, 1.0)),
        ("sim-gt", "Likeness to the originals", histogram("Sim(GT)", own, -0.2, 1.0)),
        ("cp", "Copy-paste", histogram("CP", pasted, -1.0, 1.0, 0.0, "as far from both")),
    ]


def _counts(lines: Sequence[Mapping[str, Any]], metric: str, low: float, high: float) -> list[int]:
    values = [case_value(line, metric) for line in lines]
    known = np.clip([value for value in values if value is not None], low, high)
    return [int(count) for count in np.histogram(known, _BINS, (low, high))[0]]


def _told(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
