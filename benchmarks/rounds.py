"""Timing that a busy machine cannot bend much: all cases in turn, round after round, and ratios within a round."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
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


def interleaved(
    cases: Mapping[str, Callable[[], Any]], rounds: int, times: int = 1, warm: bool = False
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds of each case in each round; one more round, the first, is not counted, unless all are warm already.
    times: calls a round, launched one after another as a model launches them; a GPU is waited for after the last.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(1 if warm else 0, rounds + 1):
        for name, case in cases.items():
            wait()
            began = time.perf_counter()
            for _ in range(times):
                case()
            wait()
            if number:
                taken[name].append((time.perf_counter() - began) / times)
    return taken


def that_run(cases: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """(cases that can be called here, why the others cannot): a kernel may refuse a shape, or a card be too small."""
    able, refused = {}, {}
    for name, case in cases.items():
        try:
            case()
            wait()
        except (RuntimeError, ImportError, TypeError, AttributeError, NotImplementedError) as error:
            refused[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
            print(f"{name}: {refused[name]}", file=sys.stderr)
        else:
            able[name] = case
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return able, refused


def attempted(table: Callable[[], list[dict[str, object]]]) -> list[dict[str, object]]:
    """A table, or one line that says why there is none: the others are still wanted."""
    try:
        rows = table()
        for row in rows:
            print(json.dumps(row), flush=True)  # what is killed later is not lost
        return rows
    except RuntimeError as error:
        traceback.print_exc()
        return [{"not measured": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}]
    finally:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def ratio(taken: Mapping[str, list[float]], name: str, to: str) -> float:
    """Median over the rounds of one case's seconds over another's."""
    return statistics.median(a / b for a, b in zip(taken[name], taken[to], strict=True))


def milliseconds(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds) * 1000, 1)


def wait() -> None:
    """For the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
