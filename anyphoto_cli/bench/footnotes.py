"""What stands below a table: which means it shows, and of each run who is in them, by what it was measured, and what
is n/a.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anyphoto_cli.bench.measured import WAYS, Measured
from anyphoto_cli.bench.ranking import why_unranked
from anyphoto_cli.bench.rows import TITLES, Counts, Row

MEANS = {True: "without outliers", False: "plain"}
"""By `Row.filtered`, for programs."""


def footnotes(rows: Sequence[Row], subset: str) -> list[str]:
    """A line each. Losing hard faces is rewarded (see docs/bench.md), so a run's counts stand below its means."""
    lines = [mean_told(rows)]
    for row in rows:
        counts = "" if row.counts is None else counts_told(row.counts)
        by = "" if row.measured is None else measured_told(row.measured)
        lines += [f"{row.system}: {line}" for line in (counts, by, lacking_told(row.not_available)) if line]
    return [*lines, *why_unranked(rows, subset)]


def mean_told(rows: Sequence[Row]) -> str:
    """Which mean the values are."""
    if all(row.filtered for row in rows):
        return "Means without outliers (1.5 interquartile ranges), as published."
    return "Plain means." + (" Published rows: without outliers." if any(row.published for row in rows) else "")


def counts_told(counts: Counts) -> str:
    """What no paper reports, and of how many cases it is."""
    return "; ".join(filter(None, [f"{counts.scored} of {counts.cases} cases", people_told(counts)]))


def people_told(counts: Counts) -> str:
    """Who was found at all, and who at their place: two counts, each of the people it is of; "" where neither is known.

    Summaries of older versions have the second alone.
    """
    parts = []
    if counts.found is not None:
        parts.append(f"faces found for {counts.found:.1%} of {counts.people} people")
    if counts.coverage is not None:
        error = "n/a" if counts.place_error is None else f"{counts.place_error:.3f} face heights"
        parts.append(f"at their places {counts.coverage:.1%} of the {counts.expected_faces} whose places are known, "
                     f"off by {error}")  # fmt: skip
        faces = (("swapped", counts.swapped), ("strangers", counts.strangers), ("doubled", counts.duplicates),
                 ("more than asked", counts.extra_faces))  # fmt: skip
        parts.append(", ".join(f"{count} {what}" for what, count in faces if count is not None))
    return "; ".join(parts)


def measured_told(measured: Measured) -> str:
    """By what, all parts of it."""
    names = {"faces": "faces by", "clip": "CLIP", "aesthetic": "Aes by"}
    return "; ".join(f"{names[part]} {told}" for part in WAYS if (told := measured.told(part)))


def lacking_told(not_available: Mapping[str, str]) -> str:
    """What is n/a, and why: what has one reason together."""
    whys = dict.fromkeys(not_available.values())
    lacking = {why: [TITLES.get(k, k) for k, reason in not_available.items() if reason == why] for why in whys}
    return "; ".join(f"{', '.join(names)} n/a ({why})" for why, names in lacking.items())
