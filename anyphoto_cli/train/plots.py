"""A run's curves as one offline page, or a PNG: `anyphoto train plot`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.html import Lines, lines, render_page

METRICS, CONFIG = "metrics.jsonl", "training.json"
CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Loss", (("loss", "all of it"), ("flow", "flow matching"))),
    ("Identity loss, one-step estimate", (("face", "1 - cosine"),)),
    ("Cosine, one-step estimate", (("cosine", "to the reference"),)),
    ("Validation: faces", (("validation_cosine", "cosine to the reference"), ("validation_found", "share found"))),
    ("Validation: places", (("validation_error", "error in face sizes"),)),
    ("Gradient norm", (("norm", "before clipping"),)),
    ("Learning rate", (("lr", "of a step"),)),
    ("Replacement", (("p", "probability of another photo"),)),
    ("Speed", (("samples_per_s", "samples a second"),)),
    ("Waiting for data", (("data_wait", "share of the time"),)),
    ("Share of the cards' matrix rate", (("mfu", "model FLOPs"),)),
    ("Memory", (("memory_gb", "GB, highest so far"),)),
)
"""Titles, and for each the keys of metrics.jsonl with their labels; without any value a chart is left out."""
_TEMPLATE = """{% extends "frame.html" %}
{% from "charts.html" import lines %}
{% block body %}
{% for chart in charts %}
<section class="card half"><h2>{{ chart.name }}</h2>
{{ lines(chart, "chart-" ~ loop.index) }}</section>
{% endfor %}
{% endblock %}
{% block footer %}
Steps from left to right. Cosines are those of the face pack above; two packs are never compared.
{% endblock %}
"""


def write_plots(run: Path, out: Path) -> int:
    """Write the page, or for a name that ends in .png a picture; returns how many lines of metrics it shows.

    Raises InputError where there are none, EnvironmentFault where matplotlib (png) or jinja2 is missing.
    """
    if out.suffix.lower() not in (".html", ".png"):
        raise InputError("ends neither in .html nor in .png", file=out, field="--out")
    rows = read_metrics(run)
    name = f"anyphoto train: {run.name}"
    with committed(out) as file:
        if out.suffix.lower() == ".png":
            _draw_png(name, rows, file)
        else:
            file.write(render_page(_TEMPLATE, name, _facts(run, rows), charts=charts(rows)))
    return len(rows)


def _draw_png(name: str, rows: Sequence[dict[str, Any]], out: BinaryIO) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        remedy = 'Run: pip install "anyphoto[train]", or write .html'
        raise EnvironmentFault("matplotlib is not installed, which PNG needs", field="--out", remedy=remedy) from error
    shown = list(curves(rows))
    columns = 2
    figure = Figure(figsize=(11, 2.2 * -(-len(shown) // columns) + 0.5), layout="constrained", dpi=110)
    figure.suptitle(name)
    for place, (title, series) in enumerate(shown, 1):
        axes = figure.add_subplot(-(-len(shown) // columns), columns, place)
        for label, points in series:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
        axes.set_title(title, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(fontsize=8, frameon=False)
    figure.savefig(out, format="png", metadata={"Software": None})


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl by step; a torn last line is none. Raises InputError where the run has none yet."""
    try:
        text = (run / METRICS).read_text(encoding="utf-8")
    except OSError as error:
        remedy = "Name a run's output_dir; the first line comes after logging_steps"
        raise InputError(f"holds no {METRICS}", file=run, remedy=remedy) from error
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            rows.append(row)
    if not rows:
        raise InputError("holds no metrics yet", file=run / METRICS)
    return sorted(rows, key=lambda row: row["step"])


def charts(rows: Sequence[dict[str, Any]]) -> list[Lines]:
    """One chart a title, with up to two lines each."""
    looks = ("first", "second")
    return [
        lines(title, [(label, look, points) for look, (label, points) in zip(looks, series, strict=False)])
        for title, series in curves(rows)
    ]


def curves(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[tuple[str, list[tuple[float, float]]]]]]:
    """(title, [(label, (step, value) points)]) of every chart that has any value."""
    for title, keys in CHARTS:
        series = []
        for key, label in keys:
            points = [(float(row["step"]), _number(row[key])) for row in rows if key in row]
            if any(math.isfinite(y) for _, y in points):
                series.append((label, points))
        if series:
            yield title, series


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _facts(run: Path, rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    try:
        config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    method, loss = config.get("method", {}), config.get("loss", {})
    told = [
        ("Base", config.get("model")),
        ("Face pack", config.get("face_pack") or "the base's"),
        ("Rank", method.get("lora_rank")),
        ("Lambda", loss.get("face_weight")),
        ("Batch", config.get("train_batch_size")),
        ("Step", f"{rows[-1]['step']} of {config.get('max_train_steps')}"),
    ]
    return [(name, str(value)) for name, value in told if value is not None]
