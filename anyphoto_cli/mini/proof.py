"""What the shipped adapter does, on people it never saw: rendered and scored by `anyphoto bench`, in rows: the base by
the prompt alone, with location tokens and an adapter that has learned nothing, and with the trained one, as it is and
with faces that are given less weight.

A frozen base already copies a little from tokens that lie where a face should be, so the row that a gain is told
against is the one of an untrained adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anyphoto_cli.bench.cases import read_cases
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.commands import run_command
from anyphoto_cli.mini.likeness import Asked, Bank, look, open_bank, summed_up
from anyphoto_cli.mini.types import STYLES
from anyphoto_cli.seams import FaceAnalyzer

SEEDS = (6, 7)
"""Of the sets. On those of 0 and 3 it was chosen how much the adapter keeps of its last run; the others before these
measured the adapters before it, so that they prove nothing.
"""
PEOPLE, PHOTOS, STYLED = 300, 120, 12
"""Of each set: held-out people of whom the nearest is sought; photos, and how many of these in every other style."""
PHOTO, STYLED_CASES, CASES = STYLES[0], "styled", "cases.jsonl"
ORIGINAL, NO_ADAPTER, UNTRAINED, TRAINED = "the photo itself", "no adapter", "untrained adapter", "trained adapter"
STRENGTH = 0.4
SOFTER = f"{TRAINED}, strength {STRENGTH}"
"""A layout that asks for a style may ask for less of the face: what that brings and costs there is a row of its own."""
LEAST_VISIBLE = 0.5
SUBSETS = {"1": (1,), "2": (2,), "3-4": (3, 4)}


def measure_adapter(adapter: Path, pack: Path, photos: int = PHOTOS, styled: int = STYLED) -> dict[str, Any]:
    """Row -> photo: numbers of `summed_up`, by subset, and Sim and CP as `anyphoto bench` has them; styled: the same of
    the other styles together, and by style; SOFTER has these alone. photos, styled: of each of SEEDS, pictures in all,
    and in every other style.
    """
    from anyphoto_cli.faces.packs import open_faces

    with TemporaryDirectory() as temporary:
        out, analyzer = Path(temporary), open_faces(pack)
        draw_cases(out, photos, styled)
        banks = open_banks(out, analyzer)
        untrained = save_untrained(adapter, out / "untrained")
        systems = {
            NO_ADAPTER: ("--system", "flux", "--model", "mini"),
            UNTRAINED: ("--adapter", str(untrained)),
            TRAINED: ("--adapter", str(adapter.resolve())),
            SOFTER: ("--adapter", str(adapter.resolve()), "--strength", str(STRENGTH)),
        }
        rows: dict[str, Any] = {ORIGINAL: row_of(out, None, banks, analyzer)}
        for name, given in systems.items():
            sets = (STYLED_CASES,) if name == SOFTER else (PHOTO, STYLED_CASES)
            for cases in sets:
                words = ("bench", "run", f"{cases}.jsonl", "-o", f"{name}/{cases}", *given)
                run_command(out, (*words, "--face-pack", str(pack), "--clip", "none"))
            rows[name] = row_of(out, out / name, banks, analyzer, sets)
        return rows


def draw_cases(out: Path, photos: int, styled: int, seeds: Sequence[int] = SEEDS) -> None:
    """A folder SEED/STYLE each, and photo.jsonl and styled.jsonl over all seeds: within a seed the same people at the
    same places in all styles, as far as they go.
    """
    for seed in seeds:
        for style in STYLES:
            people = ("--people", str(PEOPLE), "--references", "1", "--held-out", "--layouts", "--style", style)
            count = photos if style == PHOTO else styled
            groups = ("--groups", str(count), "--seed", str(seed))
            run_command(out, ("mini", "photos", *people, *groups, "-o", f"{seed}/{style}"))
    for name, styles in ((PHOTO, STYLES[:1]), (STYLED_CASES, STYLES[1:])):
        lines = [line for seed in seeds for style in styles for line in _cases(out, seed, style)]
        (out / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def open_banks(out: Path, analyzer: FaceAnalyzer, seeds: Sequence[int] = SEEDS) -> dict[int, Bank]:
    """Seed -> its people: the same in all styles."""
    return {seed: open_bank(out / str(seed) / PHOTO / "refs", analyzer) for seed in seeds}


def _cases(out: Path, seed: int, style: str) -> list[str]:
    """Those of one folder in which everybody shows half of their face, as some of many: ids are STYLE-SEED-NUMBER."""
    folder = f"{seed}/{style}"
    lines, truths = ((out / folder / name).read_text().splitlines() for name in (CASES, "truth.jsonl"))
    shown = []
    for case, truth in zip(map(json.loads, lines), map(json.loads, truths), strict=True):
        if all(person["visible"] >= LEAST_VISIBLE for person in truth["people"]):
            references = [f"{folder}/{name}" for name in case["references"]]
            told = {"id": f"{style}-{seed}-{case['id']}", "references": references, "gt": f"{folder}/{case['gt']}"}
            shown.append(json.dumps(case | told))
    return shown


def save_untrained(like: Path, folder: Path) -> Path:
    """An adapter of the same kind that has learned nothing: B = 0, the projector as it begins."""
    import torch

    from anyphoto_cli.model.adapter import read_card, save_adapter
    from anyphoto_cli.model.pipeline import AnyPhotoPipeline

    card = read_card(like)
    torch.manual_seed(0)
    transformer = AnyPhotoPipeline.from_pretrained(shipped.base_folder(), dtype=torch.float32).transformer
    transformer.add_anyphoto(card.method, card.embedding)
    save_adapter(folder, transformer, card.model_copy(update={"train_step": 0}))
    return folder


def row_of(
    out: Path, rendered: Path | None, banks: Mapping[int, Bank], analyzer: FaceAnalyzer,
    sets: Sequence[str] = (PHOTO, STYLED_CASES),
) -> dict[str, Any]:  # fmt: skip
    """Numbers of the pictures below `rendered`; of the drawn photos themselves where that is None."""
    asked: dict[str, list[list[Asked]]] = {style: [] for style in STYLES}
    for name in sets:
        pictures = None if rendered is None else rendered / name / "pictures"
        for case in read_cases(out / f"{name}.jsonl").cases:
            style, seed, _ = case.id.split("-")
            asked[style].append(look(case, pictures, banks[int(seed)], analyzer, style))
    row: dict[str, Any] = {
        "seeds": sorted(banks),
        "styled": summed_up([picture for style in STYLES[1:] for picture in asked[style]]),
        "by_style": {style: summed_up(found) for style, found in asked.items() if found},
    }
    if PHOTO not in sets:
        return row
    row["photo"] = summed_up(asked[PHOTO])
    row["by_people"] = {name: summed_up(_of(asked[PHOTO], counts)) for name, counts in SUBSETS.items()}
    if rendered is not None:
        row["bench"] = json.loads((rendered / PHOTO / "scores" / "summary.json").read_text())
    return row


def _of(pictures: Sequence[Sequence[Asked]], counts: Sequence[int]) -> list[Sequence[Asked]]:
    return [picture for picture in pictures if picture[0].people in counts]
