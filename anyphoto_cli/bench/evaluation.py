"""Cases to scores: every picture decoded once, every model loaded once, one line a case, and one summary.

A case that cannot be scored has a line that says why: it never vanishes from the counts. A run that was cut off goes on
with the cases that have no line yet, or one of other pictures than lie there now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.bench.cases import Case, Cases
from anyphoto_cli.bench.faces import Eyes, Seen
from anyphoto_cli.bench.models import Models, open_models
from anyphoto_cli.bench.origins import made_of, read_and_made_of, scored_of
from anyphoto_cli.bench.results import (
    FINISHED,
    LINES,
    SETTINGS,
    SUMMARY,
    Results,
    all_lines,
    claim,
    write_lines,
)
from anyphoto_cli.bench.scores import CaseScore, assignment, cosines, score_faces
from anyphoto_cli.bench.sources import Source
from anyphoto_cli.bench.summing import sum_up
from anyphoto_cli.config.bench import BenchConfig
from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.faces.placement import placement
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.images import decode
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.runtime.run_record import read_record
from anyphoto_cli.types import Picture


@dataclass(frozen=True, eq=False)
class _Pictures:
    """A case's pictures and the bytes they came from."""

    case: Case
    made: tuple[Picture, bytes]
    original: tuple[Picture, bytes] | None
    references: tuple[tuple[Picture, bytes], ...]

    @property
    def digest(self) -> str:
        """What a score of it is a score of."""
        original = None if self.original is None else self.original[1]
        return scored_of(made_of(self.case, original, [data for _, data in self.references]), self.made[1])


