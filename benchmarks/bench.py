"""`bench score` against a plain loop over cases, against itself the second time, and on ten thousand cases.

The loop loads every model once and takes pictures one by one, as the reference evaluator does: `FaceAnalysis.get`,
CLIP, no memory. Photos and face models are real where the shared test data lies beside the checkout or in its variable,
else drawn; CLIP is a ViT-B/16 of full size with random weights.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyphoto_cli.bench.cases import Cases, read_cases
from anyphoto_cli.bench.evaluation import evaluate
from anyphoto_cli.bench.models import open_models
from anyphoto_cli.bench.scores import score_faces
from anyphoto_cli.config.bench import BenchConfig

ROOT = Path(__file__).resolve().parents[1]
LIMITS = "at least 2 x a plain loop on a CPU; the second run at least 20 x the first; memory flat at 10,000 cases"
CASES, ROUNDS = 16, 3


def clip_folder(folder: Path) -> Path:
    """CLIP ViT-B/16 as transformers saves it: random weights, a vocabulary of bytes."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    from anyphoto_cli.model.tiny_random import _byte_alphabet

    letters = _byte_alphabet()
    words = {name: k for k, name in enumerate([*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>",
                                               "<|endoftext|>"])}  # fmt: skip
    (folder / "clip").mkdir(parents=True)
    (folder / "clip" / "vocab.json").write_text(json.dumps(words))
    (folder / "clip" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "clip" / "vocab.json"), str(folder / "clip" / "merges.txt"))
    tokenizer.save_pretrained(folder / "clip")
    CLIPImageProcessor().save_pretrained(folder / "clip")
    CLIPModel(CLIPConfig(vision_config={"patch_size": 16})).save_pretrained(folder / "clip")
    return folder / "clip"


def made(folder: Path) -> tuple[Path, str]:
    """(a JSONL of CASES cases whose every picture is another file, the face pack)."""
    shared = Path(os.environ.get("ANYPHOTO_TESTDATA", ROOT.parent / "shared" / "testdata"))
    if shared.is_dir():
        pack = str(shared / "models" / "insightface" / "models" / "mbf512_scrfd2.5g")
        photos = sorted((shared / "photos" / "groups").iterdir())
        people = sorted(file for file in (shared / "photos" / "refs").rglob("*") if file.is_file())
    else:
        from anyphoto_cli.mini.photos import PhotosConfig, draw_photos

        draw_photos(folder / "world", PhotosConfig(people=8, groups=6, references=1))
        pack = "mini"
        photos, people = sorted((folder / "world/photos").iterdir()), sorted((folder / "world/refs").rglob("*.png"))
    lines = []
    (folder / "other").mkdir()
    for k in range(CASES):
        photo = Image.open(photos[k % len(photos)]).convert("RGB")
        names = {"gt": _saved(photo, folder / f"{k}_gt.jpg", k), "result": _saved(photo, folder / f"{k}.jpg", k + 500)}
        _saved(photo, folder / "other" / f"{k}.jpg", k + 900)
        references = [
            _saved(Image.open(people[(2 * k + j) % len(people)]).convert("RGB"), folder / f"{k}_{j}.jpg", k)
            for j in range(2)
        ]
        lines.append({"id": str(k), "prompt": f"two people, picture {k}", "references": references, **names})
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "cases.jsonl", pack


