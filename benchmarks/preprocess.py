"""`preprocess` against insightface's own loop, its models alone, matching photo by photo, and itself on more photos.

Photos and face models are real where the shared test data lies beside the checkout or in ANYPHOTO_TESTDATA, else drawn.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.load import load_config
from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.data.sources import PhotoInput, list_photos
from anyphoto_cli.preprocess import run as preprocess
from anyphoto_cli.preprocess.detecting import detect_photos, open_detectors
from anyphoto_cli.preprocess.exclusions import NOTHING
from anyphoto_cli.preprocess.face_detection import embed_all, find_all_faces
from anyphoto_cli.preprocess.identity_matching import KnownIdentities, greedy_pairs, known_identities
from anyphoto_cli.preprocess.loading import Unreadable, load_photo
from anyphoto_cli.preprocess.matching import Bank, match_photos
from anyphoto_cli.runtime.local_executor import one_thread, run_local

ROOT = Path(__file__).resolve().parents[1]
LIMITS = (
    "2 workers at least 1.9 x `FaceAnalysis.get` in a loop, 2 cores each; at least 0.9 of the detection stage's time "
    "spent inside the models; cost per photo flat; matching at least 10 x photo by photo"
)


@dataclass(frozen=True)
class Data:
    """photos, the face pack's folder, the person model, and the settings that fit them."""

    name: str
    photos: list[PhotoInput]
    pack: Path
    config: PreprocessConfig


def data(copies: int) -> Data:
    """`copies` times the same few photos: the cost of one photo is what is asked for."""
    shared = Path(os.environ.get("ANYPHOTO_TESTDATA", ROOT.parent / "shared" / "testdata"))
    if shared.is_dir():
        pack = shared / "models" / "insightface" / "models" / "mbf512_scrfd2.5g"
        person = shared / "models" / "yolo" / "yolo11n_int8.onnx"
        config = PreprocessConfig(person_model=str(person), face_pack=str(pack), captioner="template")
        photos = [*list_photos(shared / "photos" / "groups")]
        return Data("real photos, SCRFD-2.5G + MobileFaceNet", photos * copies, pack, config)
    from anyphoto_cli.mini.shipped import face_pack_folder

    world = drawn(40)
    config = load_config(PreprocessConfig, world / "preprocess.yaml", {}, [])
    return Data("drawn photos, mini pack", [*list_photos(world / "photos")] * copies, face_pack_folder(), config)


def drawn(count: int) -> Path:
    """A folder of drawn photos, made once a process."""
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos

    folder = Path(tempfile.mkdtemp(prefix="anyphoto-bench-")) / "world"
    return draw_photos(folder, PhotosConfig(people=20, groups=count, references=2)).folder


@dataclass(frozen=True)
class FacesJob:
    """Decode, find, crop and embed: what `FaceAnalysis.get` does with a picture that was read for it."""

    photos: tuple[PhotoInput, ...]
    pack: Path
    size: int

    def open(self, worker: int) -> Any:
        """The face models, one thread each."""
        from anyphoto_cli.faces.packs import open_faces

        one_thread()
        return open_faces(self.pack, threads=1)

    def run(self, opened: Any, number: int, starting: Callable[[int], None], skip: frozenset[int] = frozenset()) -> int:
        """-> faces."""
        loaded = [load_photo(photo, 2048) for photo in self.photos[number * self.size : (number + 1) * self.size]]
        pictures = [photo.pixels for photo in loaded if not isinstance(photo, Unreadable)]
        faces = find_all_faces(pictures, [[] for _ in pictures], opened)
        return len(embed_all(pictures, faces, opened))


