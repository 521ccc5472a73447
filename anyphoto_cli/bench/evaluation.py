"""Cases to scores: every picture decoded once, every model loaded once, one line a case, and one summary.

A case that cannot be scored has a line that says why: it never vanishes from the counts. A run that was cut off goes on
with the cases that have no line yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.bench.cases import Case, Cases
from anyphoto_cli.bench.faces import Eyes, Seen
from anyphoto_cli.bench.placement import placement
from anyphoto_cli.bench.scores import CaseScore, assignment, cosines, score_faces
from anyphoto_cli.bench.sources import FileSource, Source
from anyphoto_cli.bench.statistics import interval, summarize
from anyphoto_cli.config.bench import BenchConfig
from anyphoto_cli.errors import AnyPhotoError, EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.images import decode
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.types import Picture

LINES, SUMMARY, SETTINGS = "cases.jsonl", "summary.json", "bench.json"
METRICS = ("sim_gt", "sim_ref", "copy_paste", "blending", "clip_i", "clip_t", "aesthetic")
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, eq=False)
class Models:
    """faces: name -> a face model with a memory. clip, aesthetic: None where missing; why: metric -> reason."""

    faces: Mapping[str, Eyes]
    clip: Any
    aesthetic: Any
    why: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _Pictures:
    """A case's pictures and the bytes they came from."""

    case: Case
    made: tuple[Picture, bytes]
    original: tuple[Picture, bytes] | None
    references: tuple[tuple[Picture, bytes], ...]


def open_models(config: BenchConfig, cache: Path | None = None) -> Models:
    """Raises as `open_faces` for the face models; what else cannot be had is told in `why`."""
    from anyphoto_cli.faces.packs import open_faces

    device = "cuda" if config.device.startswith("cuda") or (config.device == "auto" and _has_cuda()) else "cpu"
    faces = {}
    for name in config.face_packs:
        analyzer = open_faces(name, device)
        if not analyzer.detects:
            raise InputError(f"{analyzer.name} cannot find faces", field="--face-pack")
        faces[analyzer.name] = Eyes(analyzer, cache, config.least_score)
    why: dict[str, str] = {}
    return Models(faces, _clip(config, device, why), _aesthetic(config, device, why), why)


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _clip(config: BenchConfig, device: str, why: dict[str, str]) -> Any:
    from anyphoto_cli.bench.clip_scores import Clip

    if config.clip is None:
        why |= {"clip_i": "not asked for", "clip_t": "not asked for"}
        return None
    try:
        return Clip(config.clip, device)
    except EnvironmentFault as error:
        why |= {"clip_i": str(error), "clip_t": str(error)}
        return None


def _aesthetic(config: BenchConfig, device: str, why: dict[str, str]) -> Any:
    from anyphoto_cli.bench.aesthetics import Aesthetics

    if config.aesthetic_head is None:
        why["aesthetic"] = "no head's file was given"
        return None
    try:
        return Aesthetics(Path(config.aesthetic_head), config.aesthetic, config.aesthetic_encoder, device)
    except EnvironmentFault as error:
        why["aesthetic"] = str(error)
        return None


