"""Where the time of a step goes, by section: CUDA events on a GPU, which wait for nothing, a clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NAMES = ("data", "encode", "transformer", "faces", "backward", "update")
"""Waiting for examples; VAE and text encoders; the transformer's forward pass; decoding and recognising faces; the
whole backward pass; gradients over ranks and the optimiser.
"""


class Sections:
    """Seconds spent in each of `NAMES` since they were last asked for."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = dict.fromkeys(NAMES, 0.0)
        self._open: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time the block under one of `NAMES`."""
        if not self._on_gpu or name == "data":
            began = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - began
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        yield
        last.record()
        self._open.append((name, first, last))

    def take(self) -> dict[str, float]:
        """Seconds by name, which begin anew. On a GPU this waits for what is under way."""
        if self._open:
            torch.cuda.synchronize()
        for name, first, last in self._open:
            self._seconds[name] += first.elapsed_time(last) / 1000
        told, self._seconds, self._open = self._seconds, dict.fromkeys(NAMES, 0.0), []
        return told