def evaluate(
    cases: Cases, results: Path | None, out: Path, config: BenchConfig, models: Models,
    listener: Listener | None = None, refused: Mapping[str, str] | None = None, workers: int = 1,
    cache: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score what is not scored yet, and sum up. results: a folder with <id>.png or <id>/out.png, None where the cases
    bring their own. refused: id -> why there is no picture. workers: processes with models of their own, which
    remember in `cache`. Returns the summary, which is written to `out`, too; it is also of what lies there from subsets
    that were not asked for this time.

    Raises InputError where `out` holds scores of other settings, or of other subsets that would have to be made anew.
    """
    listener = listener or Listener()
    there, pictures = {line["id"]: line for line in all_lines(out)}, Results(results)
    begun = any(line.get("status") in FINISHED for line in there.values())
    lacked = _lacked(out) if begun else []
    found, aside = sorted(set(lacked).difference(models.missing)), set(cases.order).difference(cases.ids)
    if found:
        _refuse_part_of([there[id_] for id_ in aside & there.keys()], found, out)
    free, judged = _resting_on(lacked, models.missing), any(map(_tells_strangers, there.values()))
    config = config.model_copy(update={"same_person": _same_person(out if judged else None, config, models)})
    if not judged:
        free.append("same_person")
    claim(out / SETTINGS, models.settings(config), "scores", begun=begun, free=free)
    out.mkdir(parents=True, exist_ok=True)
    if found:
        listener.caution(f"{out}: {', '.join(found)} can be measured now: all that lies there is scored anew")
        there = {}
    lines = {id_: line for id_, line in there.items() if id_ in aside}
    if older := sum(bool(line.get("placement")) and not _tells_strangers(line) for line in lines.values()):
        listener.caution(f"{out}: {older} lines of other subsets are of an older version, which took strangers for "
                         "swapped people; score those subsets again, too")  # fmt: skip
    lines |= {case.id: there[case.id] for case in cases.cases if _still_so(there.get(case.id), case, pictures)}
    write_lines(out, lines.values())  # without what a cut-off run left half-written
    waiting = [case for case in cases.cases if case.id not in lines]
    lines |= {one.id: _left_out(one.id, one.subset, "broken", one.reason, one.people) for one in cases.broken}
    if gone := set(there).difference(lines, cases.ids, cases.order):
        listener.caution(f"{out}: {len(gone)} lines are of cases that this benchmark does not hold; they go")
    if strays := pictures.strays((*cases.ids, *cases.order)):
        listener.caution(f"{len(strays)} pictures of {results} belong to no case, as {strays[0]}: a picture is called "
                         "<id>.png, <id>_seed<n>.png or <id>/out.png")  # fmt: skip
    listener.work("Scoring", len(cases.cases), len(cases.cases) - len(waiting))
    job = ScoreJob(tuple(waiting), results, config, dict(refused or {}), cache)
    with (out / LINES).open("a", encoding="utf-8") as file:
        for part in _through(job, models, workers):
            for line in part:
                lines[line["id"]] = line
                file.write(json.dumps(line) + "\n")
            file.flush()
            listener.done(len(part))
    listener.end()
    if several := [count for id_ in cases.ids if (count := _of_several(lines[id_]))]:
        listener.caution(f"{sum(several)} references of {len(several)} cases show several faces: scores take the face "
                         "detected best, rendering the largest; crop them to the one that is meant")  # fmt: skip
    ordered = [lines[id_] for id_ in dict.fromkeys(cases.order or cases.ids) if id_ in lines]
    write_lines(out, ordered)
    summary = sum_up(ordered, models.sha256, models.why)
    with committed(out / SUMMARY) as written:
        written.write((json.dumps(summary, indent=2) + "\n").encode())
    return summary


def _refuse_part_of(others: Sequence[Mapping[str, Any]], found: Sequence[str], out: Path) -> None:
    """What is found anew needs all scored again: a run of some subsets would throw the others' scores away."""
    if any(line.get("status") in FINISHED for line in others):
        what = f"{', '.join(found)} can be measured now, and all that lies in {out} is scored anew then"
        raise InputError(what, field="--subset", remedy="Leave --subset out, or name another folder")


def _of_several(line: Mapping[str, Any]) -> int:
    """References in which the first face model sees several faces."""
    seen = (line.get("faces") or {}).get("references") or []
    return sum(one is not None and len(one["boxes"]) > 1 for one in seen)


_RESTS_ON = {
    "clip_i": ("clip",), "aesthetic": ("aesthetic", "aesthetic_head", "aesthetic_encoder"),
}  # fmt: skip
"""Metric -> settings that it alone rests on."""


def _lacked(out: Path) -> list[str]:
    """What was n/a in a folder's scores."""
    return list(read_record(out, SETTINGS).get("not_available", []))


def _resting_on(lacked: Sequence[str], lacking: Sequence[str]) -> list[str]:
    """Settings that no score rests on where all this was n/a: they may be others now, so that it can be measured."""
    free = [name for metric, names in _RESTS_ON.items() if metric in lacked for name in names]
    if set(_RESTS_ON) <= set(lacked):
        free.append("precision")
    return [*free, "not_available"] if set(lacking) <= set(lacked) else free


def _tells_strangers(line: Mapping[str, Any]) -> bool:
    """Older versions called a face swapped that was nobody's: their counts rest on no threshold of today's."""
    return "strangers" in (line.get("placement") or {})


def _same_person(begun: Path | None, config: BenchConfig, models: Models) -> float:
    """begun: a folder with counts by a threshold of its own, which stays where none is asked for now: a face pack that
    was calibrated since is no other setting.
    """
    known = read_record(begun, SETTINGS).get("same_person") if begun is not None else None
    if config.same_person is None and isinstance(known, int | float):
        return float(known)
    return models.same_person(config)


def _still_so(line: Mapping[str, Any] | None, case: Case, results: Results) -> bool:
    """Whether a case's line is of the very pictures that lie there. What was missing or broken is tried again."""
    if line is None or line.get("status") not in FINISHED or "made_of" not in line:
        return False
    if line.get("placement") and not _tells_strangers(line):
        return False
    source = results.of(case)
    try:
        return source is not None and line["made_of"] == scored_of(read_and_made_of(case), source.read())
    except AnyPhotoError:
        return False


@dataclass(frozen=True)
class ScoreJob:
    """Cases in pieces of config.batch, as a `runtime.jobs.Job`; what comes back are their lines."""

    cases: tuple[Case, ...]
    results: Path | None
    config: BenchConfig
    refused: Mapping[str, str]
    cache: Path | None

    @property
    def pieces(self) -> range:
        """Their numbers."""
        return range(-(-len(self.cases) // self.config.batch))

    def open(self, worker: int) -> Models:
        """A worker's own, one thread each."""
        import torch

        torch.set_num_threads(1)
        return open_models(self.config, self.cache, threads=1)

    def run(
        self, opened: Models, number: int, starting: Callable[[int], None], skip: frozenset[int]
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Score a piece. One that ended a worker twice is left out, whole: models see its pictures together."""
        starting(0)
        part = self.cases[number * self.config.batch : (number + 1) * self.config.batch]
        if 0 in skip:
            why = "ended the process that scored it"
            return [_left_out_case(case, "broken", why) for case in part]
        return score_cases(part, self.results, self.config, opened, self.refused)


def _through(job: ScoreJob, models: Models, workers: int) -> Iterator[list[dict[str, Any]]]:
    if min(workers, len(job.pieces)) < 2:
        for number in job.pieces:
            yield job.run(models, number, lambda place: None, frozenset())
        return
    from anyphoto_cli.runtime.local_executor import run_local

    for _, lines in run_local(job, job.pieces, workers):
        yield lines


def score_cases(
    cases: Sequence[Case], results: Path | None, config: BenchConfig, models: Models,
    refused: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One line a case, in their order."""
    lines: dict[str, dict[str, Any]] = {}
    read: list[_Pictures] = []
    there = Results(results)
    for case in cases:
        source = there.of(case)
        if source is None:
            reason = (refused or {}).get(case.id, "no picture was made" if results else "names no picture, nor was a "
                                         "folder of results given")  # fmt: skip
            lines[case.id] = _left_out_case(case, "missing", reason)
            continue
        try:
            read.append(
                _Pictures(
                    case, _opened(source), _opened(case.gt) if case.gt else None,
                    tuple(_opened(reference) for reference in case.references),
                )
            )  # fmt: skip
        except AnyPhotoError as error:
            lines[case.id] = _left_out_case(case, "broken", str(error))
    for line in _scored(read, config, models):
        lines[line["id"]] = line
    return [lines[case.id] for case in cases]


def _opened(source: Source) -> tuple[Picture, bytes]:
    data = source.read()
    return np.asarray(decode(data, Path(source.told))), data


def _scored(read: Sequence[_Pictures], config: BenchConfig, models: Models) -> list[dict[str, Any]]:
    if not read:
        return []
    seen = {name: _seen(read, eyes, config.pad_references == "always") for name, eyes in models.faces.items()}
    clip, aesthetic = _clip_scores(read, models), _aesthetic_scores(read, models)
    same_person = models.same_person(config)
    lines = []
    for k, pictures in enumerate(read):
        legs = {name: rows[k] for name, rows in seen.items()}
        scores = {name: _leg_score(leg) for name, leg in legs.items()}
        anybody = any(len(leg[0]) for leg in legs.values())
        lines.append({
            "id": pictures.case.id, "subset": pictures.case.subset, "people": pictures.case.people,
            "status": "scored" if anybody else "no face", "reason": "" if anybody else "no face was found in it",
            "made_of": pictures.digest,
            "prompt": pictures.case.prompt, "legs": {name: asdict(score) for name, score in scores.items()},
            **clip[k], "aesthetic": aesthetic[k],
            "placement": _placement(pictures.case, next(iter(legs.values())), same_person),
            "faces": _boxes(next(iter(legs.values()))),
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


def _asked_for(case: Case) -> int:
    """People whose places are known, so that a picture that was not made counts as one in which they are missing."""
    return case.people if case.landmarks or case.gt is not None else 0


def _placement(case: Case, leg: Leg, same_person: float) -> dict[str, Any] | None:
    """Against the places the case names, else the original's faces, each the place of the reference it resembles."""
    made, _, references = leg
    people = np.stack([seen.embeddings[0] for seen in references]) if all(len(seen) for seen in references) else None
    asked, in_order = _asked(case, leg, people)
    if asked is None:
        return None
    similar = None
    if people is not None and in_order:
        similar = cosines(made.embeddings, people) if len(made) else np.zeros((0, len(people)))
    got = placement(made.landmarks.astype(float), asked, similar, same_person)
    return asdict(got) | {"coverage": got.coverage, "extra": got.extra}


def _asked(case: Case, leg: Leg, people: Any) -> tuple[Any, bool]:
    """([N, 5, 2] places in px of the result, whether in the order of the references); (None, False): not known."""
    made, original, references = leg
    if case.landmarks:
        width, height = case.size or (_size(original) if original is not None else _size(made))
        return np.asarray(case.landmarks, float) * (made.width / width, made.height / height), True
    if original is None or not len(original):
        return None, False
    there = original.landmarks.astype(float) * (made.width / original.width, made.height / original.height)
    if people is None or len(original) < len(references):
        return there, False
    owner = {reference: face for face, reference in assignment(cosines(original.embeddings, people)).items()}
    return there[[owner[k] for k in range(len(people))]], True


def _size(seen: Seen) -> tuple[int, int]:
    return seen.width, seen.height


def _boxes(leg: Leg) -> dict[str, Any]:
    """Where faces were found, for the report: (width, height) and boxes of each picture."""

    def told(seen: Seen | None) -> dict[str, Any] | None:
        return None if seen is None else {"size": _size(seen), "boxes": seen.boxes.astype(float).round(1).tolist()}

    return {"result": told(leg[0]), "gt": told(leg[1]), "references": [told(seen) for seen in leg[2]]}


def _clip_scores(read: Sequence[_Pictures], models: Models) -> list[dict[str, float | None]]:
    if models.clip is None:
        return [{"clip_i": None, "clip_t": None}] * len(read)
    made = models.clip.pictures([p.made[0] for p in read], [p.made[1] for p in read])
    said = models.clip.texts([p.case.prompt for p in read])
    known = {k: p.original for k, p in enumerate(read) if p.original is not None}
    originals = models.clip.pictures([one[0] for one in known.values()], [one[1] for one in known.values()])
    alike = {k: float(made[k] @ row) for k, row in zip(known, originals, strict=True)}
    return [{"clip_i": alike.get(k), "clip_t": float(made[k] @ said[k])} for k in range(len(read))]


def _aesthetic_scores(read: Sequence[_Pictures], models: Models) -> list[float | None]:
    if models.aesthetic is None:
        return [None] * len(read)
    return [float(value) for value in models.aesthetic.score([p.made[0] for p in read], [p.made[1] for p in read])]


def _left_out_case(case: Case, status: str, reason: str) -> dict[str, Any]:
    return _left_out(case.id, case.subset, status, reason, case.people, _asked_for(case))


def _left_out(
    id_: str, subset: str, status: str, reason: str, people: int, asked_for: int = 0
) -> dict[str, Any]:  # fmt: skip
    """people: asked for; asked_for: of them those whose places are known."""
    return {
        "id": id_, "subset": subset, "people": people, "status": status, "reason": reason, "asked_for": asked_for,
    }  # fmt: skip
