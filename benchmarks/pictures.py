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
from benchmarks.models import random_vae
from benchmarks.rounds import asked, interleaved, ratio, that_run, wait

LIMITS = "28 steps at 1024 px with 2 faces, compiled: not slower than diffusers' eager FluxPipeline without faces"
Table = list[dict[str, object]]


def pipelines(device: torch.device, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Around (stock, ours), without text encoders."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    vae = random_vae(device)
    made = []
    for kind, transformer in zip((FluxPipeline, AnyPhotoPipeline), pair, strict=True):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        pipeline: Any = kind(scheduler, vae, None, None, None, None, transformer)
        pipeline.set_progress_bar_config(disable=True)
        made.append(pipeline)
    return made[0], made[1]


def said(pipeline: Any, device: torch.device, side: int) -> dict[str, Any]:
    """A call's arguments, but for faces."""
    config, dtype = pipeline.transformer.config, pipeline.transformer.dtype
    return dict(
        prompt_embeds=torch.randn(1, 512, config.joint_attention_dim, device=device, dtype=dtype),
        pooled_prompt_embeds=torch.randn(1, 768, device=device, dtype=dtype), height=side, width=side,
        guidance_scale=3.5, output_type="pt",
    )  # fmt: skip


def first_calls(name: str, renders: dict[str, Any]) -> Table:
    """Of a compiled pipeline: seconds of a picture of two steps, called twice each, and the graphs there are."""
    from torch._dynamo.utils import counters

    rows: Table = []
    for what, render in renders.items():
        for call in ("first", "second"):
            began = time.perf_counter()
            render()
            wait()
            rows.append({"compiled": name, "two steps, VAE": what, "call": call, "seconds": round(
                time.perf_counter() - began, 2), "graphs so far": counters["stats"]["unique_graphs"]})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    cuda = device.type == "cuda"
    return measure_on(device, rounds, a_pair(device, 1024 if cuda else 512, 128 if cuda else 16))


def measure_on(
    device: torch.device, rounds: int, pair: tuple[Any, Any], compile_stock: bool = True
) -> tuple[str, dict[str, Table]]:  # fmt: skip
    """(a note, tables by title), with (stock, ours)."""
    cuda = device.type == "cuda"
    side, groups = groups_of(device)
    steps = 28 if cuda else 2
    stock, ours = pipelines(device, pair)
    words = said(ours, device, side)
    faces = {n: tokens_of(lengths, side, device, ours.transformer.dtype) for n, lengths in groups.items()}

    def render(pipeline: Any, people: int = 0, count: int = steps) -> None:
        more = {"faces": faces[people]} if people else {}
        generator = torch.Generator(device).manual_seed(0)
        pipeline(**words, generator=generator, num_inference_steps=count, **more)

    plain, with_two = partial(render, stock), partial(render, ours, 2)
    that_run({STOCK: partial(plain, count=2), "ours": partial(with_two, count=2)})
    eager = f"{STOCK}, eager"
    taken = interleaved({eager: plain, "ours, 2 faces, eager": with_two}, rounds, warm=True)
    ours.transformer.compile_blocks()
    few = {f"{n} faces": partial(render, ours, n, 2) for n in (2, 4, 8)}
    calls = first_calls("ours", few)
    # Eager stock once more beside it, so that the two that the bar compares stand in one round.
    bar = {eager: plain, "ours, 2 faces, compiled": with_two, "ours, 4 faces, compiled": partial(render, ours, 4)}
    again = interleaved(bar, rounds, warm=True)
    rows = rows_of(taken) + rows_of(again)[1:]
    for row in rows:
        print(row, flush=True)
    if compile_stock:
        stock.transformer.compile_repeated_blocks(fullgraph=True)
        calls += first_calls(STOCK, {"no faces": partial(plain, count=2)})
        last = interleaved({"theirs": plain, "ours": with_two}, rounds, warm=True)
        rows.append({
            "28 steps and VAE": f"{STOCK}, compiled", "seconds": seconds(last["theirs"]),
            "over stock, eager": round(seconds(last["theirs"]) / seconds(again[eager]), 3),
            "ours, 2 faces, compiled, over it": round(ratio(last, "ours", "theirs"), 3),
        })  # fmt: skip
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
