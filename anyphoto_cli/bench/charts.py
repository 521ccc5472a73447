"""Two pictures of a table: likeness against copy-paste, and bars a subset. The papers' systems grey, runs in colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anyphoto_cli.bench.measured import unlike_published
from anyphoto_cli.bench.ranking import GATES, UNRANKED
from anyphoto_cli.bench.rows import SUBSET_NAMES, TITLES, Row
from anyphoto_cli.bench.standing import tables_for
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.quiet import unheard

OURS = ("#0f766e", "#c2410c", "#4338ca", "#be185d", "#4d7c0f", "#0369a1")
GREY, BEST = "#9aa3ad", 6
"""Of the papers' systems so many stand beside ours in the bars: those with the highest Sim(GT)."""


def write_charts(runs: Sequence[Path], folder: Path, filtered: bool = True) -> list[Path]:
    """scatter.png and bars.png. filtered: means without outliers, as published. Raises InputError for a folder that
    holds no scores, EnvironmentFault where matplotlib is missing.
    """
    tables = tables_for(runs, (), filtered)
    files = []
    # A run's name may have letters that matplotlib's font lacks: boxes then, and no lines about it.
    unheard("Glyph .* missing from font")
    for name, figure in (("scatter.png", _scatter(tables)), ("bars.png", _bars(tables, filtered))):
        with committed(folder / name) as out:
            figure.savefig(out, format="png", metadata={"Software": None})
        files.append(folder / name)
    return files


