"""Many cases' values as one: plain, as the reference evaluator filters them, and how sure one may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """mean: nan without values. n: values it is of. removed: outliers left out. missing: given as None or nan."""

    mean: float
    n: int
    removed: int = 0
    missing: int = 0


def summarize(values: Iterable[float | None], filtered: bool = False) -> Summary:
    """The mean of what is there. filtered: without outliers, as WithAnyone's evaluator prints it.

    An outlier lies more than 1.5 interquartile ranges below the first or above the third quartile (numpy's linear
    percentiles, bounds included).
    """
    given = list(values)
    known = _known(given)
    kept = _inliers(known) if filtered else known
    mean = float(kept.mean()) if len(kept) else float("nan")
    return Summary(mean, len(kept), len(known) - len(kept), len(given) - len(known))


def interval(values: Iterable[float | None], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap percentile interval of the plain mean over cases; (nan, nan) without values. The same every time."""
    return interval_over_cases(([value] for value in values), level, seed)


def interval_over_cases(
    cases: Iterable[Sequence[float | None]], level: float = 0.95, seed: int = 0
) -> tuple[float, float]:  # fmt: skip
    """The same of several values a case, one of each face model: whole cases are drawn, for a case's values move
    together, and three looks at it are no three cases.
    """
    rows = [row for row in map(_known, cases) if len(row)]
    if not rows:
        return float("nan"), float("nan")
    sums, counts = np.array([row.sum() for row in rows]), np.array([len(row) for row in rows])
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES))
    means = np.array([sums[k].sum() / counts[k].sum() for k in drawn])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _known(values: Iterable[float | None]) -> NDArray[np.float64]:
    known = [value for value in values if value is not None and not np.isnan(value)]
    return np.array(known, np.float64)


def _inliers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(values):
        return values
    first, third = np.percentile(values, [25, 75])
    reach = 1.5 * (third - first)
    kept: NDArray[np.float64] = values[(values >= first - reach) & (values <= third + reach)]
    return kept
