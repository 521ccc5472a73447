"""What the GPU itself does: the rates that everything else is held against."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def median_ms(once: Callable[[], object], times: int = 12) -> float:
    """Milliseconds by CUDA events, each call by itself; three before are not counted."""
    for _ in range(3):
        once()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(times)]
    for first, last in events:
        first.record()
        once()
        last.record()
    torch.cuda.synchronize()
    return statistics.median(first.elapsed_time(last) for first, last in events)


def name(device: torch.device) -> str:
    """For the line above the tables."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "one thread"


def rows() -> list[dict[str, object]]:
    """Matrix rate on random numbers and copying rate, measured; none of a CPU."""
    if not torch.cuda.is_available():
        return []
    device = torch.device("cuda")
    long = torch.randn(2**30, device=device)
    out = torch.empty_like(long)
    copied = 2 * long.nbytes / median_ms(lambda: out.copy_(long)) / 1e9
    total = torch.cuda.get_device_properties(device).total_memory / 1e9
    return [{
        "card": torch.cuda.get_device_name(), "GB": round(total, 1),
        "TFLOP/s, bfloat16 product of 8192 x 8192": round(matrix_rate() / 1e12),
        "TB/s, copy, read and written": round(copied, 2),
    }]  # fmt: skip


def matrix_rate() -> float:
    """FLOP/s of a large product of random numbers in bfloat16."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / (median_ms(lambda: a @ b) / 1e3)
