"""Runs beside the published rows, ranked by the papers' rules, in five formats."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

from anyphoto_cli.bench.footnotes import MEANS, footnotes, lacking_told, measured_told
from anyphoto_cli.bench.measured import Measured
from anyphoto_cli.bench.ranking import ranks
from anyphoto_cli.bench.rows import COLUMNS, LOWER_IS_BETTER, SUBSET_NAMES, TITLES, Counts, Row

BEST = 3
COUNTED = tuple(one.name for one in fields(Counts))
"""Of `Counts`, in files for programs."""
MEASURED = ("mean", *Measured({}).fields())
"""Which mean it is, and by what."""
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


def shown_columns(rows: Sequence[Row]) -> list[str]:
    """Those with a value in any row."""
    return [column for column in COLUMNS if any(row.values.get(column) is not None for row in rows)]


def told(value: float | None) -> str:
    """Three digits, as the papers print them."""
    return "n/a" if value is None else f"{value:.3f}"


def markdown(rows: Sequence[Row], subset: str) -> str:
    """The three best of a column are marked: bold, underlined by _, then in italics. Below: `footnotes`."""
    columns, placed = shown_columns(rows), ranks(rows, subset)
    marks = {1: "**{}**", 2: "<u>{}</u>", 3: "*{}*"}
    head = ["", *(f"{TITLES[c]} {'↓' if c in LOWER_IS_BETTER else '↑'}" for c in columns)]
    lines = [head, ["---"] * len(head)]
    for k, row in enumerate(rows):
        cells = [marks.get(placed.get((k, c), 0), "{}").format(told(row.values.get(c))) for c in columns]
        lines.append([_plain_in_markdown(row.system), *cells])
    below = [f"\n{_plain_in_markdown(line)}" for line in footnotes(rows, subset)]
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
    below = [rf"\par{{\footnotesize {_escaped(line)}}}" for line in footnotes(rows, subset)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *below]) + "\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def comma_separated(rows: Sequence[Row], subset: str, head: bool = True) -> str:
    """CSV with every column, numbers in full, rank and interval of each. head: False where it goes on with another."""
    placed, out = ranks(rows, subset), io.StringIO()
    names = [f"{column}{end}" for column in COLUMNS for end in ("", "_rank", "_low", "_high")]
    writer = csv.writer(out, lineterminator="\n")
    if head:
        writer.writerow(["system", "subset", "published", *names, *COUNTED, *MEASURED, "not_available", "note"])
    for k, row in enumerate(rows):
        cells: list[Any] = []
        for c in COLUMNS:
            cells += [row.values.get(c), placed.get((k, c)), *row.intervals.get(c, (None, None))]
        cells += [*_counted(row).values(), *_measured(row).values(), lacking_told(row.not_available), _note(row)]
        writer.writerow([row.system, subset, row.published, *("" if cell is None else cell for cell in cells)])
    return out.getvalue()


def _counted(row: Row) -> dict[str, float | None]:
    return {name: getattr(row.counts, name, None) for name in COUNTED}


def _measured(row: Row) -> dict[str, str]:
    """Which mean, and by what."""
    return {"mean": MEANS[row.filtered]} | (row.measured or Measured({})).fields()


def _note(row: Row) -> str:
    """How ours was measured."""
    return "" if row.measured is None else measured_told(row.measured)


def as_json(rows: Sequence[Row], subset: str) -> list[dict[str, Any]]:
    """Plain values."""
    placed = ranks(rows, subset)
    return [
        {
            "system": row.system, "subset": subset, "published": row.published, "note": _note(row),
            "values": {c: row.values.get(c) for c in COLUMNS}, "ranks": {c: placed.get((k, c)) for c in COLUMNS},
            "intervals": {c: row.intervals.get(c) for c in COLUMNS}, **_counted(row), **_measured(row),
            "not_available": dict(row.not_available),
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
            f'<tr class="{kind}"><th title="{html.escape(_note(row))}">{html.escape(row.system)}</th>{cells}</tr>'
        )
    below = "".join(f"<p>{html.escape(line)}</p>" for line in footnotes(rows, subset))
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
