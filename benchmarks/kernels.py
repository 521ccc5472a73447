"""Where a step's time goes on the card: kernels by kind, how many are launched, and how long the card waits.

python -m benchmarks kernels --device cuda       FLUX.1's size with random weights: 1024 px, training at 512
python -m benchmarks kernels                     the same at a small size, by torch's operations, to see that it runs
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from anyphoto_cli.model import vae as latents
from anyphoto_cli.model.hoisted_modulation import hoist_modulation
from anyphoto_cli.train.sections import Sections
from benchmarks import card
from benchmarks.generate import STOCK, a_pair, groups_of, inputs_of, tokens_of
from benchmarks.models import as_rendered, as_trained, random_vae
from benchmarks.rounds import asked, attempted, interleaved, milliseconds, wait

LIMITS = "none of its own: it says where the others' time goes"
Table = list[dict[str, object]]
KINDS = (
    ("attention", r"flash|fmha|sdpa|attention"),
    ("triton", r"triton_|compiledFxGraph|graph_\d+_cpp"),
    ("convolution", r"conv|fprop|dgrad|wgrad|winograd"),
    ("matrix products", r"gemm|cutlass|nvjet|xmma|splitk|addmm|aten::mm|aten::bmm|aten::linear"),
    ("copies", r"cat|copy|memcpy|memset|clone|fill"),
    ("norms", r"norm"),
)
"""Kind -> what its kernels' names hold; the first that fits counts."""


def kind_of(name: str) -> str:
    """Of a kernel, by its name."""
    return next((kind for kind, told in KINDS if re.search(told, name, re.IGNORECASE)), "elementwise")


def seen(name: str, case: Callable[[], Any], times: int = 2, most: int = 14) -> tuple[dict[str, object], Table]:
    """(a line of milliseconds by kind, the kernels that take most of it) of a case that is warm already."""
    cuda = torch.cuda.is_available()
    wait()
    began = time.perf_counter()
    for _ in range(times):
        case()
    wait()
    whole = (time.perf_counter() - began) / times * 1e3
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        for _ in range(times):
            case()
        wait()
    found = [
        (event.key, (event.self_device_time_total if cuda else event.self_cpu_time_total) / times / 1e3, event.count)
        for event in profiled.key_averages()
    ]
    found = sorted((row for row in found if row[1] > 0), key=lambda row: -row[1])
    by_kind = dict.fromkeys([*(kind for kind, _ in KINDS), "elementwise"], 0.0)
    for key, taken, _ in found:
        by_kind[kind_of(key)] += taken
    line: dict[str, object] = {
        "case": name, "ms": round(whole, 1), "busy, ms": round(sum(by_kind.values()), 1),
        "launches": round(sum(count for _, _, count in found) / times),
        **{kind: round(taken, 1) for kind, taken in by_kind.items()},
    }  # fmt: skip
    print(line, flush=True)
    kernels: Table = [
        {"case": name, "kernel": key[:100].replace("|", "/"), "ms": round(taken, 2), "times": round(count / times)}
        for key, taken, count in found[:most]
    ]
    for row in kernels:
        print("   ", row["ms"], row["times"], row["kernel"], flush=True)
    return line, kernels


def rendering_cases(device: torch.device, stock: Any, ours: Any) -> dict[str, Callable[[], None]]:
    """A step of stock FLUX and of ours with four people, modulation rows made beforehand."""
    side, groups = groups_of(device)
    given = inputs_of(ours, side, 512)
    faces = [tokens_of(groups[4], side, device, ours.dtype)]
    told = [given["timestep"]], given["guidance"], given["pooled_projections"]
    rows = hoist_modulation(ours, *told, faces)[0]

    @torch.no_grad()
    def run(model: Any, **more: Any) -> None:
        model(**given, **more)

    return {STOCK: partial(run, stock), "ours": partial(run, ours, faces=faces, hoisted=rows)}


