"""Whole pictures: 28 steps and the VAE, eager and compiled, ours with two people against stock FluxPipeline.

python -m benchmarks pictures --device cuda      FLUX.1's size with random weights, 1024 px, bfloat16
python -m benchmarks pictures                    the same at a small size, to see that it runs

Captions are random states: T5 and CLIP run once a prompt, and are the same for all.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

from anyphoto_cli.model.pipeline import AnyPhotoPipeline
from benchmarks import card
from benchmarks.generate import STOCK, a_pair, groups_of, tokens_of
from benchmarks.rounds import asked, interleaved, ratio, that_run, wait
from benchmarks.train import random_vae

LIMITS = "28 steps at 1024 px with 2 faces, compiled: not slower than diffusers' eager FluxPipeline without faces"
Table = list[dict[str, object]]


def pipelines(device: torch.device, side: int, rank: int) -> tuple[Any, Any]:
    """(stock, ours), without text encoders."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    vae = random_vae(device)
    made = []
    for kind, transformer in zip((FluxPipeline, AnyPhotoPipeline), a_pair(device, side, rank), strict=True):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        pipeline: Any = kind(scheduler, vae, None, None, None, None, transformer)
        pipeline.set_progress_bar_config(disable=True)
        made.append(pipeline)
    return made[0], made[1]


def said(pipeline: Any, device: torch.device, side: int, steps: int) -> dict[str, Any]:
    """A call's arguments, but for faces."""
    config, dtype = pipeline.transformer.config, pipeline.transformer.dtype
    return dict(
        prompt_embeds=torch.randn(1, 512, config.joint_attention_dim, device=device, dtype=dtype),
        pooled_prompt_embeds=torch.randn(1, 768, device=device, dtype=dtype), height=side, width=side,
        num_inference_steps=steps, guidance_scale=3.5, output_type="pt",
    )  # fmt: skip


def first_calls(name: str, render: Any, others: dict[str, Any]) -> Table:
    """Of a compiled pipeline: seconds of the first call, then of layouts with other faces, and graphs there are."""
    from torch._dynamo.utils import counters

    rows: Table = []
    for what, case in {"first call": render, "the same again": render, **others}.items():
        began = time.perf_counter()
        case()
        wait()
        rows.append({"compiled": name, "call": what, "seconds": round(time.perf_counter() - began, 1),
                     "graphs so far": counters["stats"]["unique_graphs"]})  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    cuda = device.type == "cuda"
    side, groups = groups_of(device)
    steps, rank = (28, 128) if cuda else (2, 16)
    stock, ours = pipelines(device, side, rank)
    words = said(ours, device, side, steps)
    faces = {n: tokens_of(lengths, side, device, ours.transformer.dtype) for n, lengths in groups.items()}

    def render(pipeline: Any, **more: Any) -> None:
        pipeline(**words, generator=torch.Generator(device).manual_seed(0), **more)

    plain, with_two = partial(render, stock), partial(render, ours, faces=faces[2])
    eager, _ = that_run({f"{STOCK}, eager": plain, "ours, 2 faces, eager": with_two})
    taken = interleaved(eager, rounds)
    ours.transformer.compile_blocks()
    calls = first_calls("ours", with_two, {f"{n} faces": partial(render, ours, faces=faces[n]) for n in (4, 8)})
    # Eager stock once more beside it, so that the two that the bar compares stand in one round.
    again = interleaved({f"{STOCK}, eager": plain, "ours, 2 faces, compiled": with_two,
                         "ours, 4 faces, compiled": partial(render, ours, faces=faces[4])}, rounds)  # fmt: skip
    rows = rows_of(taken) + rows_of(again)[1:]
    stock.transformer.compile_repeated_blocks(fullgraph=True)
    calls += first_calls(STOCK, plain, {})
    last = interleaved({f"{STOCK}, compiled": plain, "ours, 2 faces, compiled": with_two}, rounds)
    rows += [{"28 steps and VAE": f"{STOCK}, compiled", "seconds": seconds(
        last[f"{STOCK}, compiled"]), "over stock, eager": "", "ours, 2 faces, compiled, over it": round(ratio(
            last, "ours, 2 faces, compiled", f"{STOCK}, compiled"), 3)}]  # fmt: skip
    where = torch.cuda.get_device_name() if cuda else "one thread"
    tables = ({"The card": card.rows()} if cuda else {}) | {f"{side} px, 28 steps": rows, "Compiling": calls}
    return f"; medians of {rounds} interleaved rounds, {where}, random weights.", tables


def seconds(taken: list[float]) -> float:
    return round(sorted(taken)[len(taken) // 2], 2)


def rows_of(taken: dict[str, list[float]]) -> Table:
    """Over the first."""
    first = next(iter(taken))
    return [{"28 steps and VAE": name, "seconds": seconds(taken[name]),
             "over stock, eager": round(ratio(taken, name, first), 3),
             "ours, 2 faces, compiled, over it": ""} for name in taken]  # fmt: skip