def _saved(picture: Image.Image, file: Path, salt: int) -> str:
    """At most 1024 px, one grey pixel of its own: the same work, other bytes."""
    picture.thumbnail((1024, 1024))
    picture.putpixel((0, 0), (salt % 256, salt // 256, 7))
    picture.save(file, quality=95)
    return file.name


def plain(cases: Cases, pack: str, clip: Path) -> float:
    """Seconds of the loop; models are opened before the clock starts."""
    import torch
    from insightface.app import FaceAnalysis
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    from anyphoto_cli.faces.packs import find_pack

    home = Path(tempfile.mkdtemp())
    shutil.copytree(find_pack(pack), home / "models" / "pack")
    faces = FaceAnalysis("pack", root=str(home), providers=["CPUExecutionProvider"])
    faces.prepare(ctx_id=-1, det_thresh=0.45, det_size=(640, 640))
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    processor = CLIPImageProcessor.from_pretrained(clip)

    def seen(source: Any) -> tuple[Any, Any]:
        picture = np.asarray(Image.open(io.BytesIO(source.read())).convert("RGB"))
        return picture, [face.embedding for face in faces.get(picture[..., ::-1].copy())]

    def features(picture: Any) -> Any:
        found = model.get_image_features(pixel_values=processor(images=[picture], return_tensors="pt").pixel_values)
        return torch.nn.functional.normalize(found.pooler_output, dim=1)

    began = time.perf_counter()
    with torch.inference_mode():
        for case in cases.cases:
            (result, gen), (original, gt) = seen(case.result), seen(case.gt)
            refs = [rows[0] if rows else None for _, rows in map(seen, case.references)]
            score_faces(np.array(gen).reshape(-1, 512), np.array(gt).reshape(-1, 512), refs)
            one = features(result)
            text = model.get_text_features(**tokenizer([case.prompt], return_tensors="pt", truncation=True))
            (one @ features(original).T, one @ torch.nn.functional.normalize(text.pooler_output, dim=1).T)
    took = time.perf_counter() - began
    shutil.rmtree(home)
    return took


def ours(cases: Cases, config: BenchConfig, workers: int) -> tuple[float, float]:
    """Seconds of a first run, its workers' start included, and of the same again."""
    out = Path(tempfile.mkdtemp())
    models = open_models(config, out / "seen")
    times = []
    for _ in range(2):
        began = time.perf_counter()
        evaluate(cases, None, out, config, models, workers=workers, cache=out / "seen")
        times.append(time.perf_counter() - began)
    shutil.rmtree(out)
    return times[0], times[1]


def another_system(cases: Cases, config: BenchConfig, results: Path) -> float:
    """Seconds for other pictures of the same cases: originals, references and prompts are remembered."""
    out = Path(tempfile.mkdtemp())
    models = open_models(config, out / "seen")
    evaluate(cases, None, out / "a", config, models)
    began = time.perf_counter()
    evaluate(cases, results, out / "b", config, models)
    took = time.perf_counter() - began
    shutil.rmtree(out)
    return took


def speed() -> list[dict[str, object]]:
    """A table: the loop, ours with one and with two processes, ours the second time."""
    with tempfile.TemporaryDirectory() as name:
        file, pack = made(Path(name))
        cases, clip = read_cases(file), clip_folder(Path(name))
        config = BenchConfig(face_packs=(pack,), clip=str(clip), batch=4)
        rounds: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            rounds.setdefault("plain loop, pictures one by one", []).append(plain(cases, pack, clip))
            for workers in (1, 2):
                first, second = ours(cases, config, workers)
                rounds.setdefault(f"anyphoto, {workers} process{'es' * (workers > 1)}", []).append(first)
            rounds.setdefault("anyphoto, the same command again", []).append(second)
            half = config.model_copy(update={"precision": "bfloat16"})
            rounds.setdefault("anyphoto, 1 process, --precision bfloat16", []).append(ours(cases, half, 1)[0])
            rounds.setdefault("anyphoto, the next system on the same cases", []).append(
                another_system(cases, config, file.parent / "other")
            )
    medians = {what: statistics.median(values) for what, values in rounds.items()}
    peer = medians["plain loop, pictures one by one"]
    return [
        {"what": what, "cases": CASES, "seconds": round(value, 2), "times the loop's speed": round(peer / value, 2)}
        for what, value in medians.items()
    ]


def memory() -> list[dict[str, object]]:
    """Peak memory of processes that score 1,000 and 10,000 cases."""
    rows = []
    for count in (1_000, 10_000):
        told = subprocess.run([sys.executable, "-m", "benchmarks.bench", str(count)], capture_output=True, text=True,
                              check=True, cwd=ROOT)  # fmt: skip
        rows.append(json.loads(told.stdout.splitlines()[-1]))
    return rows


def _many(count: int) -> dict[str, object]:
    from anyphoto_cli.bench.report import write_report
    from anyphoto_cli.bench.results import all_lines
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos

    with tempfile.TemporaryDirectory() as name:
        world = draw_photos(
            Path(name) / "world", PhotosConfig(people=8, groups=25, references=1, held_out=True, layouts=True)
        ).folder
        lines = [json.loads(line) for line in (world / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
        many = [lines[k % 25] | {"id": str(k), "result": lines[k % 25]["gt"]} for k in range(count)]
        (world / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in many))
        cases, config = read_cases(world / "many.jsonl"), BenchConfig(face_packs=("mini",), clip=None)
        models, began = open_models(config, world / "seen"), time.perf_counter()
        summary = evaluate(cases, None, world / "out", config, models)
        scored = time.perf_counter()
        write_report(world / "report.html", "many", cases.cases, None, all_lines(world / "out"), summary)
        page = (world / "report.html").stat().st_size
    return {
        "cases": count, "seconds": round(scored - began, 1), "report, seconds": round(time.perf_counter() - scored, 1),
        "report, MB": round(page / 1e6, 1),
        "peak memory, MB": _peak_mb(),
    }  # fmt: skip


def _peak_mb() -> int:
    """Of this process alone: what getrusage tells is never less than the parent had at the fork."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024)


def measure() -> dict[str, list[dict[str, object]]]:
    """All tables."""
    return {"Speed": speed(), "Many cases (drawn, faces remembered)": memory()}


if __name__ == "__main__":
    print(json.dumps(_many(int(sys.argv[1]))))