def _colours(tables: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Of our runs, by name: the same in every panel, also where a run has not all subsets."""
    ours = dict.fromkeys(row.system for rows in tables.values() for row in rows if not row.published)
    return {name: OURS[number % len(OURS)] for number, name in enumerate(ours)}


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        remedy = 'Run: pip install "anyphoto[bench]"'
        raise EnvironmentFault("matplotlib is not installed, which charts need", remedy=remedy) from error
    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def _scatter(tables: Mapping[str, Sequence[Row]]) -> Any:
    """A panel a subset: the best systems lie to the upper left."""
    figure, colours = _figure(1 + 5.2 * len(tables), 5), _colours(tables)
    panels = []
    for place, (subset, rows) in enumerate(tables.items(), 1):
        axes = figure.add_subplot(1, len(tables), place)
        known = [row for row in rows if row.system not in UNRANKED and _has(row)]
        for row in known:
            mine = not row.published
            colour = colours[row.system] if mine else GREY
            x, y = row.values["copy_paste"], row.values["sim_gt"]
            axes.scatter(x, y, s=70 if mine else 26, color=colour, zorder=3 if mine else 2, linewidths=0)
        panels.append((axes, known, colours))
        axes.axhline(GATES[subset], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_title(SUBSET_NAMES[subset].capitalize(), fontsize=11, loc="left")
        axes.set_xlabel("copy-paste (less is better)")
        axes.set_ylabel("Sim(GT)" if place == 1 else "")
        axes.margins(x=0.2, y=0.1)
        _plain(axes)
    _below(figure, "Dashed: by the papers' rules copy-paste is ranked only above this Sim(GT)", tables)
    figure.draw_without_rendering()  # only now is it known how many px a number is
    figure.set_layout_engine("none")
    for panel in panels:
        _label(*panel)
    return figure


def _below(figure: Any, text: str, tables: Mapping[str, Sequence[Row]]) -> None:
    """What the marks mean, and whose rows were judged otherwise than the published ones."""
    ours = [row for rows in tables.values() for row in rows if not row.published]
    apart = {row.system: why for row in ours if (why := unlike_published(row.measured, "sim_gt"))}
    figure.supxlabel("\n".join([text, *(f"{name}: {why}" for name, why in apart.items())]), fontsize=8)


def _has(row: Row) -> bool:
    return row.values.get("copy_paste") is not None and row.values.get("sim_gt") is not None


def _label(axes: Any, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    """Names beside their points, ours first, each where it covers no point and no other name."""
    scale = axes.figure.dpi / 72
    points = [axes.transData.transform((row.values["copy_paste"], row.values["sim_gt"])) for row in rows]
    taken: list[tuple[float, ...]] = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in points]
    for row, (x, y) in sorted(zip(rows, points, strict=True), key=lambda one: one[0].published):
        mine = not row.published
        letter = 9.0 if mine else 7.0
        size = (0.62 * letter * len(row.system) * scale, 1.3 * letter * scale)
        dx, dy, box = _free(x, y, size, scale, taken, axes.bbox.extents)
        taken.append(box)
        colour = colours[row.system] if mine else "#5d6670"
        axes.annotate(
            row.system, (row.values["copy_paste"], row.values["sim_gt"]), (dx / scale, dy / scale),
            textcoords="offset points", fontsize=letter, color=colour, ha="left", va="bottom", zorder=4,
            fontweight="bold" if mine else "normal",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def _free(
    x: float, y: float, size: tuple[float, float], scale: float, taken: Sequence[tuple[float, ...]],
    room: Sequence[float],
) -> tuple[float, float, tuple[float, ...]]:  # fmt: skip
    """(dx, dy of a name's lower left corner from its point, its box), px; the nearest place that is free."""
    width, height = size
    fallback = None
    for far in range(6, 120, 4):
        for angle in (0, 0.5, -0.5, 1, -1, 2.6, -2.6, 1.57, -1.57, 3.14):
            cx, cy = x + far * scale * math.cos(angle), y + far * scale * math.sin(angle)
            left = cx if math.cos(angle) > 0.3 else cx - width if math.cos(angle) < -0.3 else cx - width / 2
            box = (left, cy - height / 2, left + width, cy + height / 2)
            fallback = fallback or box
            inside = box[0] > room[0] and box[2] < room[2] and box[1] > room[1] and box[3] < room[3]
            if inside and not any(_overlap(box, other) for other in taken):
                return box[0] - x, box[1] - y, box
    assert fallback is not None
    return fallback[0] - x, fallback[1] - y, fallback


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _bars(tables: Mapping[str, Sequence[Row]], filtered: bool) -> Any:
    """A row a subset, a panel a metric: our runs with their 95 % intervals, below them the papers' best."""
    metrics = ("sim_gt", "sim_ref", "copy_paste")
    counts, colours = [len(_shown(rows)) for rows in tables.values()], _colours(tables)
    figure = _figure(13, 0.9 + 0.27 * sum(counts) + 0.55 * len(tables))
    grid = figure.add_gridspec(len(tables), len(metrics), height_ratios=[count + 2 for count in counts])
    for line, (subset, rows) in enumerate(tables.items()):
        shown = _shown(rows)
        for column, metric in enumerate(metrics):
            axes = figure.add_subplot(grid[line, column])
            for k, row in enumerate(shown):
                value = row.values.get(metric)
                if value is None:
                    continue
                mine = not row.published
                colour = colours[row.system] if mine else GREY
                axes.barh(k, value, height=0.72, color=colour)
                error = row.intervals.get(metric, ())
                if error:
                    axes.errorbar(sum(error) / 2, k, xerr=(error[1] - error[0]) / 2, color="#1b2027", capsize=2,
                                  linewidth=1)  # fmt: skip
                axes.annotate(f"{value:.3f}", (max(value, 0, *error), k), (4, 0),
                              textcoords="offset points", va="center", fontsize=7, color="#5d6670")  # fmt: skip
            axes.set_yticks(range(len(shown)), [row.system for row in shown] if column == 0 else [], fontsize=8)
            axes.set_ylim(len(shown) - 0.5, -0.5)
            title = f"{SUBSET_NAMES[subset].capitalize()}: {TITLES[metric]}" if column == 0 else TITLES[metric]
            axes.set_title(title, fontsize=10, loc="left")
            axes.margins(x=0.14)
            _plain(axes)
    kind = "means without outliers" if filtered else "plain means"
    _below(figure, f"Bars: {kind}; whiskers: 95 % interval of the plain mean over cases", tables)
    return figure


def _shown(rows: Sequence[Row]) -> list[Row]:
    """Ours, then the papers' best by Sim(GT)."""
    ours = [row for row in rows if not row.published]
    theirs = [row for row in rows if row.published and row.system not in UNRANKED]
    best = sorted(theirs, key=lambda row: -(row.values.get("sim_gt") or -1.0))[:BEST]
    return ours + best


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
