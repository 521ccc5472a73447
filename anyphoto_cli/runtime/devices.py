"""Which device, and how many workers it feeds."""

from __future__ import annotations

import os


def resolve_device(device: str) -> str:
    """auto -> cuda where onnxruntime can use it, else cpu; anything else as it is."""
    if device != "auto":
        return device
    import onnxruntime

    return "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"


def on_cuda(device: str) -> bool:
    """Whether torch runs there: cuda, cuda:1, or auto where there is a card."""
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def free_workers(device: str) -> int:
    """One a card, or one a core this process may use: on a CPU processes beat threads two to one."""
    if device == "cuda":
        import torch

        return max(torch.cuda.device_count(), 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
