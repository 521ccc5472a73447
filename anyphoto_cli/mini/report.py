"""`make mini-report`: measure the shipped models on held-out people, and write the model card and its pictures."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anyphoto_cli.files.commit import committed
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.command_line import ended_in_a_line
from anyphoto_cli.mini.proof import ORIGINAL, PEOPLE, PHOTOS, SEEDS, SOFTER, STRENGTH, STYLED, TRAINED, UNTRAINED
from anyphoto_cli.mini.types import STYLES

_TRAINED = ("adapter", TRAINED)
_PHOTOS = ("faces", "recogniser", "style_against_reference", "photo")
FACE_STYLE = 0.85
# part, measure, path into the report, bar if any, whether more is better, unit
BARS: tuple[tuple[str, str, tuple[str, ...], float | None, bool, str], ...] = (
    ("detector", "recall", ("faces", "detector", "recall"), 0.99, True, ""),
    ("detector", "precision", ("faces", "detector", "precision"), 0.99, True, ""),
    ("detector", "landmark error / face height", ("faces", "detector", "landmark_error"), 0.03, False, ""),
    ("detector", "precision, photos of 800 px", ("faces", "detector", "large_photos", "precision"), None, True, ""),
    (
        "detector",
        "landmark error / face height, photos of 800 px",
        ("faces", "detector", "large_photos", "landmark_error"),
        None,
        False,
        "",
    ),
    ("recogniser", "verification accuracy, photos", (*_PHOTOS, "accuracy"), 0.99, True, ""),
    ("recogniser", "same person p05 - impostor p99, photos", (*_PHOTOS, "gap"), 0.0, True, ""),
    ("VAE", "face cosine before / after", ("vae", "face_cosine"), 0.97, True, ""),
    ("VAE", "PSNR", ("vae", "psnr"), 28.0, True, " dB"),
    ("VAE", "PSNR, faces on white", ("vae", "by_style", "canvas", "psnr"), 28.0, True, " dB"),
    ("person detector", "AP50", ("persons", "ap50"), 0.95, True, ""),
    ("probe", "scene", ("probe", "scene"), 0.98, True, ""),
    ("probe", "style", ("probe", "style"), 0.98, True, ""),
    ("base", "as many faces as asked", ("base", "people"), 0.90, True, ""),
    ("base", "scene as asked", ("base", "scene"), 0.90, True, ""),
    ("base", "style as asked", ("base", "style"), 0.90, True, ""),
    ("adapter", "faces above the impostor p99", (*_TRAINED, "photo", "above"), 0.95, True, ""),
    ("adapter", "faces within 10 % of their height of their place", (*_TRAINED, "photo", "near"), 0.95, True, ""),
    ("adapter", f"rank 1 of {PEOPLE}", (*_TRAINED, "photo", "rank_1"), 0.90, True, ""),
    ("adapter", "swapped", (*_TRAINED, "photo", "swapped"), 0.01, False, ""),
    ("adapter", "other styles: faces above the impostor p99", (*_TRAINED, "styled", "above"), 0.85, True, ""),
    ("adapter", "other styles: read off the picture", (*_TRAINED, "styled", "style"), 0.85, True, ""),
    ("adapter", "other styles: read off the face alone", (*_TRAINED, "styled", "face_style"), FACE_STYLE, True, ""),
)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(prog="make mini-report", description=__doc__)
    parser.add_argument("--images", type=Path, default=Path("docs/images"), help="where the pictures go")
    parser.add_argument("--card", type=Path, default=shipped.WEIGHTS / "README.md", help="the model card")
    given = parser.parse_args()
    with ended_in_a_line():
        report = measure()
        for line in table(report):
            print(line)
        write_images(given.images)
        with committed(given.card) as out:
            out.write(card(report).encode())
        with committed(given.card.with_name("report.json")) as out:
            out.write((json.dumps(report, indent=2) + "\n").encode())


def measure() -> dict[str, Any]:
    """Every number of the card, from the shipped files."""
    import torch

    from anyphoto_cli.mini.pretrain.clothes import measure_clothes
    from anyphoto_cli.mini.pretrain.face_report import measure_faces
    from anyphoto_cli.mini.pretrain.judge import measure_base, measure_vae
    from anyphoto_cli.mini.pretrain.person_report import measure_persons
    from anyphoto_cli.mini.pretrain.probe import measure_probe

    torch.set_num_threads(1)
    pipeline, pack = open_pipeline(), shipped.face_pack_folder()
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()} CPU, one thread, torch {torch.__version__}",
        "vae": measure_vae(pipeline.vae, pack),
        "faces": measure_faces(pack),
        "persons": measure_persons(shipped.person_detector()),
        "probe": measure_probe(shipped.probe_file(), pipeline.vae),
        "base": measure_base(pipeline, pack),
        "clothes": measure_clothes(pipeline, pack),
    }
    if (adapter := shipped.adapter_folder()) is not None:
        from anyphoto_cli.mini.proof import measure_adapter

        report["adapter"] = measure_adapter(adapter, pack)
    numbers = report["faces"]["recogniser"]["style_against_reference"]["photo"]
    numbers["gap"] = numbers["same_p05"] - numbers["impostor_p99"]
    return report


def open_pipeline() -> Any:
    """Stock FluxPipeline on the shipped folder, in float32."""
    import torch
    from diffusers import FluxPipeline

    return FluxPipeline.from_pretrained(shipped.base_folder(), torch_dtype=torch.float32)


def table(report: dict[str, Any]) -> list[str]:
    """Markdown: part, measure, reached with its interval where there is one, bar, met."""
    lines = ["| part | measure | reached | bar | |", "|---|---|---|---|---|"]
    for part, measure_, path, bar, more, unit in BARS:
        if path[0] not in report:
            continue
        among: Any = report
        for key in path[:-1]:
            among = among[key]
        value = among[path[-1]]
        told = f"{value:.{1 if unit else 4 if abs(value) > 0.98 else 3}f}{unit}" + _range(among, path[-1])
        lines.append(f"| {part} | {measure_} | {told} | {_judged(value, bar, more, unit)} |")
    return lines


def _judged(value: float, bar: float | None, more: bool, unit: str) -> str:
    """Two cells: the bar, and whether it is met; both empty where none was set."""
    if bar is None:
        return "|"
    met = value >= bar if more else value <= bar
    return f"{'≥' if more else '≤'} {bar:g}{unit} | {'met' if met else '**not met**'}"


def _range(numbers: dict[str, Any], key: str) -> str:
    """A number's interval, where it has one."""
    low, high = numbers.get("ranges", {}).get(key, (None, None))
    return "" if low is None else f" [{low:.3f}, {high:.3f}]"


