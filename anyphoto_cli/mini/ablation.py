"""`make ablation`: the paper's Tables 2, A and B in the small world, by the product's own commands, several seeds each.

python -m anyphoto_cli.mini.ablation [--folder .ablation] [--steps 600] [--seeds 0,1,2] [--rows full,location]

Every row is `anyphoto train --preset ROW`, then `anyphoto bench run` on people nobody was trained on. What is finished
is kept; a run that was cut off goes on. The page, docs/ablation.md, is written anew after each row; what stands in it
outside the two marks is left alone. The scores lie beside it, in ablation_rows.jsonl: rows that are in there are not
made again, so that another machine can add a seed. Where they are of another base than the one that ships, the rows of
this one go to a page of their own, named after it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anyphoto_cli.bench.results import SUMMARY
from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.mini.ablation_page import NO_ADAPTER, UNTRAINED, write_page
from anyphoto_cli.mini.ablation_rows import Table, read_kept, read_scores, scores_of, seeded, write_kept
from anyphoto_cli.mini.command_line import ended_in_a_line, refuse_below
from anyphoto_cli.mini.commands import echo, end_running, run_command
from anyphoto_cli.mini.shipped import fingerprint
from anyphoto_cli.runtime.run_record import keep_options
from anyphoto_cli.runtime.signals import terminate_as_exception
from anyphoto_cli.train.presets import PRESETS

SETS = {"": (), "_worn": ("--worn",)}
"""Ends of the names of cases, rows and chart -> how `mini photos` draws the references. The same layouts and originals,
asked for once by good portraits and once by bad photos of these: then the location canvas does not carry everything.
"""
DEGRADATIONS = {
    "color_jitter": 0.6, "grayscale": 0.3, "blur": 0.2, "sharpness": 0.1, "autocontrast": 0.1, "horizontal_flip": 0.3,
    "salt_and_pepper": 0.05, "gaussian_noise": 0.3, "occlusion": 0.15, "illumination": 0.3, "jpeg": 0.2,
    "resolution_loss": 0.6, "face_ageing": 0.05,
}  # fmt: skip
"""Their rates, the same for all rows, higher than `train`'s: the location canvas must not carry everything."""
PAGE = Path("docs/ablation.md")
BATCH = 8
"""Samples of a rank's step."""


@dataclass(frozen=True)
class Plan:
    """folder: everything, ignored by git. processes: ranks of training, one thread each. people, photos: to train on.
    layouts: of held-out people, to be rendered by every row.
    """

    folder: Path
    steps: int = 600
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] = tuple(PRESETS)
    processes: int = 2
    people: int = 2000
    photos: int = 6000
    layouts: int = 120

    @property
    def samples(self) -> int:
        """Of a step, all ranks together."""
        return BATCH * self.processes

    @property
    def made(self) -> dict[str, Any]:
        """What a row's scores rest on: rows that differ in it must not share a table."""
        return {"steps": self.steps, "samples": self.samples, "people": self.people, "photos": self.photos,
                "layouts": self.layouts, "degradations": DEGRADATIONS, "models": fingerprint(),
                "method": MethodConfig().model_dump(mode="json")}  # fmt: skip


