"""Who is ranked, by the papers' rules, and only among what was measured alike."""

from __future__ import annotations

from collections.abc import Sequence

from anyphoto_cli.bench.measured import WAYS, unlike_published
from anyphoto_cli.bench.rows import COLUMNS, LOWER_IS_BETTER, TITLES, Row

GATES = {"p1": 0.40, "p2": 0.35, "p3": 0.35}
"""Copy-paste is ranked only among systems whose Sim(GT) is above this: who resembles nobody copies nobody."""
UNRANKED = frozenset({"GT", "Ref"})
NOT_BY_SIMILARITY = {"p3": frozenset({"GPT-4o-Image"})}
"""It knows the television series of that subset by heart (WithAnyone, AnyPhoto)."""


def ranks(rows: Sequence[Row], subset: str) -> dict[tuple[int, str], int]:
    """(place in rows, column) -> rank from 1; equal values share one. Those that the rules leave out have none."""
    found: dict[tuple[int, str], int] = {}
    for column in COLUMNS if subset in GATES else ():
        values = {
            k: value
            for k, value in _alike(rows, column).items()
            if _takes_part(rows[k], column, subset)
        }  # fmt: skip
        for k, value in values.items():
            better = sum((v < value) if column in LOWER_IS_BETTER else (v > value) for v in values.values())
            found[k, column] = better + 1
    return found


def why_unranked(rows: Sequence[Row], subset: str) -> list[str]:
    """Lines on the rows of ours that are not ranked among the published ones, or on columns in which nobody is."""
    if any(row.published for row in rows):
        told = [(row, dict.fromkeys(_unlike(row, part) for part in WAYS)) for row in rows if not row.published]
        return [f"{row.system}: {why}: not ranked with them" for row, whys in told for why in whys if why]
    several = [column for column in COLUMNS if subset in GATES and len(_ways(rows, column)) > 1]
    return [
        f"{', '.join(TITLES[c] for c in columns)}: not measured alike, nobody is ranked"
        for part in WAYS.values() if (columns := [c for c in part if c in several])
    ]  # fmt: skip


def _unlike(row: Row, part: str) -> str:
    known = (column for column in WAYS[part] if row.values.get(column) is not None)
    column = next(known, None)
    return "" if column is None else unlike_published(row.measured, column)


def _alike(rows: Sequence[Row], column: str) -> dict[int, float]:
    """Place in rows -> value, of those that may be compared in a column."""
    values = {k: float(value) for k, row in enumerate(rows) if (value := row.values.get(column)) is not None}
    if any(row.published for row in rows):
        return {k: v for k, v in values.items() if rows[k].published or not unlike_published(rows[k].measured, column)}
    return values if len(_ways(rows, column)) < 2 else {}


def _ways(rows: Sequence[Row], column: str) -> set[tuple[str, ...]]:
    """In which the values of a column were measured, as far as that is known."""
    known = (row.measured for row in rows if row.values.get(column) is not None)
    return {measured.way(column) for measured in known if measured is not None}


def _takes_part(row: Row, column: str, subset: str) -> bool:
    if row.system in UNRANKED:
        return False
    if column in ("sim_gt", "sim_ref", "copy_paste") and row.system in NOT_BY_SIMILARITY.get(subset, ()):
        return False
    gated = column == "copy_paste"
    return not gated or (row.values.get("sim_gt") or 0.0) > GATES[subset]
