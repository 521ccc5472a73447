"""docs/ablation.md's measured part: tables, orderings and charts, ours beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.bench.statistics import interval
from anyphoto_cli.bench.tables import ablation_rows
from anyphoto_cli.files.commit import committed
from anyphoto_cli.mini.ablation_rows import METRICS, Measured, Table, difference, measured, sibling, verdict
from anyphoto_cli.train.presets import PRESETS

NO_ADAPTER, UNTRAINED = "no adapter", "untrained adapter"
LABELS = {
    "base-roi": "(a) base-roi", "location": "(b) location", "modulation": "(c) modulation",
    "no-face-loss": "(d) no-face-loss", "no-modulation": "(e) no-modulation",
}  # fmt: skip
ORDERINGS: tuple[tuple[str, str, str], ...] = (
    ("sim_gt", "base-roi", "no-face-loss"), ("sim_gt", "no-face-loss", "no-modulation"),
    ("sim_gt", "no-modulation", "full"), ("copy_paste", "full", "no-modulation"),
    ("copy_paste", "no-modulation", "location"), ("copy_paste", "location", "modulation"),
    ("sim_gt", "all-visible", "full"), ("sim_gt", "fixed-replacement", "full"),
)  # fmt: skip
"""(metric, the row with less, the row with more), as the paper has them."""
HEADINGS = {"": "References as drawn", "_worn": "Worn references"}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_page(made: Mapping[str, Any], table: Table, page: Path) -> None:
    """The measured part of the page, and its charts beside it. made: how the rows were, with `steps` and `samples`."""
    days = sorted({scores.day for scores in table.values()})
    when = f"{' to '.join(dict.fromkeys((days[0], days[-1])))}; " if days else ""
    lines = [f"{when}{made['steps']} steps of {made['samples']} samples a row.", ""]
    for end, heading in HEADINGS.items():
        known = _known(table, end)
        file = page.parent / "images" / f"{page.stem}{end}.png"
        lines += [f"### {heading}", "", *_rows(known), "", *_orderings(table, end), ""]
        if known:
            _chart(known, file)
            lines += [f"![{heading}: ours and the paper's rows](images/{file.name})", ""]
    before, after = _around(page)
    with committed(page) as out:
        out.write((before + "\n".join([BEGIN, *lines, END]) + after).encode())


def _known(table: Table, end: str) -> dict[str, Measured]:
    """Name -> what there is of it: without an adapter, with an untrained one, then as the paper's tables go."""
    found = {name: measured(table, name, [name], end) for name in (NO_ADAPTER, UNTRAINED)}
    for row in sorted(PRESETS, key=lambda row: [*LABELS, row].index(row)):
        found[row] = measured(table, LABELS.get(row, row), _names(table, row, end), end)
    return {name: one for name, one in found.items() if one is not None}


def _names(table: Table, row: str, end: str) -> list[str]:
    """Of all seeds there are."""
    return sorted(name for name, of in table if of == end and name.rpartition("-")[0] == row)


def _around(page: Path) -> tuple[str, str]:
    """What stands before and after the measured part."""
    if not page.is_file():
        return "# Ablation in the small world\n\n", "\n"
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        return text.rstrip("\n") + "\n\n", "\n"
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def _rows(known: Mapping[str, Measured]) -> list[str]:
    paper = {row.system: row.values for row in ablation_rows()}
    head = ["row", "seeds", *(f"{title}, ours" for title in METRICS.values()),
            *(f"{title}, paper" for title in METRICS.values()), "found", "off by", "swapped", "minutes"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"] if known else ["No row was benched yet."]
    for name, one in known.items():
        own = [_with_interval(one.cases[metric]) for metric in METRICS]
        theirs = [_three(paper.get(name, {}).get(metric)) for metric in METRICS]
        told = [one.label, str(one.seeds), *own, *theirs, f"{one.found:.2f}",
                f"{one.off:.3f}" if np.isfinite(one.off) else "n/a", f"{one.swapped:.3f}",
                f"{one.minutes:.0f}" if np.isfinite(one.minutes) else ""]  # fmt: skip
        lines.append(f"| {' | '.join(told)} |")
    return lines


def _orderings(table: Table, end: str) -> list[str]:
    """Over the seeds that both rows have."""
    lines = ["| the paper's ordering | ours: the difference | each seed | |", "|---|---|---|---|"]
    for metric, less, more in ORDERINGS:
        said = f"{METRICS[metric]}: {less} < {more}"
        both = [name for name in _names(table, less, end) if (sibling(name, more), end) in table]
        if not both:
            lines.append(f"| {said} | owed | | owed |")
            continue
        gaps = [_gap(table, end, metric, names, more) for names in (both, *([name] for name in both))]
        all_, *each = gaps
        told = ", ".join(f"{one[0]:+.3f}" for one in each) if len(each) > 1 else ""
        shown = f"{all_[0]:+.3f} [{all_[1]:+.3f}, {all_[2]:+.3f}], {all_[3]} cases"
        lines.append(f"| {said} | {shown} | {told} | {verdict(all_)} |")
    return lines


def _gap(table: Table, end: str, metric: str, names: Sequence[str], more: str) -> tuple[float, float, float, int]:
    """From the row of `names` to `more`, over these seeds."""
    others = [sibling(name, more) for name in names]
    less, greater = (measured(table, "", of, end) for of in (names, others))
    assert less is not None and greater is not None
    return difference(less.cases[metric], greater.cases[metric])


def _with_interval(values: NDArray[np.float64]) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "n/a"
    low, high = interval(known.tolist())
    return f"{known.mean():.3f} ± {(high - low) / 2:.3f}"


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _chart(known: Mapping[str, Measured], file: Path) -> None:
    """Bars of ours with intervals beside the paper's."""
    from matplotlib.figure import Figure

    paper = {row.system: row.values for row in ablation_rows()}
    figure = Figure(figsize=(11, 0.5 + 0.42 * len(known)), layout="constrained", dpi=120)
    for place, (metric, title) in enumerate(METRICS.items(), 1):
        axes = figure.add_subplot(1, len(METRICS), place)
        for k, (name, one) in enumerate(known.items()):
            values = one.cases[metric][np.isfinite(one.cases[metric])]
            if len(values):
                low, high = interval(values.tolist())
                axes.barh(k - 0.2, values.mean(), 0.38, color="#0f766e", label="ours" if not k else None)
                axes.errorbar((low + high) / 2, k - 0.2, xerr=(high - low) / 2, color="#1b2027", capsize=2, linewidth=1)
            if (theirs := paper.get(name, {}).get(metric)) is not None:
                axes.barh(k + 0.2, theirs, 0.38, color="#9aa3ad")
        axes.set_yticks(range(len(known)), [one.label for one in known.values()] if place == 1 else [], fontsize=8)
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set_title(f"{title}: ours, and grey the paper's", fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    with committed(file) as out:
        figure.savefig(out, format="png", metadata={"Software": None})