def main() -> None:
    """Parse, run, write the page."""
    parser = argparse.ArgumentParser(prog="make ablation", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--folder", type=Path, default=Path(".ablation"))
    parser.add_argument("--steps", type=int, default=600, help="of training, each row; 8 samples a process")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", default=",".join(PRESETS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="begin no further row after that long")
    parser.add_argument("--page", type=Path, help=f"default: {PAGE}, or one beside it for another base than its rows'")
    parser.add_argument("--only-page", action="store_true", help="train nothing, write what there is")
    given = parser.parse_args()
    with ended_in_a_line(), terminate_as_exception():
        for option in ("steps", "processes"):
            refuse_below(1, f"--{option}", getattr(given, option))
        refuse_below(0, "--minutes", given.minutes)
        plan = Plan(given.folder, given.steps, _seeds(given.seeds), _rows(given.rows), given.processes)
        page = given.page or _page_of_this_base(given.only_page)
        if given.only_page:
            _write_only(plan, page)
        else:
            run(plan, page, given.minutes)
    print(page)


def _page_of_this_base(only_page: bool) -> Path:
    """PAGE, or another where its rows are of another base: nobody could add to those, for it is not here any more.
    only_page: PAGE also then, until there are rows of this base.
    """
    kept, table = read_kept(kept_beside(PAGE))
    own = PAGE.with_name(f"{PAGE.stem}_{fingerprint()}.md")
    if not table or kept.get("models") == fingerprint() or (only_page and not kept_beside(own).is_file()):
        return PAGE
    print(f"{kept_beside(PAGE)} holds rows of another base: those of this one go to {own}", file=sys.stderr)
    return own


def _write_only(plan: Plan, page: Path) -> None:
    """The page of what is kept, however it was made; with what was benched since where that was made the same way."""
    kept, table = read_kept(kept_beside(page))
    if table and any(kept.get(name) != value for name, value in plan.made.items()):
        write_page(kept, table, page)
    else:
        _keep(plan, _begin_or_go_on(plan, page), page)


def _seeds(text: str) -> tuple[int, ...]:
    """Each once, in their order."""
    seeds = text.split(",")
    if not all(seed.strip().isdecimal() for seed in seeds):  # a minus sign would part the seed from its row's name
        raise InputError(f"{text!r} is no list of numbers", field="--seeds", remedy="Like this: 0,1,2")
    return tuple(dict.fromkeys(int(seed) for seed in seeds))


def _rows(text: str) -> tuple[str, ...]:
    rows = tuple(text.split(","))
    if unknown := [row for row in rows if row not in PRESETS]:
        raise InputError(f"{unknown[0]!r} is no preset", field="--rows", remedy=f"Presets: {', '.join(PRESETS)}")
    return rows


def run(plan: Plan, page: Path, minutes: float | None = None) -> None:
    """All rows that are not kept beside `page`, seed by seed; the page is written anew after each.

    Raises EnvironmentFault where a command fails, InputError where the kept rows were made another way.
    """
    began, table = time.monotonic(), _begin_or_go_on(plan, page)
    todo = [row for row in _planned(plan) if any((row.name, end) not in table for end in SETS)]
    if not todo:
        _keep(plan, table, page)
        return
    _make_sets(plan)
    for k, row in enumerate(todo):
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            print(f"{k} of {len(todo)} rows were made. Run again to go on", file=sys.stderr)
            return
        _bench(plan.folder, row.name, row.train(plan) if row.train else None)
        _keep(plan, table, page)


@dataclass(frozen=True)
class Row:
    """name: of the row and its seed. train: returns its adapter, relative to the plan's folder; None for no adapter."""

    name: str
    train: Callable[[Plan], str] | None


def _planned(plan: Plan) -> list[Row]:
    """In the order in which they are made: what a gain is told against, then seed by seed."""
    rows = [Row(NO_ADAPTER, None), Row(UNTRAINED, _untrained)]
    for seed in plan.seeds:
        rows += [Row(seeded(row, seed), partial(_trained, row=row, seed=seed)) for row in plan.rows]
    return rows


def _begin_or_go_on(plan: Plan, page: Path) -> Table:
    """The rows there are. Those that were made in different ways must not share a table: raises InputError naming what
    differs, of those in the folder or of those beside the page.
    """
    made = plan.made
    kept, table = read_kept(kept_beside(page))
    for name in made:
        if table and kept.get(name) != made[name]:
            raise InputError(
                f"these rows were made with {kept.get(name)!r}, now it is {made[name]!r}", file=kept_beside(page),
                field=name, remedy="Go on as they were made, or name another --page",
            )  # fmt: skip
    begun = any((plan.folder / name).is_dir() for name in ("runs", "rows"))
    keep_options(plan.folder, "ablation", made, begun, remedy="Go on as it began, or name another --folder")
    return table


def _keep(plan: Plan, table: Table, page: Path) -> None:
    """Add what was benched since, write the rows and the page."""
    for row in _planned(plan):
        for end in SETS:
            if (row.name, end) not in table and (scores := read_scores(plan.folder, row.name, end, plan.samples)):
                table[row.name, end] = scores
    write_kept(kept_beside(page), plan.made, table)
    write_page(plan.made, table, page)


def kept_beside(page: Path) -> Path:
    """Where a page's rows lie."""
    return page.with_name(f"{page.stem}_rows.jsonl")


def _make_sets(plan: Plan) -> None:
    """Photos to train on as shards, and the sets of held-out people."""
    out = plan.folder
    out.mkdir(parents=True, exist_ok=True)
    many = ("--people", str(plan.people), "--groups", str(plan.photos), "--style", "any")
    _do(out, "mini", "photos", *many, "-o", "world")
    refs = ("--refs", "world/refs", "--config", "world/preprocess.yaml")
    _do(out, "preprocess", "world/photos.jsonl", "-o", "data", *refs)
    groups = ("--people", str(plan.layouts // 2), "--groups", str(plan.layouts), "--style", "any", "--held-out",
              "--layouts", "--siblings")  # fmt: skip
    for end, drawn in SETS.items():
        _do(out, "mini", "photos", *groups, *drawn, "-o", f"held_out{end}")


def _trained(plan: Plan, row: str, seed: int) -> str:
    """Its adapter, relative to the folder."""
    name = seeded(row, seed)
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
    """Both sets at once: a small model renders no faster on two threads. adapter: None renders by the prompt alone;
    `--adapter none` would still have the location tokens in it.
    """
    given = ("--adapter", adapter) if adapter else ("--system", "flux", "--model", "mini")
    with ThreadPoolExecutor(len(SETS)) as pool:
        asked = [
            pool.submit(_do, out, "bench", "run", f"held_out{end}/cases.jsonl", "-o", f"rows{end}/{name}", *given,
                        "--face-pack", "mini", "--clip", "none", beside=len(SETS))
            for end in SETS if not (scores_of(out, name, end) / SUMMARY).is_file()
        ]  # fmt: skip
        try:
            for one in asked:
                one.result()
        except BaseException:
            end_running()
            raise


def _do(out: Path, *words: str, launcher: Sequence[str] = (), beside: int = 1) -> None:
    print(f"$ anyphoto {' '.join(words)}", flush=True)
    minutes = run_command(out, words, launcher, echo, beside) / 60
    print(f"  {minutes:.1f} minutes: {' '.join(words[:3])}", flush=True)


if __name__ == "__main__":
    main()
