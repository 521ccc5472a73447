"""Rendering: one step against stock FLUX and its FLOP ideal, LoRA and modulation against toggled branches, and what
hoisting, batches, compiled blocks and first-block caching give.

python -m benchmarks generate                    here: a small FLUX at 512 px, one block of real width, mini
python -m benchmarks generate --device cuda      a step of FLUX.1's size with random weights, 1024 px, bfloat16
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anyphoto_cli.model.hoisted_modulation import hoist_modulation
from anyphoto_cli.model.location_lora import ADAPTER, lora_parameters, split_lora
from anyphoto_cli.model.token_pruning import LocationTokens, grid_ids
from anyphoto_cli.train.flops import forward_flops
from benchmarks import card
from benchmarks.models import built
from benchmarks.rounds import asked, attempted, interleaved, milliseconds, ratio, that_run, wait
from benchmarks.train import naive

LIMITS = (
    "one step at most 1.10 x its FLOP ideal on a CPU (1.05 on a GPU) and 1.01 x stock diffusers without faces; LoRA "
    "and modulation by rows at least 1.8 x faster than toggled branches; on an H100, 1024 px, 4 faces of 192 px: at "
    "most 1.17 x stock FLUX"
)
Table = list[dict[str, object]]
STOCK, OURS = "stock diffusers", "ours"
ROOT = Path(__file__).resolve().parents[1]


def tokens_of(lengths: Sequence[int], side: int, device: torch.device, dtype: torch.dtype) -> LocationTokens:
    """Location tokens of people somewhere in a square picture."""
    total, cells = sum(lengths), side // 16
    generator = torch.Generator().manual_seed(len(lengths))
    places = torch.randint(cells * cells, (total,), generator=generator)
    return LocationTokens(
        torch.randn(total, 64, generator=generator).to(device, dtype), grid_ids(cells, cells, 1)[places].to(device),
        tuple(lengths), F.normalize(torch.randn(len(lengths), 512, generator=generator)).to(device),
    )  # fmt: skip


def inputs_of(model: Any, side: int, text: int) -> dict[str, Any]:
    """One sample of random numbers."""
    device, dtype, noise = model.device, model.dtype, (side // 16) ** 2
    return dict(
        hidden_states=torch.randn(1, noise, 64, device=device, dtype=dtype),
        encoder_hidden_states=torch.randn(1, text, model.config.joint_attention_dim, device=device, dtype=dtype),
        pooled_projections=torch.randn(1, 768, device=device, dtype=dtype),
        timestep=torch.full((1,), 0.5, device=device, dtype=dtype), guidance=torch.full((1,), 3.5, device=device),
        img_ids=grid_ids(side // 16, side // 16).to(device), txt_ids=torch.zeros(text, 3, device=device),
        return_dict=False,
    )  # fmt: skip


def ideal(model: Any, noise: int, text: int, lengths: Sequence[int], rank: int) -> float:
    """FLOP of a step with location tokens and LoRA on them, over those of a step without."""
    width = model.config.num_attention_heads * model.config.attention_head_dim
    located, plain = sum(lengths), forward_flops(model, noise, text, [])
    # Of the adapted layers, in and out widths by block: METHOD A.1's list.
    double = (4 * (width + width) + 5 * width) * model.config.num_layers
    single = (3 * (width + width) + 5 * width + 6 * width) * model.config.num_single_layers
    return (forward_flops(model, noise, text, lengths) + 2 * rank * located * (double + single)) / plain


@contextmanager
def as_naive(model: Any) -> Iterator[None]:
    """Dense mask, LoRA computed for all tokens."""
    model.attention, model.fused = "masked", False
    with naive():
        yield
    model.attention, model.fused = "auto", None


def a_pair(device: torch.device, side: int, rank: int) -> tuple[Any, Any]:
    """(stock FLUX, ours with a trained-looking adapter)."""
    stock, ours = built(device, side, rank, plain=True).eval(), built(device, side, rank).eval()
    stock.delete_adapters(ADAPTER)
    for p in lora_parameters(ours).values():
        p.data = (torch.randn_like(p) * 0.02).to(ours.dtype)
    return stock, ours


def groups_of(device: torch.device) -> tuple[int, dict[int, list[int]]]:
    """(side of a picture, people -> location tokens of each): smaller faces in larger groups."""
    sides = (
        ((1, 384), (2, 256), (4, 192), (8, 128)) if device.type == "cuda" else ((1, 192), (2, 128), (4, 96), (8, 64))
    )
    return (1024 if device.type == "cuda" else 512), {n: [(s // 16) ** 2] * n for n, s in sides}


def step_rows(device: torch.device, rounds: int, stock: Any, ours: Any) -> Table:
    """Stock, ours without and with people, naive; interleaved. Ours has its modulation rows made beforehand, as renders
    have.
    """
    side, groups = groups_of(device)
    text, rank = 512, ours.method.lora_rank
    given = inputs_of(ours, side, text)
    located = {n: [tokens_of(lengths, side, device, ours.dtype)] for n, lengths in groups.items()}
    told = [given["timestep"]], given["guidance"], given["pooled_projections"]
    hoisted = {n: hoist_modulation(ours, *told, faces)[0] for n, faces in (located | {0: ()}).items()}

    @torch.no_grad()
    def run(model: Any, faces: Any = None, plainly: bool = False, rows: Any = None) -> None:
        more = {} if faces is None else {"faces": faces, "hoisted": rows}
        if plainly:
            with as_naive(model):
                model(**given, **more)
        else:
            model(**given, **more)

    cases: dict[str, Callable[[], None]] = {STOCK: partial(run, stock)}
    for n, faces in ({0: ()} | located).items():
        cases[f"{OURS}, {n}"] = partial(run, ours, faces, rows=hoisted[n])
        if n in (0, 4):
            cases[f"in the step, {n}"] = partial(run, ours, faces)
        if n in (1, 4, 8):
            cases[f"naive, {n}"] = partial(run, ours, faces, True)
    taken = interleaved(cases, rounds)
    rows: Table = []
    for n in (0, *groups):
        limit = ideal(ours, (side // 16) ** 2, text, groups.get(n, []), rank)
        over = {name: round(ratio(taken, f"{name}, {n}", STOCK), 3) if f"{name}, {n}" in taken else "n/a"
                for name in (OURS, "in the step", "naive")}  # fmt: skip
        rows.append({
            "px": side, "faces": n, "location tokens": sum(groups.get(n, [])), "FLOP ideal": round(limit, 3),
            "ours / stock": over[OURS], "ours / ideal": round(float(over[OURS]) / limit, 3),
            "ours, rows made in the step / stock": over["in the step"], "naive / stock": over["naive"],
            "ms, stock": milliseconds(taken[STOCK]),
        })  # fmt: skip
    return rows


def variant_rows(device: torch.device, rounds: int, stock: Any, ours: Any) -> Table:
    """Four people, as `generate` renders them: which attention, which kernels of torch, a strength, and what the host
    does beside the GPU.
    """
    side, groups = groups_of(device)
    given = inputs_of(ours, side, 512)
    plain = [tokens_of(groups[4], side, device, ours.dtype)]
    strong = [replace(plain[0], strengths=(1.2, 1.0, 1.0, 0.8))]
    told = [given["timestep"]], given["guidance"], given["pooled_projections"]
    rows = hoist_modulation(ours, *told, plain)[0]

    @torch.no_grad()
    def run(model: Any, kernel: str = "auto", backend: str = "", fused: bool | None = None, **more: Any) -> None:
        if model is ours:
            model.attention, model.fused = kernel, fused
        with kernels_of(backend):
            model(**given, **more)
        if model is ours:
            model.attention, model.fused = "auto", None

    ours_by = partial(run, ours, hoisted=rows)
    cases, refused = that_run({
        STOCK: partial(run, stock), f"{STOCK}, flash": partial(run, stock, backend="FLASH_ATTENTION"),
        **{name: partial(ours_by, name, faces=plain) for name in ("merged", "split", "masked")},
        "merged, each operation by itself": partial(ours_by, "merged", fused=False, faces=plain),
        **{f"{name}, strengths": partial(ours_by, name, faces=strong) for name in ("merged", "split")},
    })  # fmt: skip
    host = {name: host_ms(case) for name, case in cases.items()}
    taken = interleaved(cases, rounds, warm=True)
    return [
        {"4 people": name, "over stock": round(ratio(taken, name, STOCK), 3), "ms": milliseconds(taken[name]),
         "ms until the host has launched it": host[name]}
        for name in cases
    ] + [{"4 people": name, "over stock": "refused", "ms": why, "ms until the host has launched it": ""}
         for name, why in refused.items()]  # fmt: skip


def kernels_of(backend: str) -> Any:
    """torch's attention by one backend alone; "": as torch picks."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(getattr(SDPBackend, backend)) if backend else nullcontext()


