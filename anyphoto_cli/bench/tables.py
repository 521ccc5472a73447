"""Runs beside the published rows, ranked by the papers' rules, in five formats."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

COLUMNS = ("sim_gt", "sim_ref", "copy_paste", "blending", "clip_i", "clip_t", "aesthetic")
TITLES = {
    "sim_gt": "Sim(GT)", "sim_ref": "Sim(Ref)", "copy_paste": "CP", "blending": "Bld", "clip_i": "CLIP-I",
    "clip_t": "CLIP-T", "aesthetic": "Aes",
}  # fmt: skip
LOWER_IS_BETTER = frozenset({"copy_paste", "blending"})
GATES = {"p1": 0.40, "p2": 0.35, "p3": 0.35}
"""Copy-paste is ranked only among systems whose Sim(GT) is above this: who resembles nobody copies nobody."""
UNRANKED = frozenset({"GT", "Ref"})
NOT_BY_SIMILARITY = {"p3": frozenset({"GPT-4o-Image"})}
"""It knows the television series of that subset by heart (WithAnyone, AnyPhoto)."""
SUBSET_NAMES = {"p1": "one person", "p2": "two people", "p3": "three and four people"}
BEST = 3
COUNTED = ("scored", "cases", "found", "people", "coverage", "expected")
"""Of `Counts`, in files for programs."""
ABLATION = "ablation"
"""In place of a subset: rows that are compared, and not ranked."""
ABLATIONS: dict[str, dict[str, str]] = {
    "Table 2: what each part adds": {
        "base-roi": "(a)", "location": "(b)", "modulation": "(c)", "no-face-loss": "(d)", "no-modulation": "(e)",
        "full": "",
    },
    "Table A: attention": {"full": "isolated,", "all-visible": ""},
    "Table B: replacement": {"full": "curriculum,", "fixed-replacement": ""},
}  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """What a row's means are of: cases scored, of those asked for.

    found: faces in the results as a share of the `people` asked for in all cases; coverage: at their places, of the
    `expected` people whose places are known. None: not known.
    """

    scored: int
    cases: int
    found: float | None = None
    people: int | None = None
    coverage: float | None = None
    expected: int = 0


@dataclass(frozen=True)
class Row:
    """One system on one subset. values: by COLUMNS; None or missing: not known. note: how ours was measured.

    intervals: (low, high) of the plain means of ours, by column. counts: of ours. apart: why ours cannot be ranked
    among published rows, or "".
    """

    system: str
    subset: str
    values: Mapping[str, float | None]
    published: bool = False
    note: str = ""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    counts: Counts | None = None
    apart: str = ""


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """The papers' numbers: sources, doubts, rows and ablations, as published.json has them."""
    document: dict[str, Any] = json.loads((files(__package__) / "published.json").read_text(encoding="utf-8"))
    return document


def published_rows(subset: str) -> list[Row]:
    """Of Table 1, in the papers' order."""
    rows = [row for row in published()["rows"] if row["subset"] == subset]
    return [Row(row["system"], subset, {k: row.get(k) for k in COLUMNS}, published=True) for row in rows]


def ablation_rows() -> list[Row]:
    """Of Tables 2, A and B, by preset; three and four people."""
    rows = published()["ablations"]
    return [Row(row["preset"], "p3", {k: row.get(k) for k in COLUMNS}, published=True) for row in rows]


def ablation_tables(ours: Sequence[Row]) -> dict[str, list[Row]]:
    """Tables 2, A and B: the paper's rows by preset, and below each the run of that name. Nothing is ranked.

    Runs that are named like no preset follow at the end of the first table.
    """
    theirs = {row.system: row for row in ablation_rows()}
    tables = {}
    for title, presets in ABLATIONS.items():
        rows: list[Row] = []
        for preset, part in presets.items():
            rows.append(replace(theirs[preset], system=f"{part} {preset}, paper".strip(), subset=ABLATION))
            mine = [row for row in ours if _preset(row) == preset]
            rows += [replace(row, system=f"{part} {row.system}, ours{_of(row)}".strip()) for row in mine]
        tables[title] = rows
    known = {preset for presets in ABLATIONS.values() for preset in presets}
    tables[next(iter(ABLATIONS))] += [row for row in ours if _preset(row) not in known]
    return tables


