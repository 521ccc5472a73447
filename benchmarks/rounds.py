"""Timing that a busy machine cannot bend much: all cases in turn, round after round, and ratios within a round."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def asked(words: Sequence[str]) -> tuple[torch.device, int]:
    """(device, rounds) of a command line; on a CPU one thread from here on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(words)
    device = torch.device(given.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    return device, given.rounds


def interleaved(cases: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round; one more round, the first, is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            _wait()
            began = time.perf_counter()
            case()
            _wait()
            if number:
                taken[name].append(time.perf_counter() - began)
    return taken


def ratio(taken: Mapping[str, list[float]], name: str, to: str) -> float:
    """Median over the rounds of one case's seconds over another's."""
    return statistics.median(a / b for a, b in zip(taken[name], taken[to], strict=True))


def milliseconds(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1000, 1)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