def evaluate(
    cases: Cases, results: Path | None, out: Path, config: BenchConfig, models: Models,
    listener: Listener | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score what is not scored yet, and sum up. results: a folder with <id>.png or <id>/out.png, None where the cases
    bring their own. Returns the summary, which is written to `out`, too.

    Raises InputError where `out` holds scores of other settings.
    """
    listener = listener or Listener()
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, models)
    lines = {line["id"]: line for line in read_lines(out)}
    _write_lines(out, lines.values())  # without what a cut-off run left half-written
    waiting = [case for case in cases.cases if case.id not in lines]
    lines |= {one.id: _left_out(one.id, one.subset, "broken", one.reason) for one in cases.broken}
    listener.work("Scoring", len(cases.cases), len(cases.cases) - len(waiting))
    with (out / LINES).open("a", encoding="utf-8") as file:
        for first in range(0, len(waiting), config.batch):
            part = waiting[first : first + config.batch]
            for line in score_cases(part, results, config, models):
                lines[line["id"]] = line
                file.write(json.dumps(line) + "\n")
            file.flush()
            listener.done(len(part))
    listener.end()
    order = [*(case.id for case in cases.cases), *(one.id for one in cases.broken)]
    ordered = [lines[id_] for id_ in dict.fromkeys(order)]
    _write_lines(out, ordered)
    summary = sum_up(ordered, models)
    with committed(out / SUMMARY) as written:
        written.write((json.dumps(summary, indent=2) + "\n").encode())
    return summary


def score_cases(
    cases: Sequence[Case], results: Path | None, config: BenchConfig, models: Models
) -> list[dict[str, Any]]:  # fmt: skip
    """One line a case, in their order."""
    lines: dict[str, dict[str, Any]] = {}
    read: list[_Pictures] = []
    for case in cases:
        source = _result_of(case, results)
        if source is None:
            lines[case.id] = _left_out(case.id, case.subset, "missing", "no picture was made")
            continue
        try:
            read.append(
                _Pictures(
                    case, _opened(source), _opened(case.gt) if case.gt else None,
                    tuple(_opened(reference) for reference in case.references),
                )
            )  # fmt: skip
        except AnyPhotoError as error:
            lines[case.id] = _left_out(case.id, case.subset, "broken", str(error))
    for line in _scored(read, config, models):
        lines[line["id"]] = line
    return [lines[case.id] for case in cases]


def _opened(source: Source) -> tuple[Picture, bytes]:
    data = source.read()
    return np.asarray(decode(data, Path(source.told))), data


def _result_of(case: Case, results: Path | None) -> Source | None:
    if results is None:
        return case.result
    for ending in _ENDINGS:
        for file in (results / f"{case.id}{ending}", results / case.id / f"out{ending}"):
            if file.is_file():
                return FileSource(file)
    return None


def _scored(read: Sequence[_Pictures], config: BenchConfig, models: Models) -> list[dict[str, Any]]:
    if not read:
        return []
    seen = {name: _seen(read, eyes, config.pad_references == "always") for name, eyes in models.faces.items()}
    clip, aesthetic = _clip_scores(read, models), _aesthetic_scores(read, models)
    lines = []
    for k, pictures in enumerate(read):
        legs = {name: rows[k] for name, rows in seen.items()}
        scores = {name: _leg_score(leg) for name, leg in legs.items()}
        anybody = any(len(leg[0]) for leg in legs.values())
        lines.append({
            "id": pictures.case.id, "subset": pictures.case.subset, "people": pictures.case.people,
            "status": "scored" if anybody else "no face", "reason": "" if anybody else "no face was found in it",
            "prompt": pictures.case.prompt, "legs": {name: asdict(score) for name, score in scores.items()},
            **clip[k], "aesthetic": aesthetic[k],
            "placement": _placement(next(iter(legs.values())), config.same_person),
        })  # fmt: skip
    return lines


Leg = tuple[Seen, Seen | None, tuple[Seen, ...]]
"""What one face model sees in the result, the original and the references."""


def _seen(read: Sequence[_Pictures], eyes: Eyes, pad_all: bool) -> list[Leg]:
    made = eyes.see([p.made[0] for p in read], [p.made[1] for p in read])
    with_original = [p.original for p in read if p.original is not None]
    originals = iter(eyes.see([o[0] for o in with_original], [o[1] for o in with_original]))
    flat = [reference for p in read for reference in p.references]
    references = iter(eyes.see_references([r[0] for r in flat], [r[1] for r in flat], pad_all))
    return [
        (one, next(originals) if p.original is not None else None, tuple(next(references) for _ in p.references))
        for one, p in zip(made, read, strict=True)
    ]


def _leg_score(leg: Leg) -> CaseScore:
    made, original, references = leg
    gt = original.embeddings if original is not None else np.zeros((0, 0))
    return score_faces(made.embeddings, gt, [seen.embeddings[0] if len(seen) else None for seen in references])


def _placement(leg: Leg, same_person: float) -> dict[str, Any] | None:
    """Against the original's faces, each the place of the reference it resembles; None without an original."""
    made, original, references = leg
    if original is None or not len(original):
        return None
    scale = (made.width / original.width, made.height / original.height)
    known = all(len(seen) for seen in references) and len(original) >= len(references)
    if not known:
        got = placement(made.landmarks.astype(float), original.landmarks.astype(float) * scale, None)
        return asdict(got) | {"coverage": got.coverage, "extra": got.extra}
    people = np.stack([seen.embeddings[0] for seen in references])
    owner = {reference: face for face, reference in assignment(cosines(original.embeddings, people)).items()}
    asked = original.landmarks[[owner[k] for k in range(len(people))]].astype(float) * scale
    similar = cosines(made.embeddings, people) if len(made) else np.zeros((0, len(people)))
    got = placement(made.landmarks.astype(float), asked, similar, same_person)
    return asdict(got) | {"coverage": got.coverage, "extra": got.extra}


def _clip_scores(read: Sequence[_Pictures], models: Models) -> list[dict[str, float | None]]:
    if models.clip is None:
        return [{"clip_i": None, "clip_t": None}] * len(read)
    made = models.clip.pictures([p.made[0] for p in read])
    said = models.clip.texts([p.case.prompt for p in read])
    with_original = [k for k, p in enumerate(read) if p.original is not None]
    originals = models.clip.pictures([read[k].original[0] for k in with_original])  # type: ignore[index]
    alike = {k: float(made[k] @ row) for k, row in zip(with_original, originals, strict=True)}
    return [{"clip_i": alike.get(k), "clip_t": float(made[k] @ said[k])} for k in range(len(read))]


def _aesthetic_scores(read: Sequence[_Pictures], models: Models) -> list[float | None]:
    if models.aesthetic is None:
        return [None] * len(read)
    return [float(value) for value in models.aesthetic.score([p.made[0] for p in read])]


def _left_out(id_: str, subset: str, status: str, reason: str) -> dict[str, Any]:
    return {"id": id_, "subset": subset, "status": status, "reason": reason}


def read_lines(out: Path) -> list[dict[str, Any]]:
    """Scored cases of a run; a torn last line is none. What was missing or broken is tried again."""
    file = out / LINES
    if not file.is_file():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("status") in ("scored", "no face"):
            lines.append(line)
    return lines


def _write_lines(out: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with committed(out / LINES) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def values_of(lines: Iterable[Mapping[str, Any]], metric: str) -> list[float | None]:
    """A metric's values over cases; of several face models one after another, as the reference evaluator pools them.

    A picture without any face has none: the reference evaluator leaves it out of every metric.
    """
    found: list[float | None] = []
    for line in lines:
        if line["status"] != "scored":
            continue
        if metric in ("clip_i", "clip_t", "aesthetic"):
            found.append(line[metric])
        else:
            found += [leg[metric] for leg in line["legs"].values()]
    return found


def sum_up(lines: Sequence[Mapping[str, Any]], models: Models) -> dict[str, Any]:
    """Per subset and over all: counts, every metric plain and filtered, with its interval, and who stood where."""
    parts = {"all": list(lines)} | {
        name: [line for line in lines if line["subset"] == name] for name in ("p1", "p2", "p3")
    }
    return {
        "face_models": {name: eyes.analyzer.sha256 for name, eyes in models.faces.items()},
        "not_available": dict(models.why),
        "subsets": {name: _part(part) for name, part in parts.items() if part},
    }


def _part(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    statuses = ("scored", "no face", "missing", "broken")
    metrics = {}
    for metric in METRICS:
        values = values_of(lines, metric)
        plain, filtered, (low, high) = summarize(values), summarize(values, filtered=True), interval(values)
        metrics[metric] = {
            "mean": _told(plain.mean), "n": plain.n, "low": _told(low), "high": _told(high),
            "filtered_mean": _told(filtered.mean), "outliers": filtered.removed,
        }  # fmt: skip
    placed = [line["placement"] for line in lines if line.get("placement")]
    errors = [one["error"] for one in placed if one["error"] is not None]
    expected = sum(one["expected"] for one in placed)
    return {
        "cases": len(lines), **{status: sum(line["status"] == status for line in lines) for status in statuses},
        "metrics": metrics,
        "coverage": _told(sum(one["placed"] for one in placed) / expected if expected else float("nan")),
        "place_error": _told(float(np.mean(errors)) if errors else float("nan")),
        "swapped": sum(one["swapped"] for one in placed), "duplicates": sum(one["duplicates"] for one in placed),
        "extra_faces": sum(one["extra"] for one in placed), "expected_faces": expected,
    }  # fmt: skip


def _told(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _claim(out: Path, config: BenchConfig, models: Models) -> None:
    """The folder's settings are those of its first run. Raises InputError for others."""
    kept = config.model_dump(mode="json", exclude={"device", "batch"})
    kept["sha256"] = {name: eyes.analyzer.sha256 for name, eyes in models.faces.items()}
    kept["not_available"] = sorted(models.why)
    record = json.dumps(kept, indent=2, sort_keys=True) + "\n"
    file = out / SETTINGS
    if file.is_file() and file.read_text(encoding="utf-8") != record:
        was = json.loads(file.read_text(encoding="utf-8"))
        key = next((name for name in kept if was.get(name) != kept[name]), "settings")
        remedy = "Name another folder, or give what it began with"
        raise InputError(f"holds scores made with {was.get(key)!r}", file=out, field=key, remedy=remedy)
    if not file.is_file():
        with committed(file) as written:
            written.write(record.encode())
