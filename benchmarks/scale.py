"""Scale: how long ranks wait for each other, simulated with the real planner; and the whole run, computed.

python -m benchmarks scale

The face sizes are those of the small world and, where the shared test data is there, of its group photos. Times of GPUs
follow from operations and an assumed share of the data sheet's rate; the pages say so.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.preprocess.estimate import CAPTION_S
from anyphoto_cli.train.sampler import Plan, straggling

LIMITS = "ranks at most 1.02 x (64) and 1.05 x (1024) of perfect balance; the paper's run took 5 days on 64 H20"
Table = list[dict[str, object]]
SIDE, TEXT = 512, 512
SHARED = (SIDE // 16) ** 2 + TEXT
STEPS, TRAINED = 200_000, 464e6
H100, MFU = 989e12, 0.5
"""bfloat16 rate of the data sheet, and the share of it that is the goal. Assumed."""

DECODE_S, MODELS_S, BESIDE_S, MATCH_S = 7.5e-3, 1.9e-3, 27.5e-3, 19.4e-3
"""A photo: decoded by a core; YOLO11x, detector and recogniser on a GPU (both published rates); the detection stage
beside its models, decoding among it, and matching with 3,000 identities (both measured on a core, see its page).
"""

MEASURED = 0.418
"""Seconds of an H200 for such a step, eager, random weights: docs/performance/train_gpu.md."""
MEASURED_TITLE = f"200,000 steps of one sample a GPU, 512 px, {MEASURED} s as one H200 took, before any communication"


def tokens(sides: np.ndarray) -> int:
    """Location tokens of faces of these sides (px): each the cells of 16 px that its square can touch, on average."""
    return int(np.ceil(sides / 16 + 0.5).clip(1, None).astype(int).__pow__(2).sum())


def drawn_mix(count: int = 4000) -> np.ndarray:
    """[count] location tokens of the small world's groups at the training size; 18 % margin as the patch has."""
    from anyphoto_cli.mini.picture import heads_of

    groups = [heads_of(number) for number in range(count)]
    return np.array([tokens(np.array([1.5 * head.scale / 128 * SIDE for head in heads])) for heads in groups])


