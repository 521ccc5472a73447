"""`make ablation`: the paper's Tables 2, A and B in the small world, by the product's own commands, several seeds each.

python -m anyphoto_cli.mini.ablation [--folder .ablation] [--steps 1200] [--seeds 0,1,2] [--rows full,location]

Every row is `anyphoto train --preset ROW`, then `anyphoto bench run` on people nobody was trained on. What is finished
is kept; a run that was cut off goes on. The page, docs/ablation.md, is written anew from what there is; what stands in
it outside the two marks is left alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.bench.results import all_lines
from anyphoto_cli.bench.statistics import interval
from anyphoto_cli.bench.tables import ablation_rows
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.mini.commands import run_command
from anyphoto_cli.runtime.run_record import keep_options
from anyphoto_cli.train.plots import METRICS as METRICS_FILE
from anyphoto_cli.train.presets import PRESETS

METRICS = {"sim_gt": "Sim(GT)", "sim_ref": "Sim(Ref)", "copy_paste": "CP"}
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
SETS = {"": (), "_worn": ("--worn",)}
"""Ends of the names of cases, rows and chart -> how `mini photos` draws the references. The same layouts and originals,
asked for once by good portraits and once by bad photos of these: then the location canvas does not carry everything.
"""
HEADINGS = {"": "References as drawn", "_worn": "Worn references"}
DEGRADATIONS = {
    "color_jitter": 0.6, "grayscale": 0.3, "blur": 0.2, "sharpness": 0.1, "autocontrast": 0.1, "horizontal_flip": 0.3,
    "salt_and_pepper": 0.05, "gaussian_noise": 0.3, "occlusion": 0.15, "illumination": 0.3, "jpeg": 0.2,
    "resolution_loss": 0.6, "face_ageing": 0.05,
}  # fmt: skip
"""Their rates, the same for all rows, higher than `train`'s: the location canvas must not carry everything."""
BATCH = 8
"""Samples of a rank's step."""
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Plan:
    """folder: everything, ignored by git. processes: ranks of training, one thread each. people, photos: to train on.
    layouts: of held-out people, to be rendered by every row.
    """

    folder: Path
    steps: int = 1200
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] = tuple(PRESETS)
    processes: int = 2
    people: int = 200
    photos: int = 1500
    layouts: int = 120

    @property
    def samples(self) -> int:
        """Of a step, all ranks together."""
        return BATCH * self.processes


def main() -> None:
    """Parse, run, write the page."""
    parser = argparse.ArgumentParser(prog="make ablation", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path(".ablation"))
    parser.add_argument("--steps", type=int, default=1200, help="of training, each row; 8 samples a process")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", default=",".join(PRESETS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="begin no further row after that long")
    parser.add_argument("--page", type=Path, default=Path("docs/ablation.md"))
    parser.add_argument("--only-page", action="store_true", help="train nothing, write what there is")
    given = parser.parse_args()
    try:
        plan = Plan(given.folder, given.steps, _seeds(given.seeds), _rows(given.rows), given.processes)
        _begin_or_go_on(plan)
        if not given.only_page:
            run(plan, given.minutes)
    except AnyPhotoError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    write_page(plan, given.page)
    print(given.page)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise InputError(f"{text!r} is no list of numbers", field="--seeds", remedy="Like this: 0,1,2") from None


def _rows(text: str) -> tuple[str, ...]:
    rows = tuple(text.split(","))
    if unknown := [row for row in rows if row not in PRESETS]:
        raise InputError(f"{unknown[0]!r} is no preset", field="--rows", remedy=f"Presets: {', '.join(PRESETS)}")
    return rows


def _begin_or_go_on(plan: Plan) -> None:
    """Rows that were made in different ways must not share a table. Raises InputError naming what differs."""
    made = {"steps": plan.steps, "samples": plan.samples, "people": plan.people, "photos": plan.photos,
            "layouts": plan.layouts, "degradations": DEGRADATIONS}  # fmt: skip
    begun = any((plan.folder / name).is_dir() for name in ("runs", "rows"))
    keep_options(plan.folder, "ablation", made, begun, remedy="Go on as it began, or name another --folder")


