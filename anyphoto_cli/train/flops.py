"""Useful floating point operations of a training step, and what share of a card's matrix rate they are (MFU).

Counted from shapes: matrix products of the blocks and attention over the pairs that identity-isolated attention keeps,
once forward and once for the gradients of activations (the base's own weights get none). What gradient checkpointing
computes again is not useful and not counted, nor are VAE, text encoders, LoRA and norms: some 5 % at FLUX's size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

PEAK_TFLOPS = {
    "H200": 989.0, "H100 NVL": 835.0, "H100 PCIe": 756.0, "H100": 989.0, "H20": 148.0, "A100": 312.0, "L40S": 362.0,
    "L40": 181.0, "A6000": 155.0, "RTX 4090": 165.0, "RTX 3090": 71.0,
}  # fmt: skip
"""Dense bfloat16 rate by the makers' data sheets; the first name that a device's name holds counts."""


def forward_flops(transformer: Any, noise: int, text: int, faces: Sequence[int]) -> float:
    """Of one sample. transformer: its config. noise, text: tokens. faces: location tokens of each identity."""
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    blocks = transformer.config.num_layers + transformer.config.num_single_layers
    shared, located = noise + text, sum(faces)
    pairs = shared * (shared + located) + sum(count * (shared + count) for count in faces)
    return float(blocks * (24 * width**2 * (shared + located) + 4 * width * pairs))


def step_flops(transformer: Any, noise: int, text: int, faces: Sequence[int]) -> float:
    """Forward and the gradients of activations."""
    return 2 * forward_flops(transformer, noise, text, faces)


def peak_flops(device: torch.device) -> float | None:
    """A second, of one device; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate * 1e12 for known, rate in PEAK_TFLOPS.items() if known in name), None)


def memory_gb(device: torch.device) -> float:
    """Highest so far: of the device, or of the process on a CPU. An Apple GPU tells what its driver holds now, with
    what torch keeps to give out again.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e9
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 1e9)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes of macOS, kilobytes of Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
