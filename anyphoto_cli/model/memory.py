"""Fitting a model: what each way of loading needs, which one is taken, and how the pipeline is opened in it.

The figures of FLUX.1 follow from its parameter counts (bfloat16: 23.8 GB transformer, of which 6.5 GB are modulation
layers; 9.5 GB T5, 0.4 GB the rest) plus about 3 GB of working memory at 1024x1024. They are computed; with everything
counted on a card that is not there they leave some room (docs/performance/memory.md, peaks.md); no card measured them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from anyphoto_cli.errors import EnvironmentFault, InputError

FLUX_NEEDS_GB = {"full": 37.0, "offload": 27.0, "hoisted": 21.0, "fp8": 18.0, "nf4": 11.0, "group": 6.0}
"""Peak memory on the device by mode, FLUX.1 at 1024x1024, batch 1."""

PICKED = ("full", "hoisted", "fp8", "nf4", "group")
"""What "auto" tries in turn: the fastest first. hoisted gives offload's numbers in less memory and moves less; group
gives them too, up to rounding, but moves all weights at every step.
"""
EXACT = ("full", "offload", "hoisted", "group")
"""The same numbers, bit for bit; of group up to rounding: it makes its modulation rows step by step, which the others
on a GPU make at once, and brings the adapter's layers by calls of their own. Above a megapixel all but full decode in
tiles.
"""
VOCABULARIES = (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt"))
"""Files of which one group must lie in a tokenizer's folder."""
MEGAPIXEL = 2**20
"""Decoding more at once needs more memory than the transformer's own work."""
WAYS = {"cpu": ("full", "fp8"), "mps": ("full", "offload", "hoisted", "nf4", "group")}
"""What there is where not all modes are: nothing to offload from on a CPU, no 8-bit floats on an Apple GPU."""
RAN_OUT = ("out of memory", "not enough memory", "allocate memory", "alloc_failed")
"""What torch's RuntimeErrors say of it: on CPUs and Apple's GPUs, of cuBLAS, of CUDA outside torch's allocator."""

EXPLAINED = {
    "full": "everything stays on the device",
    "offload": "models come to the device one after another; the rest waits in main memory",
    "hoisted": "the same, without the modulation layers: their rows are computed once a layout",
    "fp8": "transformer weights in 8-bit floats (norms and modulation in bfloat16), with offload",
    "nf4": "transformer and T5 in 4-bit NF4 (bitsandbytes), with offload",
    "group": "every layer comes to the device when it is called: the same up to rounding, and slow",
}


@dataclass(frozen=True)
class MemoryPlan:
    """mode: a key of `FLUX_NEEDS_GB`. reason: one sentence for the user."""

    mode: str
    reason: str


def plan_memory(mode: str, device: torch.device, parameters: float) -> MemoryPlan:
    """Resolve "auto" for a device. parameters: the base's weights, in units of FLUX.1's (1.0; a toy: near 0).

    Raises InputError for a mode that this kind of device has not.
    """
    if mode != "auto" and mode not in ways(device):
        if device.type == "cpu":
            raise InputError(f"{mode} needs a GPU", field="--memory", remedy="On a CPU use full or fp8")
        remedy = "Use full, hoisted or group"
        raise InputError(f"{device.type} has no 8-bit floats, which {mode} needs", field="--memory", remedy=remedy)
    if mode != "auto":
        return MemoryPlan(mode, "as asked")
    if device.type != "cuda":
        return MemoryPlan("full", f"nothing else was measured on {device.type}" if device.type != "cpu" else "CPU")
    free = torch.cuda.mem_get_info(device)[0] / 1e9
    for name in PICKED:
        need = FLUX_NEEDS_GB[name] * max(parameters, 0.01)
        if need <= free:
            return MemoryPlan(name, f"{free:.0f} GB free on the GPU, {name} needs about {need:.0f}: {EXPLAINED[name]}")
    smallest = PICKED[-1]
    return MemoryPlan(smallest, f"only {free:.0f} GB free on the GPU; it needs about {FLUX_NEEDS_GB[smallest]:.0f}")


def ways(device: torch.device) -> tuple[str, ...]:
    """The modes that this kind of device has."""
    return WAYS.get(device.type, tuple(FLUX_NEEDS_GB))