def training_case(device: torch.device, ours: Any, side: int) -> Callable[[], None]:
    """A whole step of training on one sample with two people."""
    import numpy as np

    from benchmarks.models import random_example
    from benchmarks.train import optimiser_of, parts_of, whole_step

    examples = [random_example(side, 2, np.random.default_rng(0))]
    return partial(whole_step, examples, parts_of(ours, device), optimiser_of(ours), 0.1, Sections(device))


def vae_rows(device: torch.device, rounds: int) -> Table:
    """Encoding a picture and two canvases, and decoding two windows for the identity loss, in two memory layouts."""
    rows: Table = []
    sides = (512, 1024) if device.type == "cuda" else (128,)
    for layout in (torch.contiguous_format, torch.channels_last):
        vae = random_vae(device).to(memory_format=layout)
        for side in sides:
            pixels = torch.randn(3, 3, side, side, device=device, dtype=vae.dtype)
            window = torch.randn(1, 16, 18, 18, device=device, dtype=vae.dtype, requires_grad=True)

            def decode(vae: Any = vae, window: Any = window) -> None:
                for _ in range(2):
                    latents.decode(vae, window).float().square().mean().backward()

            with torch.no_grad():
                taken = interleaved({"encode": partial(latents.encode, vae, pixels)}, rounds)
            taken |= interleaved({"decode": decode}, rounds)
            rows.append({
                "VAE": str(layout).removeprefix("torch."), "px": side,
                "ms, encode 3 pictures": milliseconds(taken["encode"]),
                "ms, decode 2 windows, forward and backward": milliseconds(taken["decode"]),
            })  # fmt: skip
    return rows


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    cuda = device.type == "cuda"
    return measure_on(device, rounds, *a_pair(device, 1024 if cuda else 512, 128 if cuda else 16))


def measure_on(device: torch.device, rounds: int, stock: Any, ours: Any) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title), with (stock, ours); ours may be compiled already, and is not after it."""
    lines: Table = []
    kernels: Table = []

    def every(label: str) -> Table:
        for prepare, cases in cases_of(device, stock, ours):
            prepare(ours)
            for name, case in cases.items():
                warm(name + label, case)
                line, most = seen(name + label, case)
                lines.append(line)
                kernels.extend(most)
        return lines

    # Compiled first: a compiled block is eager again at once, the other way takes minutes.
    if not ours.compiled_blocks:
        ours.compile_blocks()
    stock.compile_repeated_blocks(fullgraph=True)
    attempted(lambda: every(", compiled"))
    as_eager(stock, ours)
    attempted(lambda: every(""))
    tables = {"Milliseconds by kind of kernel": lines, "VAE": attempted(partial(vae_rows, device, rounds))}
    tables["What takes most of it"] = kernels
    if device.type == "cuda":
        tables = {"The card": card.rows(), **tables}
    return f"; {card.name(device)}, random weights; two steps each, profiled.", tables


def cases_of(device: torch.device, stock: Any, ours: Any) -> list[tuple[Callable[[Any], Any], dict[str, Any]]]:
    """(what makes our model ready, name -> case)."""
    side = 512 if device.type == "cuda" else 128
    as_rendered(ours)
    found: list[tuple[Callable[[Any], Any], dict[str, Any]]] = [(as_rendered, rendering_cases(device, stock, ours))]
    as_trained(ours)
    found.append((as_trained, {f"training step, {side} px": training_case(device, ours, side)}))
    return found


def warm(name: str, case: Callable[[], None]) -> None:
    """Two calls, and how long they took: compiling, where something is compiled."""
    began = time.perf_counter()
    case()
    case()
    wait()
    print(f"{name}: warm after {time.perf_counter() - began:.1f} s", flush=True)


def as_eager(stock: Any, ours: Any) -> None:
    """The opposite of compiling the blocks."""
    ours.compiled_blocks = False
    for model in (stock, ours):
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            block._compiled_call_impl = None
