"""Which cases of many a report shows with pictures: some of every kind worth a look, not the least alike alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from anyphoto_cli.faces.placement import FOUND_WITHIN

Lines = list[Mapping[str, Any]]
BEST = 20
"""At most, of those most like their references: to see what goes well."""
CHOSEN_BY = (
    "without a picture or a face, then least like their references", "most copy-paste", "furthest off their places",
    f"most like their references ({BEST} at most)",
)  # fmt: skip


def worst_first(lines: Sequence[Mapping[str, Any]]) -> Lines:
    """Without a picture first, then without a face, then by similarity to the references, the least first."""
    rank = {"broken": 0, "missing": 1, "no face": 2, "scored": 3}

    def key(line: Mapping[str, Any]) -> tuple[int, float]:
        likeness = case_value(line, "sim_ref")
        if likeness is None:
            likeness = case_value(line, "sim_gt")
        return rank[line["status"]], -2.0 if likeness is None else likeness

    return sorted(lines, key=key)


def chosen(lines: Sequence[Mapping[str, Any]], count: int) -> Lines:
    """So many, or all of fewer, the worst first; taken in turn by each of `CHOSEN_BY`, nobody twice."""
    ordered = worst_first(lines)
    pasted, alike = (_most(ordered, partial(case_value, metric=metric)) for metric in ("copy_paste", "sim_ref"))
    orders = ordered, pasted, _most(ordered, _off), alike[:BEST]
    taken: set[str] = set()
    for line in (one for together in zip_longest(*orders) for one in together if one is not None):
        if len(taken) >= count:
            break
        taken.add(line["id"])
    return [line for line in ordered if line["id"] in taken]


def case_value(line: Mapping[str, Any], metric: str) -> float | None:
    """A case's value, over all face models; None where it has none."""
    if metric in line:
        return line[metric] if line[metric] is None else float(line[metric])
    values = [leg[metric] for leg in (line.get("legs") or {}).values() if leg[metric] is not None]
    return float(np.mean(values)) if values else None


def _off(line: Mapping[str, Any]) -> float | None:
    """Mean distance of the people from their places, in face heights, who is at none as far off as one may be.

    None where no place is known.
    """
    placement = line.get("placement") or {}
    if not placement.get("expected"):
        return None
    expected, placed = int(placement["expected"]), int(placement["placed"])
    return (placed * float(placement["error"] or 0.0) + (expected - placed) * FOUND_WITHIN) / expected


def _most(lines: Lines, value_of: Callable[[Mapping[str, Any]], float | None]) -> Lines:
    """Those that have a value, the highest first."""
    values = [(value, line) for line in lines if (value := value_of(line)) is not None]
    return [line for _, line in sorted(values, key=lambda one: -one[0])]
