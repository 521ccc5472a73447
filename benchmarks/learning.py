"""What training gains in the small world: faces of held-out people, rendered without, with an untrained and with a
trained adapter, against their references and against the places asked for.

anyphoto mini photos --people 60 --groups 80 --held-out --layouts -o held_out
python -m benchmarks.learning RUN --layouts held_out/layouts [--count 60] [-o numbers.json] [--sheet faces.png]
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.generate import prepare_faces, render
from anyphoto_cli.layout.schema import load_layout
from anyphoto_cli.mini.proof import save_untrained
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.train.validation import score_faces


def measured(files: list[Path], pictures: Path, analyzer: FaceAnalyzer) -> dict[str, float]:
    """at_place: cosine of what stands at the given landmarks, no detector asked. found, cosine, error: of faces that a
    detector finds within a face's size of their place. rank_1: whose reference of all layouts' people is nearest.
    """
    at_place, hits, bank, owners, embeddings = [], [], {}, [], []
    scores = []
    for file in files:
        layout = load_layout(file)
        conditions = prepare_faces(layout, analyzer)
        [picture] = sorted(pictures.glob(f"{file.stem}_seed*.png"))
        pixels = read_picture(picture)
        crops = np.stack([norm_crop(pixels, np.asarray(face.place)) for face in layout.faces])
        for face, wanted, row in zip(layout.faces, conditions.embeddings, analyzer.embed(crops), strict=True):
            bank[face.name] = wanted
            owners.append(face.name)
            embeddings.append(row)
            at_place.append(float(row @ wanted))
        scores += score_faces(pixels, layout, conditions, analyzer)
    names, known = list(bank), np.stack(list(bank.values()))
    hits = [names[int(k)] == owner for k, owner in zip((np.stack(embeddings) @ known.T).argmax(1), owners, strict=True)]
    seen = [score for score in scores if np.isfinite(score.cosine)]
    return {
        "faces": len(scores), "at_place": float(np.mean(at_place)),
        "at_place_se": float(np.std(at_place) / len(hits) ** 0.5),
        "rank_1": float(np.mean(hits)), "among": len(names), "found": len(seen) / len(scores),
        "cosine": float(np.mean([score.cosine for score in seen])) if seen else float("nan"),
        "error": float(np.mean([score.error for score in seen])) if seen else float("nan"),
    }  # fmt: skip


def sheet(files: list[Path], folders: list[Path], out: Path, scale: int = 2) -> None:
    """A row a layout: the picture of each folder, then the references. Drawn pictures are enlarged, sharp."""
    from PIL import Image

    def shown(file: Path, side: int) -> Image.Image:
        return Image.fromarray(read_picture(file)).resize((side, side), Image.Resampling.NEAREST)

    side, small, gap = 128 * scale, 64 * scale, 4
    width = len(folders) * (side + gap) + 2 * (small + gap)
    page = Image.new("RGB", (width, len(files) * (side + gap)), "white")
    for row, file in enumerate(files):
        layout, top = load_layout(file), row * (side + gap)
        for column, folder in enumerate(folders):
            [picture] = sorted(folder.glob(f"{file.stem}_seed*.png"))
            page.paste(shown(picture, side), (column * (side + gap), top))
        for k in range(len(layout.faces)):
            left = len(folders) * (side + gap) + k % 2 * (small + gap)
            page.paste(shown(layout.reference_path(k), small), (left, top + k // 2 * (small + gap)))
    page.save(out, optimize=True)


def main() -> None:
    """Render all three, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of anyphoto train")
    parser.add_argument("--layouts", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--sheet", type=Path, help="a PNG: untrained, trained, the photo, the references")
    given = parser.parse_args()
    config = TrainConfig.model_validate_json((given.run / "training.json").read_text())
    files = sorted(given.layouts.glob("*.json"))[: given.count]
    analyzer = open_faces(config.face_pack or "mini")
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapters = {
            "location tokens, no adapter": None,
            "untrained adapter": save_untrained(given.run / "adapter", folder / "untrained"),
            "trained": given.run / "adapter",
        }  # fmt: skip
        originals = folder / "originals"
        originals.mkdir()
        for file in files:
            photo = given.layouts.parent / "photos" / f"{file.stem}.png"
            shutil.copyfile(photo, originals / f"{file.stem}_seed0.png")
        rows["the photo itself"] = measured(files, originals, analyzer)
        for name, adapter in adapters.items():
            asked = GenerateConfig(model=config.model, adapter=str(adapter) if adapter else "none")
            out = folder / name
            render([*files], out, asked)
            rows[name] = measured(files, out, analyzer)
            if given.out:
                shutil.copytree(out, given.out.parent / name.replace(" ", "_"), dirs_exist_ok=True)
        if given.sheet:
            sheet(files[:6], [folder / "untrained adapter", folder / "trained", originals], given.sheet)
    print("| | faces | cosine at the place | rank 1 | found | cosine of found | place error |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['faces']} | {row['at_place']:.3f} ± {row['at_place_se']:.3f} | {row['rank_1']:.2f} of "
              f"{row['among']} | {row['found']:.2f} | {row['cosine']:.3f} | {row['error']:.3f} |")  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps({"date": str(datetime.date.today()), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
