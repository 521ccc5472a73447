"""How good a face pack is on drawn people it never saw, measured through insightface itself."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.faces.insightface_pack import unit_length
from anyphoto_cli.mini.pretrain.face_pictures import draw_empty
from anyphoto_cli.mini.types import HELD_OUT, MAX_PEOPLE, STYLES, DrawnPerson, DrawnPicture
from anyphoto_cli.types import Box, Embeddings, Picture

WIDTHS = (128, 160, 192)
HEIGHT = 128
COUNTS_FROM = 0.5
"""A face less visible than this is neither a hit nor a miss."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A face that was found. error: mean distance of the five landmarks in shares of the face box's height."""

    identity: int
    style: str
    embedding: NDArray[np.float32]
    error: float


@dataclass
class Tally:
    """What a detector did: faces shown, found, and answers that are no face."""

    shown: int = 0
    found: int = 0
    wrong: int = 0

    def add(self, other: Tally) -> None:
        """Both together."""
        self.shown += other.shown
        self.found += other.found
        self.wrong += other.wrong

    def shares(self) -> dict[str, float]:
        """recall and precision."""
        recall, precision = self.found / max(self.shown, 1), self.found / max(self.found + self.wrong, 1)
        return {"recall": recall, "precision": precision, "faces": float(self.shown)}


def open_analysis(pack_dir: Path) -> Any:
    """Stock insightface on the folder."""
    from insightface.app import FaceAnalysis

    with contextlib.redirect_stdout(io.StringIO()):
        analysis = FaceAnalysis(name=str(pack_dir), providers=["CPUExecutionProvider"])
        analysis.prepare(ctx_id=-1, det_size=(640, 640))
    return analysis


def measure_faces(pack_dir: Path, pictures: int = 1440, people: int = 300, seed: int = 0) -> dict[str, Any]:
    """Numbers for the model card, from `pictures` pictures of held-out people: all styles, 1-4 people, 3 shapes.

    detector: recall and precision at IoU .5 over faces at least half visible, landmark error in shares of the face
    box's height. recogniser: pairs of faces found in those pictures, of any two styles, and each style against a clean
    reference portrait.
    """
    analysis = open_analysis(pack_dir)
    tallies = {(style, count): Tally() for style in STYLES for count in range(1, MAX_PEOPLE + 1)}
    probes: list[Probe] = []
    for number in range(pictures):
        style, count = STYLES[number % len(STYLES)], number // len(STYLES) % MAX_PEOPLE + 1
        drawn = _held_out_picture(seed * 1_000_003 + number, style, count, people)
        tally, found = judge(drawn, analysis.get(_bgr(drawn.pixels)))
        tallies[style, count].add(tally)
        probes += found
    return {
        "detector": _detector_numbers(tallies, probes) | {"large_photos": _large_photos(analysis, people, seed)},
        "wrong_faces_per_empty_scene": _wrong_on_empty(analysis, 240, seed),
        "recogniser": _recogniser_numbers(probes, _references(analysis, people, seed)),
        "measured_on": {"pictures": pictures, "people": people, "probes": len(probes)},
    }


def judge(drawn: DrawnPicture, faces: list[Any]) -> tuple[Tally, list[Probe]]:
    """insightface's answers against the truth: each takes the free person whose box it meets best (IoU >= .5)."""
    free = list(drawn.people)
    tally = Tally(shown=sum(person.visible >= COUNTS_FROM for person in free))
    probes = []
    for face in sorted(faces, key=lambda face: -face.det_score):
        box = Box(*map(float, face.bbox))
        best = max(free, key=lambda person: overlap(box, person.face_box), default=None)
        if best is None or overlap(box, best.face_box) < 0.5:
            tally.wrong += 1
            continue
        free.remove(best)
        if best.visible < COUNTS_FROM:
            continue
        tally.found += 1
        error = float(np.linalg.norm(face.kps - best.landmarks, axis=1).mean() / best.face_box.height)
        probes.append(Probe(best.identity, drawn.style, face.normed_embedding, error))
    return tally, probes


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0-1."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    both = max(width, 0.0) * max(height, 0.0)
    return both / max(one.area + other.area - both, 1e-9)


def _held_out_picture(seed: int, style: str, count: int, people: int) -> DrawnPicture:
    from anyphoto_cli.mini.picture import draw_picture

    rng = np.random.default_rng([seed, 17])
    identities = [HELD_OUT + int(i) for i in rng.choice(people, count, replace=False)]
    size = (int(rng.choice(WIDTHS)), HEIGHT)
    return draw_picture(HELD_OUT + seed, identities=identities, style=style, size=size)