def adapter_rows(report: dict[str, Any]) -> list[str]:
    """Markdown: what each row of the proof reached, photos and then the other styles."""
    keys = ("found", "cosine", "impostor_p99", "above", "near", "away", "rank_1", "swapped", "style", "face_style")
    lines = [
        "| | pictures | faces | found | cosine | impostor p99 | above it | within 10 % | off by | rank 1 | swapped "
        "| style | of the face |", f"|{'---|' * 13}",
    ]  # fmt: skip
    for kind, told in (("photo", ""), ("styled", ", other styles")):
        for name, row in report["adapter"].items():
            if kind not in row:
                continue
            lines.append(f"| {_named(name, row)}{told} | {_numbers(row[kind], keys)} |")
    for people, row in report["adapter"][TRAINED]["by_people"].items():
        lines.append(f"| {TRAINED}, {people} in a photo | {_numbers(row, keys)} |")
    lines += ["", "| `anyphoto bench` on the photos | Sim(Ref) | Sim(GT) | CP |", "|---|---|---|---|"]
    for name, row in report["adapter"].items():
        if "bench" in row:
            metrics = row["bench"]["subsets"]["all"]["metrics"]
            lines.append(f"| {_named(name, row)} | " + " | ".join(_with_half(metrics[key]) for key in BENCH) + " |")
    return lines


def _named(name: str, row: dict[str, Any]) -> str:
    """With its seeds, where it was measured on other sets than the rest."""
    return name if row["seeds"] == list(SEEDS) else f"{name} (seed {', '.join(map(str, row['seeds']))})"


def _numbers(row: dict[str, Any], keys: Sequence[str]) -> str:
    return " | ".join([str(row["pictures"]), str(row["faces"]), *(f"{row[key]:.3f}" for key in keys)])


def style_rows(report: dict[str, Any]) -> list[str]:
    """Markdown: per style what the trained adapter reached, and how often the style is read off the face alone."""
    faces = {"the photos": ORIGINAL, "untrained": UNTRAINED, "trained": TRAINED, f"strength {STRENGTH}": SOFTER}
    heads = " | ".join(_named(f"style of the face: {told}", report["adapter"][name]) for told, name in faces.items())
    lines = [f"| style | faces | above impostor p99 | rank 1 | {heads} |", f"|{'---|' * (4 + len(faces))}"]
    for style in STYLES[1:]:
        known = report["adapter"][TRAINED]["by_style"][style]
        read = [f"{report['adapter'][name]['by_style'][style]['face_style']:.3f}" for name in faces.values()]
        numbers = [str(known["faces"]), f"{known['above']:.3f}", f"{known['rank_1']:.3f}", *read]
        lines.append(f"| {style} | {' | '.join(numbers)} |")
    missed = [style for style in STYLES[1:]
              if report["adapter"][TRAINED]["by_style"][style]["face_style"] < FACE_STYLE]  # fmt: skip
    if missed:
        lines += ["", f"Below {FACE_STYLE:g}, which was asked of all styles together, read off the trained adapter's "
                  f"faces alone: **{', '.join(missed)}**."]  # fmt: skip
    return lines


def _with_half(metric: dict[str, Any]) -> str:
    """Mean and half of its 95 % interval."""
    return f"{metric['mean']:.3f} ± {(metric['high'] - metric['low']) / 2:.3f}"