def host_ms(case: Callable[[], None]) -> float:
    """Until the call comes back, the GPU idle before: where that is less than the step, launches cost nothing."""
    taken = []
    for _ in range(2):
        wait()
        began = time.perf_counter()
        case()
        taken.append(time.perf_counter() - began)
    wait()
    return milliseconds(taken)


def branch_rows(rounds: int) -> Table:
    """The linear layers of one single block of FLUX.1's width: ours, and branch by branch with the adapter toggled."""
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    block = FluxSingleTransformerBlock(3072, 24, 128).requires_grad_(False)
    targets = ["norm.linear", "proj_mlp", "proj_out", "to_q", "to_k", "to_v"]
    inject_adapter_in_model(LoraConfig(r=128, target_modules=targets, init_lora_weights=False), block, ADAPTER)
    lengths = [100] * 4
    shared, total = 1536, 1536 + sum(lengths)
    layers = [block.attn.to_q, block.attn.to_k, block.attn.to_v, block.proj_mlp]
    x, wide, rows = torch.randn(total, 3072), torch.randn(total, 15360), torch.randn(1 + len(lengths), 3072)

    @torch.no_grad()
    def by_rows() -> Tensor:
        for layer in layers:
            split_lora(layer, x, sum(lengths))
        split_lora(block.norm.linear, rows, len(lengths))
        return split_lora(block.proj_out, wide, sum(lengths))

    @torch.no_grad()
    def toggled(each_token: bool = False) -> Tensor:
        """each_token: modulation by a row for every token, as XVerse has it."""

        def call(layer: Any, x: Tensor, on: bool) -> Tensor:
            scaling, layer.scaling[ADAPTER] = layer.scaling[ADAPTER], layer.scaling[ADAPTER] if on else 0.0
            out: Tensor = layer(x)
            layer.scaling[ADAPTER] = scaling
            return out

        cuts, out = [shared, *lengths], []
        for number, (part, part_wide) in enumerate(zip(x.split(cuts), wide.split(cuts), strict=True)):
            for layer in layers:
                call(layer, part, number > 0)
            own = rows[number : number + 1]
            call(block.norm.linear, own.expand(len(part), -1) if each_token else own, number > 0)
            out.append(call(block.proj_out, part_wide, number > 0))
        return torch.cat(out)

    torch.testing.assert_close(by_rows(), toggled(), rtol=0, atol=1e-3)
    taken = interleaved({"by rows": by_rows, "toggled": toggled, "each": partial(toggled, True)}, rounds)
    return [{
        "tokens": total, "people": len(lengths), "rank": 128, "ms, by rows": milliseconds(taken["by rows"]),
        "ms, toggled branches": milliseconds(taken["toggled"]),
        "toggled / by rows": round(ratio(taken, "toggled", "by rows"), 2),
        "toggled, modulated by token / by rows": round(ratio(taken, "each", "by rows"), 2),
    }]  # fmt: skip