def _large_photos(analysis: Any, people: int, seed: int, count: int = 60) -> dict[str, float]:
    """Four pictures in one of 800 x 800 px: the detector sees heads half as high as in a single picture."""
    import cv2

    total, errors = Tally(), []
    for number in range(count):
        pixels, moved, style = np.zeros((800, 800, 3), np.uint8), [], STYLES[number % len(STYLES)]
        for k in range(4):
            drawn = _held_out_picture(10**6 * (seed + 1) + 4 * number + k, style, 1 + k, people)
            scale, (x, y) = 400 / max(drawn.pixels.shape), (k % 2 * 400, k // 2 * 400)
            part = cv2.resize(drawn.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            pixels[y : y + len(part), x : x + part.shape[1]] = part
            moved += [_moved(person, scale, np.array([x, y], np.float64)) for person in drawn.people]
        tally, found = judge(replace(drawn, pixels=pixels, people=tuple(moved)), analysis.get(_bgr(pixels)))
        total.add(tally)
        errors += [probe.error for probe in found]
    return total.shares() | {"landmark_error": float(np.mean(errors or [np.nan]))}


def _moved(person: DrawnPerson, scale: float, corner: NDArray[np.float64]) -> DrawnPerson:
    place = np.tile(corner, 2)
    box = Box(*map(float, (np.array(person.face_box) + 0.5) * scale - 0.5 + place))
    return replace(person, face_box=box, landmarks=(person.landmarks + 0.5) * scale - 0.5 + corner)


def _references(analysis: Any, people: int, seed: int) -> tuple[NDArray[np.int64], Embeddings]:
    """One clean portrait a person: numbers [n], embeddings [n, 512]."""
    from anyphoto_cli.mini.picture import draw_portrait

    numbers, embeddings = [], []
    for i in range(people):
        faces = analysis.get(_bgr(draw_portrait(HELD_OUT + i, HELD_OUT + seed).pixels))
        if faces:
            numbers.append(HELD_OUT + i)
            embeddings.append(max(faces, key=lambda face: face.det_score).normed_embedding)
    return np.array(numbers), unit_length(np.stack(embeddings))


def _wrong_on_empty(analysis: Any, count: int, seed: int) -> float:
    """Answers per picture where nobody is: scenes of all styles, and white canvases."""
    wrong = len(analysis.get(np.full((HEIGHT, HEIGHT, 3), 255, np.uint8)))
    for number in range(count):
        empty = draw_empty(HELD_OUT + seed * 7919 + number, STYLES[number % len(STYLES)], (WIDTHS[number % 3], HEIGHT))
        wrong += len(analysis.get(_bgr(empty.pixels)))
    return wrong / (count + 1)


def _detector_numbers(tallies: dict[tuple[str, int], Tally], probes: list[Probe]) -> dict[str, Any]:
    def together(chosen: list[Tally]) -> Tally:
        total = Tally()
        for tally in chosen:
            total.add(tally)
        return total

    def errors(chosen: list[Probe]) -> dict[str, float]:
        values = np.array([probe.error for probe in chosen] or [np.nan])
        return {"landmark_error": float(values.mean()), "landmark_error_p95": float(np.quantile(values, 0.95))}

    by_style = {
        style: together([t for (s, _), t in tallies.items() if s == style]).shares()
        | errors([probe for probe in probes if probe.style == style])
        for style in STYLES
    }
    by_people = {
        str(count): together([t for (_, c), t in tallies.items() if c == count]).shares()
        for count in range(1, MAX_PEOPLE + 1)
    }
    every = together(list(tallies.values())).shares() | errors(probes)
    return every | {"by_style": by_style, "by_people": by_people}


def _recogniser_numbers(probes: list[Probe], references: tuple[NDArray[np.int64], Embeddings]) -> dict[str, Any]:
    who = np.array([probe.identity for probe in probes])
    embeddings = unit_length(np.stack([probe.embedding for probe in probes]))
    upper = np.triu(np.ones((len(who), len(who)), bool), 1)
    every = verification((embeddings @ embeddings.T)[upper], (who[:, None] == who[None])[upper])
    against = embeddings @ references[1].T
    same = who[:, None] == references[0][None]
    styles = np.array([probe.style for probe in probes])
    by_style = {style: verification(against[styles == style], same[styles == style]) for style in STYLES}
    first = references[0][against.argmax(1)] == who
    for style, numbers in by_style.items():
        numbers["rank_1"] = float(first[styles == style].mean())
    return every | {"against_reference": verification(against, same), "style_against_reference": by_style}


def verification(cosines: NDArray[np.float32], same: NDArray[np.bool_]) -> dict[str, float]:
    """How well one threshold tells pairs of the same person from others (both kinds count alike), and the two tails."""
    own, other = np.sort(cosines[same]), np.sort(cosines[~same])
    candidates = np.linspace(-0.2, 1.0, 601)
    accepted = 1 - np.searchsorted(own, candidates) / len(own)
    refused = np.searchsorted(other, candidates) / len(other)
    accuracy = (accepted + refused) / 2
    best, p99 = int(accuracy.argmax()), float(np.quantile(other, 0.99))
    return {
        "accuracy": float(accuracy[best]), "threshold": float(candidates[best]), "same_mean": float(own.mean()),
        "same_p05": float(np.quantile(own, 0.05)), "impostor_p99": p99, "same_above_p99": float((own > p99).mean()),
    }  # fmt: skip


def _bgr(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[..., ::-1])