def photo_mix() -> np.ndarray | None:
    """[photos x crops] of real group photos: each face a detector finds, the photo's short side made the training's."""
    folder = Path(os.environ.get("ANYPHOTO_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "testdata"))
    if not (folder / "photos" / "groups").is_dir():
        return None
    import cv2

    from anyphoto_cli.faces.packs import open_faces

    pack = open_faces(folder / "models" / "insightface" / "models" / "mbf512_scrfd2.5g")
    found = []
    for file in sorted((folder / "photos").rglob("*.jpg")):
        picture = cv2.imread(str(file))
        if picture is None:
            continue
        faces = pack.detect([picture[..., ::-1].copy()])[0][:8]
        sides = np.array([max(face.box.x1 - face.box.x0, face.box.y1 - face.box.y0) for face in faces])
        if len(sides):
            found.append(tokens(sides / min(picture.shape[:2]) * SIDE))
    return np.array(found)


def wide_mix(count: int = 20_000) -> np.ndarray:
    """1 to 4 people, each of 40 to 300 tokens or so: a dataset less even than either."""
    rng = np.random.default_rng(0)
    people = rng.choice([1, 2, 3, 4], count, p=[0.2, 0.4, 0.25, 0.15])
    return (people * np.exp(rng.normal(4.6, 0.6, count))).astype(int)


def waiting_rows() -> Table:
    """Mean over an epoch of the slowest rank's cost over the mean, one sample a rank."""
    mixes: dict[str, Any] = {
        "small world's groups": drawn_mix(), "real photos of the test data": photo_mix(),
        "an assumed wide mix": wide_mix(),
    }  # fmt: skip
    rows: Table = []
    for name, mix in mixes.items():
        if mix is None:
            continue
        for world in (8, 64, 512, 1024):
            costs = np.random.default_rng(0).choice(mix, world * 200).astype(np.int32)
            plan = Plan(costs, 1, world, 0)
            began = time.perf_counter()
            planned = plan.epoch(0)
            seconds = time.perf_counter() - began
            chance = np.random.default_rng(1).permutation(len(costs)).reshape(-1, world, 1)
            rows.append({
                "faces of": name, "ranks": world, "tokens, mean and most": f"{mix.mean():.0f}, {mix.max()}",
                "shuffled": round(straggling(chance, costs, SHARED), 3),
                "planned": round(straggling(planned, costs, SHARED), 3),
                "ms to plan an epoch": round(seconds * 1000, 1), "samples": len(costs),
            })  # fmt: skip
    return rows


def step_tera(located: int = 144) -> float:
    """10^12 operations of a training step, one sample at 512 px with two faces: forward and activations' gradients."""
    width, blocks = 3072, 57
    pairs = SHARED * (SHARED + located) + located * (SHARED + located / 2)
    return 2 * blocks * (24 * width**2 * (SHARED + located) + 4 * width * pairs) / 1e12


def run_rows(waiting: Table) -> Table:
    """200,000 steps of one sample a GPU at 512 px: computed. waiting: the simulated one."""
    planned = {row["ranks"]: float(str(row["planned"])) for row in waiting}
    tera, gradients = step_tera(), TRAINED * 4
    rows: Table = []
    for world in (8, 64, 512):
        compute = tera * 1e12 / (H100 * MFU)
        sent = 2 * gradients * (world - 1) / world
        nvlink, network = sent / 450e9, sent / 50e9
        exchange = nvlink if world <= 8 else network
        hidden = max(exchange - compute / 2, 0)  # the exchange runs beside the backward pass
        step = compute * planned[world] + hidden
        rows.append({
            "GPUs": world, "samples": f"{STEPS * world / 1e6:.1f} M", "ms, compute": round(compute * 1000),
            "ms, exchange of gradients": round(exchange * 1000), "of it not hidden": round(hidden * 1000),
            "ms, step": round(step * 1000), "hours": round(STEPS * step / 3600, 1),
            "GPU-hours": round(STEPS * step / 3600 * world), "samples/s": round(world / step),
            "GB/s read from shards": round(world / step * 240e3 / 1e9, 2),
        })  # fmt: skip
    return rows


def measured_rows() -> Table:
    """The same steps by the seconds that one card took for one: nothing is sent in them, and no rank waits."""
    rows: Table = []
    for world in (8, 64, 512):
        hours = STEPS * MEASURED / 3600
        rows.append({
            "GPUs": world, "ms, step": round(MEASURED * 1000), "hours": round(hours, 1),
            "GPU-hours": round(hours * world),
        })  # fmt: skip
    return rows


def preprocess_rows() -> Table:
    """Two million and a billion photos, one worker a GPU: it waits while its process decodes and crops."""
    rows: Table = []
    for photos in (2e6, 1e9):
        rows.append({
            "photos": f"{photos:,.0f}", "decoding, core-hours": f"{photos * DECODE_S / 3600:,.0f}",
            "YOLO + faces, GPU-hours of one worker": f"{photos * (MODELS_S + BESIDE_S) / 3600:,.0f}",
            "of it in the models": f"{photos * MODELS_S / 3600:,.0f}",
            "matching, core-hours": f"{photos * MATCH_S / 3600:,.0f}",
            "captions by 72B, GPU-hours": f"{photos * CAPTION_S['72B'] / 3600:,.0f}",
            "captions by 7B, GPU-hours": f"{photos * CAPTION_S['7B'] / 3600:,.0f}",
            "shards of 240 KB a sample": f"{photos * 240e3 / 1e12:,.1f} TB",
        })  # fmt: skip
    return rows


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    waiting = waiting_rows()
    rate = f"H100 at an assumed {MFU:.0%} of {H100 / 1e12:.0f} TFLOP/s"
    tables = {
        "Waiting for the slowest rank (simulated)": waiting,
        MEASURED_TITLE: measured_rows(),
        f"200,000 steps of one sample a GPU, 512 px, {rate} (computed)": run_rows(waiting),
        "Preprocessing (computed)": preprocess_rows(),
    }  # fmt: skip
    return "; simulated and computed, no GPU.", tables