def _of(row: Row) -> str:
    """The paper's ablations are of three and four people: a run's numbers of others say so."""
    return "" if row.subset == "p3" else f" ({SUBSET_NAMES[row.subset]})"


def _preset(row: Row) -> str:
    """What a run's folder is called; more of its path stands before it where two are called the same."""
    return row.system.rpartition("/")[2]


def ranks(rows: Sequence[Row], subset: str) -> dict[tuple[int, str], int]:
    """(place in rows, column) -> rank from 1; equal values share one. Those that the rules leave out have none."""
    found: dict[tuple[int, str], int] = {}
    among = any(row.published for row in rows)
    for column in COLUMNS if subset in GATES else ():
        values = {
            k: float(value)
            for k, row in enumerate(rows)
            if (value := row.values.get(column)) is not None
            and _takes_part(row, column, subset)
            and not (among and row.apart)
        }
        for k, value in values.items():
            better = sum((v < value) if column in LOWER_IS_BETTER else (v > value) for v in values.values())
            found[k, column] = better + 1
    return found


def _takes_part(row: Row, column: str, subset: str) -> bool:
    if row.system in UNRANKED:
        return False
    if column in ("sim_gt", "sim_ref", "copy_paste") and row.system in NOT_BY_SIMILARITY.get(subset, ()):
        return False
    gated = column == "copy_paste"
    return not gated or (row.values.get("sim_gt") or 0.0) > GATES[subset]


def shown_columns(rows: Sequence[Row]) -> list[str]:
    """Those with a value in any row."""
    return [column for column in COLUMNS if any(row.values.get(column) is not None for row in rows)]


def told(value: float | None) -> str:
    """Three digits, as the papers print them."""
    return "n/a" if value is None else f"{value:.3f}"


def footnotes(rows: Sequence[Row]) -> list[str]:
    """A line for each run whose means are not of everybody who was asked for (losing hard faces is rewarded, see
    docs/bench.md), or which is not ranked among the published rows.
    """
    among = any(row.published for row in rows)
    told = [(row, [_shortfall(row.counts) if row.counts else "", row.apart if among else ""]) for row in rows]
    return [f"{row.system}: {'; '.join(filter(None, parts))}" for row, parts in told if any(parts)]


def _shortfall(counts: Counts) -> str:
    cases = counts.scored < counts.cases
    parts = [f"{counts.scored} of {counts.cases} cases"] if cases else []
    if (
        cases
        or (counts.found is not None and counts.found < 1)
        or (counts.coverage is not None and counts.coverage < 1)
    ):
        parts.append(people_told(counts))
    return "; ".join(filter(None, parts))


def people_told(counts: Counts) -> str:
    """Who was found at all, and who at their place: two counts, each of the people it is of; "" where neither is known.

    Summaries of older versions have the second alone.
    """
    parts = []
    if counts.found is not None:
        parts.append(f"faces found for {counts.found:.1%} of {counts.people} people")
    if counts.coverage is not None:
        parts.append(f"at their places {counts.coverage:.1%} of the {counts.expected} whose places are known")
    return "; ".join(parts)


def markdown(rows: Sequence[Row], subset: str) -> str:
    """The three best of a column are marked: bold, underlined by _, then in italics. Below: `footnotes`."""
    columns, placed = shown_columns(rows), ranks(rows, subset)
    marks = {1: "**{}**", 2: "<u>{}</u>", 3: "*{}*"}
    head = ["", *(f"{TITLES[c]} {'↓' if c in LOWER_IS_BETTER else '↑'}" for c in columns)]
    lines = [head, ["---"] * len(head)]
    for k, row in enumerate(rows):
        cells = [marks.get(placed.get((k, c), 0), "{}").format(told(row.values.get(c))) for c in columns]
        lines.append([_plain_in_markdown(row.system), *cells])
    below = [f"\n{_plain_in_markdown(line)}" for line in footnotes(rows)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *below]) + "\n"