def friends(pipeline: Any) -> tuple[Any, dict[str, Any]]:
    """(location tokens, call arguments) of README's first layout."""
    from anyphoto_cli.faces.packs import open_faces
    from anyphoto_cli.generate import prepare_faces
    from anyphoto_cli.layout.schema import load_layout
    from anyphoto_cli.mini.shipped import face_pack_folder

    layout = load_layout(ROOT / "examples" / "three_friends.json")
    people = prepare_faces(layout, open_faces(face_pack_folder()), pipeline.method).faces
    said = dict(
        prompt=layout.prompt, height=layout.height, width=layout.width, num_inference_steps=20, output_type="np"
    )
    return pipeline.encode_faces(people), said


def mini() -> Any:
    from anyphoto_cli.mini.shipped import adapter_folder, base_folder
    from anyphoto_cli.model.pipeline import AnyPhotoPipeline

    pipeline = AnyPhotoPipeline.from_pretrained(str(base_folder()), dtype=torch.float32)
    pipeline.load_anyphoto(adapter_folder())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture_rows(rounds: int) -> Table:
    """README's first picture on mini: hoisting, and several seeds at once. Seconds a picture."""
    pipeline = mini()
    located, said = friends(pipeline)

    def render(count: int, hoist: bool) -> None:
        pipeline.hoist_modulation = hoist
        generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
        pipeline(**said, faces=located, generator=generators, num_images_per_prompt=count)

    cases = {
        "one by one, rows in the steps": partial(render, 1, False), "one by one (default)": partial(render, 1, True),
        **{f"{count} at once": partial(render, count, True) for count in (2, 4, 8)},
    }  # fmt: skip
    taken = interleaved(cases, rounds)
    first = "one by one, rows in the steps"
    rows: Table = []
    for name in cases:
        count = int(name.split()[0]) if name[0].isdigit() else 1
        rows.append({
            "three_friends.json on mini": name, "ms a picture": round(milliseconds(taken[name]) / count, 1),
            "over the first line": round(ratio(taken, name, first) / count, 3),
        })  # fmt: skip
    return rows


