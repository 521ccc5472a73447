"""Many lines to one summary: counts, every metric plain and filtered with its interval, and who stood where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from anyphoto_cli.bench.statistics import interval_over_cases, summarize

CLIP_AND_AESTHETIC = ("clip_i", "clip_t", "aesthetic")
METRICS = ("sim_gt", "sim_ref", "copy_paste", "blending", *CLIP_AND_AESTHETIC)


def values_of(lines: Iterable[Mapping[str, Any]], metric: str) -> list[list[float | None]]:
    """A metric's values by case, one of each face model.

    A picture without any face has none: the reference evaluator leaves it out of every metric.
    """
    return [
        [line[metric]] if metric in CLIP_AND_AESTHETIC else [leg[metric] for leg in line["legs"].values()]
        for line in lines
        if line["status"] == "scored"
    ]


def sum_up(
    lines: Sequence[Mapping[str, Any]], face_models: Mapping[str, str], not_available: Mapping[str, str]
) -> dict[str, Any]:  # fmt: skip
    """Per subset and over all. face_models: name -> sha256; not_available: metric -> why it is n/a."""
    parts = {"all": list(lines)} | {
        name: [line for line in lines if line["subset"] == name] for name in ("p1", "p2", "p3")
    }
    return {
        "face_models": dict(face_models),
        "not_available": dict(not_available),
        "subsets": {name: _part(part) for name, part in parts.items() if part},
    }


def _part(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    statuses = ("scored", "no face", "missing", "broken")
    metrics = {}
    for metric in METRICS:
        by_case = values_of(lines, metric)
        values = [value for case in by_case for value in case]  # one after another, as the reference evaluator pools
        plain, filtered, (low, high) = summarize(values), summarize(values, filtered=True), interval_over_cases(by_case)
        metrics[metric] = {
            "mean": _told(plain.mean), "n": plain.n, "low": _told(low), "high": _told(high),
            "filtered_mean": _told(filtered.mean), "outliers": filtered.removed,
            "by_model": _by_model(lines, metric),
        }  # fmt: skip
    placed = [line["placement"] for line in lines if line.get("placement")]
    errors = [one["error"] for one in placed if one["error"] is not None]
    # Who was never drawn is not at their place either.
    lost = sum(line.get("asked_for", 0) for line in lines if not line.get("placement"))
    expected = sum(one["expected"] for one in placed) + lost
    people, found = sum(map(_people, lines)), sum(map(_found, lines))
    return {
        "cases": len(lines), **{status: sum(line["status"] == status for line in lines) for status in statuses},
        "metrics": metrics,
        "people": people, "found": _told(found / people if people else float("nan")),
        "coverage": _told(sum(one["placed"] for one in placed) / expected if expected else float("nan")),
        "place_error": _told(float(np.mean(errors)) if errors else float("nan")),
        "swapped": sum(one["swapped"] for one in placed),
        "strangers": sum(one.get("strangers", 0) for one in placed),
        "duplicates": sum(one["duplicates"] for one in placed), "extra_faces": sum(one["extra"] for one in placed),
        "expected_faces": expected,
    }  # fmt: skip


def _people(line: Mapping[str, Any]) -> int:
    """Asked for; older lines of cases that could not be scored have those alone whose places are known."""
    people: int = line.get("people", line.get("asked_for", 0))
    return people


def _found(line: Mapping[str, Any]) -> int:
    """Faces in the result, wherever they are: no more than people asked for; without a picture none."""
    result = (line.get("faces") or {}).get("result")
    return min(len(result["boxes"]), _people(line)) if result else 0


def _by_model(lines: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float | None]:
    """Plain mean of each face model; empty for what is not about faces."""
    if metric in CLIP_AND_AESTHETIC:
        return {}
    found: dict[str, list[float | None]] = {}
    for line in lines:
        for name, leg in (line.get("legs") or {}).items():
            found.setdefault(name, []).append(leg[metric] if line["status"] == "scored" else None)
    return {name: _told(summarize(values).mean) for name, values in found.items()}


def _told(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