def _plain_in_markdown(text: str) -> str:
    """A folder's name may have what ends a cell, or begins a tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def latex(rows: Sequence[Row], subset: str) -> str:
    """booktabs; the best bold, the second underlined, the third in italics. Below: `footnotes`."""
    columns, placed = shown_columns(rows), ranks(rows, subset)
    marks = {1: r"\textbf{%s}", 2: r"\underline{%s}", 3: r"\textit{%s}"}
    arrows = {c: r"$\downarrow$" if c in LOWER_IS_BETTER else r"$\uparrow$" for c in columns}
    lines = [rf"\begin{{tabular}}{{l{'c' * len(columns)}}}", r"\toprule"]
    lines += [" & ".join(["", *(f"{TITLES[c]} {arrows[c]}" for c in columns)]) + r" \\", r"\midrule"]
    for k, row in enumerate(rows):
        cells = [marks.get(placed.get((k, c), 0), "%s") % told(row.values.get(c)) for c in columns]
        lines.append(" & ".join([_escaped(row.system), *cells]) + r" \\")
    below = [rf"\par{{\footnotesize {_escaped(line)}}}" for line in footnotes(rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *below]) + "\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def comma_separated(rows: Sequence[Row], subset: str, head: bool = True) -> str:
    """CSV with every column, numbers in full, and the rank of each. head: False where it goes on with another."""
    placed, out = ranks(rows, subset), io.StringIO()
    names = [name for column in COLUMNS for name in (column, f"{column}_rank")]
    writer = csv.writer(out, lineterminator="\n")
    if head:
        writer.writerow(["system", "subset", "published", *names, *COUNTED, "note"])
    for k, row in enumerate(rows):
        cells = [cell for c in COLUMNS for cell in (row.values.get(c), placed.get((k, c)))]
        cells += _counted(row).values()
        writer.writerow(
            [row.system, subset, row.published, *("" if cell is None else cell for cell in cells), row.note]
        )
    return out.getvalue()


def _counted(row: Row) -> dict[str, float | None]:
    return {name: getattr(row.counts, name, None) for name in COUNTED}


def as_json(rows: Sequence[Row], subset: str) -> list[dict[str, Any]]:
    """Plain values."""
    placed = ranks(rows, subset)
    return [
        {
            "system": row.system, "subset": subset, "published": row.published, "note": row.note,
            "values": {c: row.values.get(c) for c in COLUMNS}, "ranks": {c: placed.get((k, c)) for c in COLUMNS},
            **_counted(row),
        }
        for k, row in enumerate(rows)
    ]  # fmt: skip


def as_html(rows: Sequence[Row], subset: str) -> str:
    """A table element; ranks as classes first, second, third. Below: `footnotes`."""
    columns, placed = shown_columns(rows), ranks(rows, subset)
    looks = {1: "first", 2: "second", 3: "third"}
    head = "".join(f"<th>{TITLES[c]} {'&darr;' if c in LOWER_IS_BETTER else '&uarr;'}</th>" for c in columns)
    body = []
    for k, row in enumerate(rows):
        cells = "".join(
            f'<td class="{looks.get(placed.get((k, c), 0), "")}">{told(row.values.get(c))}</td>' for c in columns
        )
        kind = "published" if row.published else "ours"
        body.append(
            f'<tr class="{kind}"><th title="{html.escape(row.note)}">{html.escape(row.system)}</th>{cells}</tr>'
        )
    below = "".join(f"<p>{html.escape(line)}</p>" for line in footnotes(rows))
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{below}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>MultiID-Bench</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1b2027; background: #fff }
table { border-collapse: collapse; margin-bottom: .5rem }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #e3e6ea }
td { font-variant-numeric: tabular-nums }
th { font-weight: 500 } tbody th { text-align: left } tr.ours { background: #eef6f5 }
.first { font-weight: 700 } .second { text-decoration: underline } .third { font-style: italic }
p { color: #5d6670; font-size: .85rem; margin: .2rem 0 }
</style>
</head>
<body>
%s
<p>Of each column the best is bold, the second underlined, the third in italics.</p>
</body>
</html>
"""


def page(parts: Sequence[str]) -> str:
    """Headings and tables of `as_html` as a page by itself."""
    return _PAGE.replace("%s", "\n".join(parts))
