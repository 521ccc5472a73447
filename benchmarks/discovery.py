"""`preprocess --discover`: seconds and memory of grouping made-up faces, and how often it mixes people.

One person's faces have cosines of .6 in the middle, from .15 up; strangers' have a spread of .08 around 0. People are
in as many photos as a power law says, ten each in the middle.
"""

from __future__ import annotations

import resource
import time

import numpy as np

from anyphoto_cli.preprocess.average_linkage import average_linkage

LIMITS = "peak memory at most five times that of the embeddings; of a thousand groups one holds two people"
THRESHOLD = 0.4


def faces_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """([count, 512] unit vectors in mixed order, [count] whose each is)."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, count // 10 + 1) ** 0.8
    sizes = rng.multinomial(count - len(share), share / share.sum()) + 1
    who = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = _unit(rng.standard_normal((len(sizes), 64)) @ rng.standard_normal((64, 512)))
    rows = np.empty((count, 512), np.float32)
    for at in range(0, count, 1000):
        mine = who[at : at + 1000]
        alike = np.clip(rng.normal(0.6, 0.1, (len(mine), 1)), 0.15, 0.97)
        noise = _unit(rng.standard_normal((len(mine), 512)))
        rows[at : at + 1000] = _unit(np.sqrt(alike) * centres[mine] + np.sqrt(1 - alike) * noise)
    return rows, who


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def measure(counts: tuple[int, ...] = (10_000, 100_000)) -> dict[str, list[dict[str, object]]]:
    """Seconds of all processors together: other work on the machine does not count."""
    rows = []
    for count in counts:
        faces, who = faces_of(count)
        before, began = _peak_mb(), time.process_time()
        group = average_linkage(faces, THRESHOLD)
        taken = time.process_time() - began
        order = np.argsort(group, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
        shown = [members for members in groups if len(members) >= 3]
        rows.append({
            "faces": count, "people": int(who.max()) + 1, "embeddings_mb": round(faces.nbytes / 1e6),
            "cpu_s": round(taken, 1), "peak_rss_mb": round(_peak_mb()), "before_mb": round(before),
            "groups_of_3": len(shown), "mixed": sum(len(set(who[members].tolist())) > 1 for members in shown),
        })  # fmt: skip
    return {"": rows}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