BENCH = ("sim_ref", "sim_gt", "copy_paste")


def write_images(folder: Path) -> None:
    """The world, and what the base renders: a row of photos by number of people, one of styles, one of looks."""
    from anyphoto_cli.mini.photos import as_png
    from anyphoto_cli.mini.pretrain.judge import render
    from anyphoto_cli.mini.sheet import tiled, world_sheet

    with committed(folder / "mini_world.png") as out:
        out.write(as_png(world_sheet()))
    pictures = render(open_pipeline(), SAMPLES, seed=1)
    rows = [pictures[first : first + 6] for first in range(0, len(pictures), 6)]
    with committed(folder / "mini_samples.png") as out:
        out.write(as_png(tiled(rows)))


SAMPLES = [
    *(f"a photo of {who} {where}" for who, where in (
        ("a woman", "in a park"), ("a man", "on a beach"), ("two friends", "in a city"), ("two women", "in the snow"),
        ("three people", "in a library"), ("four people", "at the beach"),
    )),
    *(f"{style} two friends {where}" for style, where in (
        ("a photo of", "at night"), ("a pencil drawing of", "in a park"), ("a watercolour painting of", "by the sea"),
        ("pixel art of", "in a city"), ("a comic of", "in a living room"), ("an old sepia photo of", "in the snow"),
    )),
    "a photo of a woman with long red hair and black glasses in a park",
    "a photo of a bald man with a beard in a blue suit in a studio",
    "a photo of a woman with a black afro in a yellow dress on a beach",
    "a photo of a man with curly brown hair and a woman with blonde hair in a bun in a living room",
    "a photo of a man with spiky blue hair in a library",
    "a comic of three women on a city street",
]  # fmt: skip


def card(report: dict[str, Any]) -> str:
    """The model card: what these files are, how good, and where they end."""
    text = (Path(__file__).parent / "card.md").read_text()
    sizes = {part: sum(f.stat().st_size for f in (shipped.WEIGHTS / part).rglob("*")) / 1e6
             for part in ("base", "faces", "persons", "probe", "adapter")}  # fmt: skip
    told = ", ".join(f"{part} {size:.1f}" for part, size in sizes.items())
    styles = [
        "| style | VAE PSNR | VAE face cosine | faces found "
        "| known from one photo: accuracy, rank 1 of 300, above impostor p99 | style read off renders |",
        "|---|---|---|---|---|---|",
    ]
    for style, found in report["faces"]["detector"]["by_style"].items():
        vae = report["vae"]["by_style"][style]
        who = report["faces"]["recogniser"]["style_against_reference"][style]
        known = f"{who['accuracy']:.3f}, {who['rank_1']:.2f}, {who['same_above_p99']:.3f}"
        rendered = report["base"]["by_style"][style]
        styles.append(
            f"| {style} | {vae['psnr']:.1f} dB | {vae['face_cosine']:.3f} | {found['recall']:.3f} | {known} "
            f"| {rendered:.2f} |"
        )
    return text.format(
        date=report["date"], machine=report["machine"], table="\n".join(table(report)), styles="\n".join(styles),
        adapter=_adapter_part(report), sizes=told, total=f"{sum(sizes.values()):.1f}",
        pictures=report["base"]["pictures"], people=_by_people(report["base"]), **_clothes(report["clothes"]),
    )  # fmt: skip


def _by_people(base: dict[str, Any]) -> str:
    """One sentence: how the renders' count compares with the drawn pictures' own."""
    if "people_drawn" not in base:
        return ""
    rows = [f"{n}: {base['by_people'][n]:.2f} of {base['people_drawn'][n]:.2f}" for n in base["people_drawn"]]
    return (
        f"As many faces as people, by their number, beside what drawn pictures themselves reach, where in groups one\n"
        f"sometimes hides another: {', '.join(rows)}.\n"
    )


def _clothes(told: dict[str, int]) -> dict[str, str]:
    """What the card's sentence about clothes wants."""
    return {"clothes": f"{told['right']} of {told['asked']}", "by_chance": f"{told['asked'] / told['colours']:.0f}"}


def _adapter_part(report: dict[str, Any]) -> str:
    """Nothing where no adapter is shipped."""
    if "adapter" not in report:
        return ""
    from anyphoto_cli.mini.pretrain.adapter import SHARE

    text = (Path(__file__).parent / "card_adapter.md").read_text()
    decoded = report["probe"]["decoded_face_style"]
    original = report["adapter"][ORIGINAL]
    return text.format(
        rows="\n".join(adapter_rows(report)), styles="\n".join(style_rows(report)), decoded=decoded, share=SHARE,
        strength=STRENGTH, seeds=" and ".join(map(str, SEEDS)), drawn=len(SEEDS) * PHOTOS,
        kept=original["photo"]["pictures"], faces=original["photo"]["faces"],
        styled_drawn=len(SEEDS) * STYLED * len(STYLES[1:]), styled_kept=original["styled"]["pictures"],
        styled_faces=original["styled"]["faces"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