def pick_device(name: str) -> torch.device:
    """The device of a name; auto: cuda, mps, cpu. Raises InputError for a device this machine does not have."""
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"{name!r} is no device", field="--device", remedy="Known: auto, cpu, cuda, cuda:1, mps"
        ) from error
    counts = {
        "cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count(),
    }  # fmt: skip
    if (device.index or 0) >= counts.get(device.type, 0):
        raise InputError(f"this machine has no {name}", field="--device", remedy="See: anyphoto doctor")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of a name; auto: bfloat16 on a GPU, float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def open_pipeline(
    folder: Path, cls: Any, device: torch.device, dtype: torch.dtype, mode: str, without: Sequence[str] = (),
    offload: bool = True, add_adapters: Callable[[Any], None] = lambda pipeline: None,
) -> Any:  # fmt: skip
    """`cls.from_pretrained(folder)` in one of the memory modes, ready to call; without: components that are not loaded.

    offload: False where the weights must stay on the device between the forward and the backward pass: training.
    add_adapters: called with the pipeline before its weights are stored in 8 bits, or moved: a LoRA takes the number
    format of the layer that it is added to.
    Raises EnvironmentFault when bitsandbytes is missing for nf4, or memory does not suffice; InputError for a folder
    that cannot be opened.
    """
    _require_vocabularies(folder, without)
    options: dict[str, Any] = {"quantization_config": _nf4(dtype)} if mode == "nf4" else {}
    options |= dict.fromkeys(without)
    try:
        pipeline = cls.from_pretrained(str(folder), dtype=dtype, local_files_only=True, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"cannot be opened as a diffusers model ({line})", file=folder, field="--model") from error
    add_adapters(pipeline)
    if mode == "fp8" and pipeline.transformer is not None:
        pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    place(pipeline, device, mode if offload else "full")
    if mode != "full" and device.type != "cpu":
        pipeline.tiled_above = MEGAPIXEL  # of ours; others do not ask
    return pipeline


def _require_vocabularies(folder: Path, without: Sequence[str]) -> None:
    """Raises InputError for a tokenizer without words: transformers would make an empty one, deaf to every prompt."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # from_pretrained says what is wrong with it
    for name in ("tokenizer", "tokenizer_2"):
        kind = index.get(name) or [None]
        if name in without or kind[-1] is None:
            continue
        if not any(all((folder / name / file).is_file() for file in group) for group in VOCABULARIES):
            what = f"has no vocabulary in {name}/, so that every prompt would be ignored"
            remedy = "It needs tokenizer.json, spiece.model, or vocab.json and merges.txt: copy the folder anew"
            raise InputError(what, file=folder, field="--model", remedy=remedy)


def decodes_in_tiles(mode: str, pixels: int) -> bool:
    """Whether `open_pipeline` in this mode, on a GPU, decodes so large a picture in tiles."""
    return mode != "full" and pixels > MEGAPIXEL


def place(pipeline: Any, device: torch.device, mode: str) -> None:
    """Move the pipeline, or set it to move its models, or parts of them. Raises EnvironmentFault out of memory."""
    try:
        if _stays(mode, device):
            pipeline.to(device)
        elif mode == "hoisted":
            pipeline.enable_hoisting(device)
        elif mode == "group":
            # Streams, where there are some, bring the next block while this one computes.
            pipeline.enable_group_offload(
                device, torch.device("cpu"), "leaf_level", use_stream=device.type == "cuda", exclude_modules=["vae"]
            )
        else:
            pipeline.enable_model_cpu_offload(device=device)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise out_of_memory(mode, device) from error


def _stays(mode: str, device: torch.device) -> bool:
    return mode == "full" or device.type == "cpu"


def ran_out(error: BaseException | None) -> bool:
    """Whether it is of memory, the device's or the machine's. An Apple GPU, and a CPU, tell it in a RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in RAN_OUT)


def out_of_memory(mode: str, device: torch.device) -> EnvironmentFault:
    """The one line for a full device, naming the next smaller mode that it has."""
    needs = FLUX_NEEDS_GB.get(mode, 99)
    smaller = [name for name in PICKED if name in ways(device) and FLUX_NEEDS_GB[name] < needs]
    remedy = f"Try --memory {smaller[0]}" if smaller else "Make the picture smaller"
    return EnvironmentFault(f"the device ran out of memory with --memory {mode}", remedy=remedy)


def bitsandbytes_install() -> str:
    """The command that brings it: the extra gpu leaves it out on a Mac."""
    return "pip install bitsandbytes" if sys.platform == "darwin" else 'pip install "anyphoto[gpu]"'


def _nf4(dtype: torch.dtype) -> Any:
    """diffusers' quantisation of transformer and T5. CLIP and VAE stay: they are small."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        remedy = f"Run: {bitsandbytes_install()}"
        raise EnvironmentFault("--memory nf4 needs bitsandbytes, which is not installed", remedy=remedy) from error
    from diffusers.quantizers import PipelineQuantizationConfig

    return PipelineQuantizationConfig(
        quant_backend="bitsandbytes_4bit",
        quant_kwargs={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
        components_to_quantize=["transformer", "text_encoder_2"],
    )