def ours(made: Data, workers: int) -> tuple[float, int]:
    """(seconds, faces), start of the workers not counted: a run has thousands of photos for each."""
    size = 2
    pieces = list(range(-(-len(made.photos) // size)))
    began, faces = 0.0, 0
    job = FacesJob(tuple(made.photos), made.pack, size)
    for k, (_, found) in enumerate(run_local(job, [*pieces[:workers], *pieces], workers)):
        if k + 1 == workers:  # each has done one piece: all are warm
            began = time.perf_counter()
        elif k >= workers:
            faces += found
    return time.perf_counter() - began, faces


def insightface_loop(made: Data, **prepared: Any) -> tuple[float, int]:
    """(seconds, faces) of the loop that its README shows, with all cores to its models. prepared: for `prepare`."""
    import contextlib
    import io

    import cv2
    from insightface.app import FaceAnalysis

    with contextlib.redirect_stdout(io.StringIO()):
        analysis = FaceAnalysis(name=str(made.pack), providers=["CPUExecutionProvider"])
        analysis.prepare(ctx_id=-1, **prepared)
    cv2.setNumThreads(-1)
    files = [photo.file for photo in made.photos]
    analysis.get(cv2.imread(files[0]))
    began, faces = time.perf_counter(), 0
    for file in files:
        faces += len(analysis.get(cv2.imread(file)))
    return time.perf_counter() - began, faces


def against_insightface(rounds: int, copies: int) -> list[dict[str, object]]:
    """Interleaved rounds; the ratio of each round."""
    made = data(copies)
    cases: dict[str, Callable[[], tuple[float, int]]] = {
        "FaceAnalysis.get in a loop, det_size 640": lambda: insightface_loop(made, det_size=(640, 640)),
        "FaceAnalysis.get in a loop, as it comes": lambda: insightface_loop(made),
        "anyphoto, 1 worker": lambda: ours(made, 1),
        "anyphoto, 2 workers": lambda: ours(made, 2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    counts = {}
    for _ in range(rounds):
        for name, case in cases.items():
            taken, counts[name] = case()
            seconds[name].append(taken)
    loop = seconds[next(iter(cases))]
    return [
        {
            "case": name,
            "faces": counts[name],
            "faces_per_s": round(counts[name] / statistics.median(taken), 1),
            "photos_per_s": round(len(made.photos) / statistics.median(taken), 1),
            "ratio_to_loop": round(statistics.median(a / b for a, b in zip(loop, taken, strict=True)), 2),
            "data": made.name,
        }
        for name, taken in seconds.items()
    ]


def inside_the_models(copies: int) -> list[dict[str, object]]:
    """What share of the detection stage's time (persons, faces, embeddings, decoding, flags) the models take."""
    import onnxruntime

    one_thread()
    made = data(copies)
    models = open_detectors(made.config, "cpu", threads=1)
    detect_photos(made.photos[:2], models, made.config)
    inside = 0.0
    plain = onnxruntime.InferenceSession.run

    def timed(session: Any, *arguments: Any, **more: Any) -> Any:
        nonlocal inside
        began = time.perf_counter()
        try:
            return plain(session, *arguments, **more)
        finally:
            inside += time.perf_counter() - began

    onnxruntime.InferenceSession.run = timed
    try:
        began = time.perf_counter()
        rows, _ = detect_photos(made.photos, models, made.config)
        whole = time.perf_counter() - began
    finally:
        onnxruntime.InferenceSession.run = plain
    return [
        {
            "case": "detection stage, one thread", "photos": len(rows), "seconds": round(whole, 2),
            "in_models_s": round(inside, 2), "share_in_models": round(inside / whole, 2), "data": made.name,
        }
    ]  # fmt: skip


def matching(rounds: int, photos: int = 256, identities: int = 3000, references: int = 32) -> list[dict[str, object]]:
    """A chunk of photos of three faces each, against a bank of MultiID-2M's size; the ratio of each round."""
    rng = np.random.default_rng(0)
    people = {f"{k:05d}": _directions(rng, references) for k in range(identities)}
    known = known_identities(people, {})
    embeddings = _directions(rng, 3 * photos)
    faces = [{"box": [200.0 * k, 0.0, 200.0 * k + 100, 100.0], "flags": []} for k in range(3)]
    row = {"problem": "", "url": "", "known": [], "width": 900, "height": 900, "faces": faces}
    listed = [PhotoInput(f"{n}.jpg", "") for n in range(photos)]
    bank, config = Bank(known, frozenset(known.names)), PreprocessConfig()
    taken: dict[str, list[float]] = {"photo by photo, in float64": [], "anyphoto": []}
    for _ in range(rounds):
        began = time.perf_counter()
        for n in range(2):
            greedy_pairs(_literally(embeddings[3 * n : 3 * n + 3], known, config.centre_weight), config.match_threshold)
        taken["photo by photo, in float64"].append((time.perf_counter() - began) / 2)
        began = time.perf_counter()
        match_photos(listed, [row] * photos, embeddings, bank, NOTHING, config)
        taken["anyphoto"].append((time.perf_counter() - began) / photos)
    literal = taken["photo by photo, in float64"]
    return [
        {
            "case": name, "identities": identities, "references": identities * references,
            "ms_per_photo": round(1000 * statistics.median(seconds), 2),
            "hours_for_2_million": round(2e6 * statistics.median(seconds) / 3600, 1),
            "ratio": round(statistics.median(a / b for a, b in zip(literal, seconds, strict=True)), 1),
        }
        for name, seconds in taken.items()
    ]  # fmt: skip


def _directions(rng: np.random.Generator, count: int) -> Any:
    rows = rng.standard_normal((count, 512)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _literally(embeddings: Any, known: KnownIdentities, centre_weight: float) -> Any:
    """[f, identities]: as one would write it down."""
    to_centres = embeddings.astype(np.float64) @ known.centres.T.astype(np.float64)
    best = np.full_like(to_centres, -1.0)
    to_members = embeddings.astype(np.float64) @ known.members.T.astype(np.float64)
    for row, values in zip(best, to_members, strict=True):
        np.maximum.at(row, known.of_member, values)
    return centre_weight * to_centres + (1 - centre_weight) * best


def growth(counts: tuple[int, ...]) -> list[dict[str, object]]:
    """Whole runs on more and more drawn photos (the same hundred, linked), 2 workers."""
    world, rows = drawn(100), []
    settings = {"near_duplicates": -1}
    config = load_config(PreprocessConfig, world / "preprocess.yaml", settings, [])
    for count in counts:
        folder = world.parent / f"{count}"
        (folder / "photos").mkdir(parents=True)
        for n in range(count):
            (folder / "photos" / f"{n:06d}.png").symlink_to(world / "photos" / f"{n % 100 + 1:06d}.png")
        began = time.perf_counter()
        preprocess(folder / "photos", folder / "out", world / "refs", config, RunOptions(workers=2))
        taken = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        rows.append({
            "photos": count, "seconds": round(taken, 1), "ms_per_photo": round(1000 * taken / count, 1),
            "peak_rss_mb": round(peak), "peak_rss_worker_mb": round(worker),
        })  # fmt: skip
        shutil.rmtree(folder)
    return rows


def measure(
    rounds: int = 5, copies: int = 8, counts: tuple[int, ...] = (100, 1000, 10_000)
) -> dict[str, list[dict[str, object]]]:
    """Every table by its title. Growth comes first: peak memory never falls again within a process."""
    np.random.default_rng(0)
    return {
        "Cost per photo": growth(counts),
        "Faces, against insightface's own loop": against_insightface(rounds, copies),
        "Time inside the models": inside_the_models(copies),
        "Matching": matching(rounds),
    }