def cache_rows(rounds: int, seeds: int = 6) -> Table:
    """First-block caching on mini: steps taken from the cache, time, and how far pictures and people move."""
    from anyphoto_cli.faces.packs import open_faces
    from anyphoto_cli.mini.shipped import face_pack_folder

    pipeline, pack = mini(), open_faces(face_pack_folder())
    located, said = friends(pipeline)

    def render(threshold: float | None, seed: int) -> np.ndarray:
        out = pipeline(
            **said, faces=located, generator=torch.Generator().manual_seed(seed), cache_threshold=threshold
        ).images[0]
        return (out * 255).round().astype(np.uint8)

    def known(picture: np.ndarray) -> float:
        from anyphoto_cli.faces.norm_crop import norm_crop

        found = pack.detect([picture])[0]
        if not found:
            return 0.0
        faces = pack.embed(np.stack([norm_crop(picture, face.landmarks) for face in found]))
        return float((faces @ located.embeddings.numpy().T).max(0).mean())

    thresholds = (None, 0.05, 0.1, 0.2, 0.3)
    taken = interleaved({str(t): partial(render, t, 0) for t in thresholds}, rounds)
    exact = [render(None, seed) for seed in range(seeds)]
    rows: Table = []
    for threshold in thresholds:
        pictures, reused = [], 0
        for seed in range(seeds):
            pictures.append(render(threshold, seed))
            reused += pipeline.reused_steps
        off = np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(pictures, exact, strict=True)])
        rows.append({
            "--cache": threshold or "off", "steps reused": f"{reused / seeds / 20:.0%}",
            "time over off": round(ratio(taken, str(threshold), "None"), 2),
            "grey levels off": round(float(off), 2), "likeness": round(float(np.mean([known(p) for p in pictures])), 3),
        })  # fmt: skip
    return rows


def compile_rows(rounds: int) -> Table:
    """Compiled blocks of the small model: time, and graphs over layouts of other faces. Needs a C++ compiler."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    eager, compiled = (built(torch.device("cpu"), 512, 16).eval() for _ in range(2))
    compiled.load_state_dict(eager.state_dict())
    compiled.compile_blocks()
    given = inputs_of(eager, 512, 512)
    groups = [[36] * 4, [64] * 2, [144], [9, 25, 49, 100, 16]]

    @torch.no_grad()
    def run(model: Any, lengths: Sequence[int]) -> Tensor:
        faces = [tokens_of(lengths, 512, model.device, model.dtype)]
        rows = hoist_modulation(model, [given["timestep"]], given["guidance"], given["pooled_projections"], faces)
        out: Tensor = model(**given, faces=faces, hoisted=rows[0])[0]
        return out

    rows: Table = []
    for lengths in groups:
        run(compiled, lengths)
        graphs = counters["stats"]["unique_graphs"]
        cases = {"eager": partial(run, eager, lengths), "compiled": partial(run, compiled, lengths)}
        taken = interleaved(cases, rounds)
        rows.append({
            "faces": str(lengths), "graphs so far": graphs, "ms, eager": milliseconds(taken["eager"]),
            "compiled / eager": round(ratio(taken, "compiled", "eager"), 3),
            "largest difference": f"{(run(eager, lengths) - run(compiled, lengths)).abs().max():.1e}",
        })  # fmt: skip
    return rows


def measure_on(device: torch.device, rounds: int, stock: Any, ours: Any) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title) of a GPU."""
    return f"; {card.name(device)}, random weights; medians of {rounds} interleaved rounds.", {
        **({"The card": card.rows()} if device.type == "cuda" else {}),
        "One step of FLUX.1": attempted(lambda: step_rows(device, rounds, stock, ours)),
        "One step with four people of 192 px": attempted(lambda: variant_rows(device, rounds, stock, ours)),
    }  # fmt: skip


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    if device.type == "cuda":
        return measure_on(device, rounds, *a_pair(device, 1024, 128))
    tables = {
        "One step of a small FLUX (width 384, 2 + 4 blocks)": step_rows(device, rounds, *a_pair(device, 512, 16)),
        "Linear layers of one block of FLUX.1's width": branch_rows(max(rounds // 2, 3)),
        "Whole pictures": picture_rows(rounds),
        "First-block cache (inexact, off by default)": cache_rows(rounds),
        "Compiled blocks (inductor)": compile_rows(rounds),
    }
    return f"; medians of {rounds} interleaved rounds, one thread, nothing else running.", tables
