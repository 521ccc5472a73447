"""Which device, and how many workers it feeds."""

from __future__ import annotations

import os
import re

from anyphoto_cli.errors import InputError


def resolve_device(device: str, here: bool = True) -> str:
    """auto -> cuda where onnxruntime can use it, else cpu; cpu, cuda and cuda:1 as they are.

    here: False where other machines do the work. Raises InputError for other names, and for a card that this machine's
    onnxruntime cannot use.
    """
    import onnxruntime

    if device != "auto" and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"{device!r} is no device", field="--device", remedy="Known: auto, cpu, cuda, cuda:1")
    found = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device.startswith("cuda") and here and not found:
        what = f"onnxruntime cannot use {device} on this machine"
        raise InputError(what, field="--device", remedy="See: anyphoto doctor")
    if device == "auto":
        return "cuda" if found else "cpu"
    return device


def on_cuda(device: str) -> bool:
    """Whether torch runs there: cuda, cuda:1, or auto where there is a card."""
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def free_workers(device: str) -> int:
    """One a card (all of cuda, one of cuda:1), or one a core this process may use: on a CPU processes beat threads two
    to one.
    """
    if device.startswith("cuda:"):
        return 1
    if device == "cuda":
        import torch

        return max(torch.cuda.device_count(), 1)
    return cores()


def cores() -> int:
    """Those this process may use; of the machine where the system does not tell, as macOS does not."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