def run(plan: Plan, minutes: float | None = None) -> None:
    """All rows that are not finished, seed by seed. Raises EnvironmentFault where a command fails."""
    out, began = plan.folder, time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    many = ("--people", str(plan.people), "--groups", str(plan.photos), "--style", "any")
    _do(out, "mini", "photos", *many, "-o", "world")
    refs = ("--refs", "world/refs", "--config", "world/preprocess.yaml")
    _do(out, "preprocess", "world/photos.jsonl", "-o", "data", *refs)
    groups = ("--people", str(plan.layouts // 2), "--groups", str(plan.layouts), "--style", "any", "--held-out",
              "--layouts", "--siblings")  # fmt: skip
    for end, drawn in SETS.items():
        _do(out, "mini", "photos", *groups, *drawn, "-o", f"held_out{end}")
    _bench(out, NO_ADAPTER, None)
    for seed in plan.seeds:
        for row in plan.rows:
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                return
            _bench(out, _name(row, seed), _trained(plan, row, seed))
            if row == "full" and seed == plan.seeds[0]:
                _bench(out, UNTRAINED, _untrained(plan))


def _name(row: str, seed: int) -> str:
    return f"{row}-{seed}"


def _trained(plan: Plan, row: str, seed: int) -> str:
    """Its adapter, relative to the folder."""
    name = _name(row, seed)
    settings = [f"seed={seed}", f"max_train_steps={plan.steps}", "data.workers=0", f"train_batch_size={BATCH}",
                f"data.degradations={json.dumps(DEGRADATIONS)}"]  # fmt: skip
    return _train(plan, f"runs/{name}", row, settings)


def _untrained(plan: Plan) -> str:
    """One step at next to no learning rate: tokens are present, the adapter has learned nothing."""
    settings = ["max_train_steps=1", "learning_rate=1e-12", "data.workers=0"]
    return _train(plan, "runs/untrained", "full", settings)


def _train(plan: Plan, run_: str, row: str, settings: Sequence[str]) -> str:
    adapter = plan.folder / run_ / "adapter" / "anyphoto.json"
    if not adapter.is_file():
        file = f"{run_.replace('/', '-')}.yaml"
        _do(plan.folder, "train", "init", "--model", "mini", "--shards", "data", "-o", file, "--output-dir", run_,
            "--preset", row, "--overwrite")  # fmt: skip
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={plan.processes}"]
        _do(plan.folder, "train", file, *settings, launcher=launcher if plan.processes > 1 else ())
    return f"{run_}/adapter"


def _bench(out: Path, name: str, adapter: str | None) -> None:
    """Both sets at once: a rendering process has one thread. adapter: None renders by the prompt alone; `--adapter
    none` would still have the location tokens in it.
    """
    given = ("--adapter", adapter) if adapter else ("--system", "flux", "--model", "mini")
    with ThreadPoolExecutor(len(SETS)) as pool:
        asked = [
            pool.submit(_do, out, "bench", "run", f"held_out{end}/cases.jsonl", "-o", f"rows{end}/{name}", *given,
                        "--face-pack", "mini", "--clip", "none")
            for end in SETS if not (out / f"rows{end}" / name / "scores" / "summary.json").is_file()
        ]  # fmt: skip
        for one in asked:
            one.result()


def _do(out: Path, *words: str, launcher: Sequence[str] = ()) -> None:
    print(f"$ anyphoto {' '.join(words)}", flush=True)
    minutes = run_command(out, words, launcher) / 60
    print(f"  {minutes:.1f} minutes: {' '.join(words[:3])}", flush=True)


@dataclass(frozen=True)
class Measured:
    """One row over its seeds. cases: metric -> [cases] means over seeds, nan where a case has none. found: share of
    the people found at their places. off: mean error there, face heights. swapped: share of those found. minutes: of
    training, in the mean; nan where there was none.
    """

    label: str
    seeds: int
    cases: Mapping[str, NDArray[np.float64]]
    found: float
    off: float
    swapped: float
    minutes: float = float("nan")


def measured(plan: Plan, row: str, seeds: Sequence[int] | None, end: str = "") -> Measured | None:
    """From the scores of a row, over those seeds that are there; None without any. seeds: None for rows without. end:
    one of SETS.
    """
    names = [row] if seeds is None else [_name(row, seed) for seed in seeds]
    runs = [all_lines(plan.folder / f"rows{end}" / name / "scores") for name in names]
    runs = [lines for lines in runs if lines]
    if not runs:
        return None
    values = {metric: _per_case(runs, metric) for metric in METRICS}
    placed = [line["placement"] for lines in runs for line in lines if line.get("placement")]
    found, expected = sum(one["placed"] for one in placed), sum(one["expected"] for one in placed)
    errors = [one["error"] for one in placed if one["error"] is not None]
    return Measured(
        LABELS.get(row, row), len(runs), values, found / max(expected, 1), float(np.mean(errors)) if errors else np.nan,
        sum(one["swapped"] for one in placed) / max(found, 1),
        float(np.mean([minutes for name in names if (minutes := _minutes(plan, name)) > 0] or [np.nan])),
    )  # fmt: skip


def _minutes(plan: Plan, name: str) -> float:
    """That training took; 0 where it is not known."""
    file = plan.folder / "runs" / name / METRICS_FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    steps = np.diff([0, *(line["step"] for line in lines)])
    return float(sum(plan.samples * int(n) / line["samples_per_s"] for n, line in zip(steps, lines, strict=True))) / 60


def _per_case(runs: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> NDArray[np.float64]:
    table = []
    for lines in runs:
        scored = [next(iter(line["legs"].values()))[metric] if line["status"] == "scored" else None for line in lines]
        table.append([np.nan if value is None else value for value in scored])
    values = np.array(table, np.float64)
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(0)
    means: NDArray[np.float64] = np.divide(sums, known.sum(0), out=np.full(sums.shape, np.nan), where=known.any(0))
    return means


def difference(less: NDArray[np.float64], more: NDArray[np.float64]) -> tuple[float, float, float, int]:
    """(mean of more - less, its 95 % interval, cases): paired, over cases that both have."""
    both = np.isfinite(less) & np.isfinite(more)
    gaps = (more - less)[both]
    low, high = interval(gaps.tolist())
    return (float(gaps.mean()) if len(gaps) else np.nan), low, high, len(gaps)


def verdict(gap: tuple[float, float, float, int]) -> str:
    """holds: the interval lies above 0; reversed: below; open: it holds 0."""
    _, low, high, count = gap
    if not count or not np.isfinite(low):
        return "not measured"
    return "holds" if low > 0 else "**reversed**" if high < 0 else "open"


def write_page(plan: Plan, page: Path) -> None:
    """The measured part of the page, and its charts beside it."""
    lines = [f"{datetime.now(UTC).date()}; {plan.steps} steps of {plan.samples} samples a row.", ""]
    for end, heading in HEADINGS.items():
        known = _known(plan, end)
        file = page.parent / "images" / f"ablation{end}.png"
        lines += [f"### {heading}", "", *_lines(known), ""]
        if known:
            _chart(known, file)
            lines += [f"![{heading}: ours and the paper's rows](images/{file.name})", ""]
    before, after = _around(page)
    with committed(page) as out:
        out.write((before + "\n".join([BEGIN, *lines, END]) + after).encode())


def _known(plan: Plan, end: str) -> dict[str, Measured]:
    """Name -> what there is of it: without an adapter, with an untrained one, then as the paper's tables go."""
    found = {name: measured(plan, name, None, end) for name in (NO_ADAPTER, UNTRAINED)}
    ordered = sorted(plan.rows, key=lambda row: [*LABELS, row].index(row))
    found |= {row: measured(plan, row, plan.seeds, end) for row in ordered}
    return {name: one for name, one in found.items() if one is not None}


def _around(page: Path) -> tuple[str, str]:
    """What stands before and after the measured part."""
    if not page.is_file():
        return "# Ablation in the small world\n\n", "\n"
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        return text.rstrip("\n") + "\n\n", "\n"
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def _lines(known: Mapping[str, Measured]) -> list[str]:
    paper = {row.system: row.values for row in ablation_rows()}
    head = ["row", "seeds", *(f"{title}, ours" for title in METRICS.values()),
            *(f"{title}, paper" for title in METRICS.values()), "found", "off by", "swapped", "minutes"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"] if known else ["No row was benched yet."]
    for name, one in known.items():
        own = [_with_interval(one.cases[metric]) for metric in METRICS]
        theirs = [_three(paper.get(name, {}).get(metric)) for metric in METRICS]
        told = [one.label, str(one.seeds), *own, *theirs, f"{one.found:.2f}", f"{one.off:.3f}", f"{one.swapped:.3f}",
                f"{one.minutes:.0f}" if np.isfinite(one.minutes) else ""]  # fmt: skip
        lines.append(f"| {' | '.join(told)} |")
    lines += ["", "| the paper's ordering | ours: the difference | |", "|---|---|---|"]
    for metric, less, more in ORDERINGS:
        said = f"{METRICS[metric]}: {less} < {more}"
        if less not in known or more not in known:
            lines.append(f"| {said} | owed | owed |")
            continue
        gap = difference(known[less].cases[metric], known[more].cases[metric])
        lines.append(f"| {said} | {gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}], {gap[3]} cases | {verdict(gap)} |")
    return lines


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


if __name__ == "__main__":
    main()
