"""A run's curves as one offline page: `anyphoto train plot`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.html import Lines, lines, render_page

METRICS, CONFIG = "metrics.jsonl", "training.json"
CHARTS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Loss", (("loss", "all of it"), ("flow", "flow matching"))),
    ("Identity loss of the one-step estimate", (("face", "1 - cosine"),)),
    ("Cosine of the one-step estimate's faces", (("cosine", "to the reference"),)),
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
    """Write the page; returns how many lines of metrics it shows. Raises InputError where there are none."""
    rows = read_metrics(run)
    with committed(out) as file:
        file.write(render_page(_TEMPLATE, f"anyphoto train: {run.name}", _facts(run, rows), charts=charts(rows)))
    return len(rows)


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
    found = []
    for title, keys in CHARTS:
        series = []
        for look, (key, label) in zip(("first", "second"), keys, strict=False):
            points = [(float(row["step"]), _number(row[key])) for row in rows if key in row]
            if any(math.isfinite(y) for _, y in points):
                series.append((label, look, points))
        if series:
            found.append(lines(title, series))
    return found


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
