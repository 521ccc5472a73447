"""One offline page: the frame, style and charts that all reports share.

A report's template extends "frame.html", fills its blocks `body`, `style` and `script`, and draws with the macros of
"charts.html". Nothing is loaded from anywhere: the Content-Security-Policy allows pictures in data: addresses, and of
styles and scripts only those whose hashes it names. Texts are data: escaped, and shown through `one_line`.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anyphoto_cli.errors import EnvironmentFault, one_line


def render_page(template: str, title: str, facts: Sequence[tuple[str, str]], **values: Any) -> bytes:
    """A page in UTF-8; the same input gives the same bytes.

    template: jinja2 text as above. facts: (what, value) pairs for the head of the page. values: the template's own.
    Raises EnvironmentFault when jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        remedy = 'Run: pip install "anyphoto[preprocess]"'
        raise EnvironmentFault("jinja2 is not installed, which reports need", remedy=remedy) from error
    parts = {"frame.html": _FRAME, "charts.html": _CHARTS, "style.css": _STYLE, "page.html": template}
    pages = jinja2.Environment(
        loader=jinja2.DictLoader(parts), autoescape=True, finalize=_shown, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pages.filters.update(number=number, data_url=data_url, sha256=_sha256)
    return pages.get_template("page.html").render(title=title, facts=facts, **values).encode("utf-8")


def _shown(value: Any) -> Any:
    """Every text of every expression on the page; markup that a macro made is whole already."""
    return one_line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names a style or script."""
    return base64.b64encode(hashlib.sha256(str(text).encode("utf-8")).digest()).decode("ascii")


def number(count: int) -> str:
    """12,345."""
    return f"{count:,}"


def data_url(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart. value: as printed. percent: the bar's length. badge: a status before the label, or ""."""

    label: str
    value: str
    percent: float
    badge: str = ""


def bars(rows: Sequence[tuple[str, int]], whole: int = 0, badges: Sequence[str] = ()) -> list[Bar]:
    """Rows for the macro `bars`; the longest bar is the largest count, or `whole`, of which shares are told then."""
    longest = whole or max((count for _, count in rows), default=0) or 1
    badges = badges or [""] * len(rows)
    return [
        Bar(label, _share(count, whole), round(min(100 * count / longest, 100), 2), badge)
        for (label, count), badge in zip(rows, badges, strict=True)
    ]


def _share(count: int, whole: int) -> str:
    if not whole:
        return number(count)
    percent = 100 * count / whole
    # 99.97 % must not be told as all, nor 0.02 % as nothing.
    text = "100" if count == whole else "0" if not count else f"{min(max(percent, 0.1), 99.9):.1f}"
    return f"{number(count)} · {text} %"


@dataclass(frozen=True)
class Series:
    """One kind of things in a histogram: its name in the legend, its look ("first" or "second"), counts per bin."""

    label: str
    look: str
    counts: Sequence[int]


@dataclass(frozen=True)
class Piece:
    """A rectangle of a histogram's bar, in counts from the top of the plot."""

    look: str
    y: int
    height: int


@dataclass(frozen=True)
class Histogram:
    """What the macro `histogram` draws. top: the highest tick. bins: (text, pieces) each. ticks_x: (percent, text).

    mark: a line at this percent of the width, told by mark_label; below 0 for none.
    """

    name: str
    description: str
    legend: Sequence[tuple[str, str, int]]
    top: int
    bins: Sequence[tuple[str, Sequence[Piece]]]
    ticks_x: Sequence[tuple[float, str]]
    ticks_y: Sequence[int]
    mark: float
    mark_label: str


def histogram(
    name: str, series: Sequence[Series], low: float, high: float, mark: float | None = None, mark_label: str = ""
) -> Histogram:
    """Series with the same number of bins from `low` to `high`, the first at the bottom of each bar."""
    sums = [sum(counts) for counts in zip(*(one.counts for one in series), strict=True)]
    ticks_y = _ticks(max(sums, default=0))
    edges = [low + (high - low) * k / max(len(sums), 1) for k in range(len(sums) + 1)]
    bins = [(_told(series, k, edges), _stack(series, k, ticks_y[-1])) for k in range(len(sums))]
    told = "; ".join(f"{one.label}: {number(sum(one.counts))}" for one in series)
    line = f" A line marks {mark_label}." if mark is not None else ""
    return Histogram(
        name, f"{told}. From {low:g} to {high:g} in {len(sums)} bins.{line}",
        [(one.label, one.look, sum(one.counts)) for one in series], ticks_y[-1], bins,
        [(25.0 * k, f"{low + (high - low) * k / 4:g}") for k in range(5)], ticks_y,
        -1.0 if mark is None else round(100 * (mark - low) / (high - low), 2), mark_label,
    )  # fmt: skip


def _told(series: Sequence[Series], k: int, edges: Sequence[float]) -> str:
    counts = ", ".join(f"{number(one.counts[k])} {one.label}" for one in series)
    return f"{edges[k]:.3g} to {edges[k + 1]:.3g}: {counts}"


def _stack(series: Sequence[Series], k: int, top: int) -> list[Piece]:
    pieces, y = [], top
    for one in series:
        y -= one.counts[k]
        if one.counts[k]:
            pieces.append(Piece(one.look, y, one.counts[k]))
    return pieces


def _ticks(most: int) -> list[int]:
    """From 0 in two to five equal steps of 1, 2 or 5 times a power of ten, the last at or above `most`."""
    step, factors = 1, (2, 2.5, 2)
    k = 0
    while step * 5 < most:
        step, k = int(step * factors[k % 3]), k + 1
    return [step * n for n in range(max(-(-most // step), 1) + 1)]


@dataclass(frozen=True)
class Lines:
    """What the macro `lines` draws in a field of 1000 x 160. legend: (label, look, last value). paths: (look, points).

    ticks_x: (percent of the width, text). ticks_y: (y, text).
    """

    name: str
    description: str
    legend: Sequence[tuple[str, str, str]]
    paths: Sequence[tuple[str, str]]
    ticks_x: Sequence[tuple[float, str]]
    ticks_y: Sequence[tuple[float, str]]


def lines(name: str, series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> Lines:
    """series: (label, look "first" or "second", (x, y) points by x). Points that are not finite are gaps."""
    points = [(x, y) for _, _, one in series for x, y in one if math.isfinite(y)]
    xs, ys = [x for x, _ in points] or [0.0], [y for _, y in points] or [0.0]
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1e-9)
    marks = _even_ticks(min(ys), max(ys))
    low, high = marks[0], marks[-1]

    def placed(one: Sequence[tuple[float, float]]) -> str:
        there = [
            (1000 * (x - low_x) / (high_x - low_x), 160 * (high - y) / (high - low)) for x, y in one if math.isfinite(y)
        ]
        if len(there) == 1:  # of which nothing would be seen
            [(x, y)] = there
            there = [(max(x - _POINT, 0.0), y), (max(x + _POINT, 2 * _POINT), y)]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in there)

    last = {label: next((f"{y:.4g}" for _, y in reversed(one) if math.isfinite(y)), "-") for label, _, one in series}
    told = "; ".join(f"{label}: {value} at the end" for label, value in last.items())
    return Lines(
        name, f"{told}. From {low_x:g} to {high_x:g}.", [(label, look, last[label]) for label, look, _ in series],
        [(look, placed(one)) for _, look, one in series],
        _once([(25.0 * k, f"{low_x + (high_x - low_x) * k / 4:,.0f}") for k in range(5)]),
        [(24 + 160 * (high - mark) / (high - low), f"{mark:g}") for mark in marks],
    )  # fmt: skip


_POINT = 6
"""Half the length of a point that stands alone, of a field 1000 wide."""


def _once(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Without those that say what one before them says: few steps have fewer numbers than there are ticks."""
    return [tick for k, tick in enumerate(ticks) if tick[1] not in {text for _, text in ticks[:k]}]


def _even_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers around low and high."""
    spread = max(high - low, abs(high) * 1e-3, 1e-9)
    step = 10 ** math.floor(math.log10(spread))
    step *= next(factor for factor in (0.5, 1, 2, 5) if spread / (step * factor) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * k, 12) for k in range(first, max(last, first + 1) + 1)]


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'sha256-{{ self.style() | sha256 }}'; script-src 'sha256-{{ self.script() | sha256 }}'; \
base-uri 'none'; form-action 'none'">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{% block style %}{% include "style.css" %}{% endblock %}</style>
</head>
<body>
<header>
<h1><bdi>{{ title }}</bdi></h1>
{% if facts %}
<dl class="facts">
{% for name, value in facts %}
<div><dt><bdi>{{ name }}</bdi></dt><dd><bdi>{{ value }}</bdi></dd></div>
{% endfor %}
</dl>
{% endif %}
</header>
<main>
{% block body %}{% endblock %}
</main>
<footer>
{% block footer %}{% endblock %}
</footer>
<script>{% block script %}{% endblock %}</script>
</body>
</html>
"""

# Bars are lists of texts with a drawn length, so that long labels wrap and a screen reader has nothing to guess.
# The histogram's x are percentages and its y px: it fits any width, and its letters keep their size.
_CHARTS = """
{% macro bars(rows) %}
<ul class="bars">
{% for row in rows %}
<li><span class="label">{% if row.badge %}<span class="badge {{ row.badge }}">{{ row.badge }}</span> {% endif %}\
<bdi>{{ row.label }}</bdi></span><span class="value">{{ row.value }}</span>
<svg aria-hidden="true" width="100%" height="8"><rect class="track" width="100%" height="8" rx="4"/>\
<rect class="first" width="{{ row.percent }}%" height="8" rx="4"/></svg></li>
{% endfor %}
</ul>
{% endmacro %}

{% macro histogram(chart, id) %}
<p class="legend">{% for label, look, count in chart.legend %}
<span><svg aria-hidden="true" width="12" height="12"><rect class="{{ look }}" width="12" height="12" rx="3"/></svg>
{{ label }}: {{ count | number }}</span>{% endfor %}</p>
<div class="histogram">
<svg role="img" aria-labelledby="{{ id }}-title {{ id }}-desc" width="100%" height="212">
<title id="{{ id }}-title">{{ chart.name }}</title>
<desc id="{{ id }}-desc">{{ chart.description }}</desc>
{% for tick in chart.ticks_y %}
{% set y = 184 - 160 * tick / chart.top %}
<line class="grid" x1="0" x2="100%" y1="{{ y }}" y2="{{ y }}"/>
<text x="-8" y="{{ y + 4 }}" text-anchor="end">{{ tick | number }}</text>
{% endfor %}
<svg y="24" width="100%" height="160" viewBox="0 0 {{ chart.bins | length }} {{ chart.top }}" \
preserveAspectRatio="none">
{% for text, pieces in chart.bins %}
{% set k = loop.index0 %}
<g><title>{{ text }}</title><rect class="behind" x="{{ k }}" width="1" height="{{ chart.top }}"/>\
{% for piece in pieces %}
<rect class="{{ piece.look }}" x="{{ k + 0.06 }}" width="0.88" y="{{ piece.y }}" height="{{ piece.height }}"/>\
{% endfor %}
</g>
{% endfor %}
</svg>
<line class="axis" x2="100%" y1="184" y2="184"/>
{% for percent, text in chart.ticks_x %}
<text x="{{ percent }}%" y="204" text-anchor="{{ 'start' if loop.first else 'end' if loop.last else 'middle' }}">\
{{ text }}</text>
{% endfor %}
{% if chart.mark >= 0 %}
<line class="mark" x1="{{ chart.mark }}%" x2="{{ chart.mark }}%" y1="6" y2="184"/>
<text class="mark" x="{{ chart.mark }}%" dx="{{ -6 if chart.mark > 50 else 6 }}" y="15" \
text-anchor="{{ 'end' if chart.mark > 50 else 'start' }}">{{ chart.mark_label }}</text>
{% endif %}
</svg>
</div>
{% endmacro %}

{% macro lines(chart, id) %}
<p class="legend">{% for label, look, last in chart.legend %}
<span><svg aria-hidden="true" width="12" height="12"><rect class="{{ look }}" width="12" height="12" rx="3"/></svg>
{{ label }}: {{ last }}</span>{% endfor %}</p>
<div class="histogram">
<svg role="img" aria-labelledby="{{ id }}-title {{ id }}-desc" width="100%" height="212">
<title id="{{ id }}-title">{{ chart.name }}</title>
<desc id="{{ id }}-desc">{{ chart.description }}</desc>
{% for y, text in chart.ticks_y %}
<line class="grid" x1="0" x2="100%" y1="{{ y }}" y2="{{ y }}"/>
<text x="-8" y="{{ y + 4 }}" text-anchor="end">{{ text }}</text>
{% endfor %}
<svg y="24" width="100%" height="160" viewBox="0 0 1000 160" preserveAspectRatio="none">
{% for look, points in chart.paths %}
<polyline class="line {{ look }}" points="{{ points }}"/>
{% endfor %}
</svg>
{% for percent, text in chart.ticks_x %}
<text x="{{ percent }}%" y="204" text-anchor="{{ 'start' if loop.first else 'end' if loop.last else 'middle' }}">\
{{ text }}</text>
{% endfor %}
</svg>
</div>
{% endmacro %}
"""

_STYLE = """
:root {
  --page: #f5f6f7; --card: #fff; --line: #dde1e6; --text: #1a1f26; --muted: #59636e; --track: #eceff2;
  --first: #0f766e; --second: #8b95a1; --mark: #b42318; --focus: #1d64d8;
  --kept: #0b6b45; --dropped: #8a5300; --failed: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151a; --card: #1b2027; --line: #323a44; --text: #e8ebef; --muted: #a3adb8; --track: #2a313a;
    --first: #3fc6b5; --second: #7c8794; --mark: #ff8f85; --focus: #7fb0ff;
    --kept: #5bd6a2; --dropped: #f0b354; --failed: #ff8f85;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 78rem; padding: 2rem 1.5rem 3rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: anywhere; -webkit-text-size-adjust: 100%;
}
h1, h2, h3 { line-height: 1.25; margin: 0; text-wrap: balance; }
h1 { font-size: 1.75rem; letter-spacing: -0.01em; }
h2 { font-size: 1.125rem; }
p { margin: 0; }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; border-radius: 4px; }
.muted, footer { color: var(--muted); font-size: 0.875rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.75rem 2rem; margin: 1rem 0 0; }
.facts dt { color: var(--muted); font-size: 0.8125rem; }
.facts dd { margin: 0; font-weight: 600; }
main { display: grid; grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 1rem; margin: 1.75rem 0; }
main > section { grid-column: 1 / -1; display: grid; gap: 0.875rem; align-content: start; min-width: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.125rem 1.25rem; }
@media (min-width: 52rem) { main > .half { grid-column: span 6; } }
.badge {
  color: var(--muted); border: 1px solid currentColor; border-radius: 99px; padding: 0 0.5em; font-size: 0.75rem;
  font-weight: 600; white-space: nowrap; display: inline-block; line-height: 1.4;
}
.badge.kept { color: var(--kept); } .badge.dropped { color: var(--dropped); } .badge.failed { color: var(--failed); }
.bars { list-style: none; margin: 0; padding: 0; display: grid; gap: 0.625rem; }
.bars li { display: grid; grid-template-columns: 1fr auto; gap: 0.125rem 1rem; align-items: end; }
.bars svg { grid-column: 1 / -1; display: block; }
.value { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; }
.track { fill: var(--track); } .first { fill: var(--first); } .second { fill: var(--second); }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; font-size: 0.875rem; }
.legend svg { vertical-align: -1px; margin-right: 0.25rem; }
.histogram { padding-left: 3rem; }
.histogram svg { display: block; overflow: visible; }
.histogram text { fill: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums; }
polyline.line { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
polyline.first { stroke: var(--first); } polyline.second { stroke: var(--second); }
.grid { stroke: var(--line); } .axis { stroke: var(--muted); }
.behind { fill: transparent; } .histogram g:hover .behind { fill: var(--track); }
line.mark { stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 5 3; }
.histogram text.mark { fill: var(--mark); font-weight: 600; }
.controls { display: flex; flex-wrap: wrap; gap: 0.75rem 2rem; align-items: center; }
.controls form { display: flex; flex-wrap: wrap; gap: 0.5rem 1.25rem; align-items: center; }
.controls[hidden], .controls form[hidden] { display: none; }
.controls label { display: inline-flex; gap: 0.4rem; align-items: center; max-width: 100%; flex-wrap: wrap; }
.controls input, .controls select { font: inherit; accent-color: var(--first); max-width: 100%; min-width: 0; }
.controls select, .controls input[type=search] {
  padding: 0.2rem 0.4rem; color: inherit; background: var(--page); border: 1px solid var(--second); border-radius: 6px;
}
.controls select { max-width: 16rem; }
.scroll { overflow: auto; max-height: 26rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9375rem; }
th { text-align: left; font-weight: 400; }
thead th { position: sticky; top: 0; background: var(--card); color: var(--muted); font-size: 0.8125rem; }
th, td { padding: 0.375rem 0.75rem 0.375rem 0; border-bottom: 1px solid var(--line); }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media (max-width: 30rem) { body { padding: 1.25rem 0.75rem 2rem; } .card { padding: 0.875rem 1rem; } }
@media print { body { max-width: none; background: none; } .scroll { max-height: none; } .controls { display: none; } }
"""
