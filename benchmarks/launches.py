"""What Python and torch do for a step beside computing: as many blocks as FLUX.1 has, so narrow that they compute next
to nothing. A card that computes faster than its host launches waits for this.

python -m benchmarks launches
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from anyphoto_cli.model.hoisted_modulation import hoist_modulation
from benchmarks import models
from benchmarks.generate import STOCK, a_pair, inputs_of, tokens_of
from benchmarks.models import as_rendered, as_trained
from benchmarks.rounds import asked, interleaved, milliseconds, ratio

LIMITS = "none of its own: compiled steps should take less than eager ones"
NARROW = dict(
    num_layers=19, num_single_layers=38, attention_head_dim=16, num_attention_heads=2, axes_dims_rope=(4, 6, 6)
)
SIDE, TEXT = 64, 16
Table = list[dict[str, object]]


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    _, rounds = asked(arguments)
    device = torch.device("cpu")
    models.SMALL.update(NARROW)
    eager, compiled = a_pair(device, SIDE, 4), a_pair(device, SIDE, 4)
    compiled[0].compile_repeated_blocks(fullgraph=True)
    compiled[1].compile_blocks()
    given = inputs_of(eager[1], SIDE, TEXT)
    faces = [tokens_of([4, 4], SIDE, device, torch.float32)]

    @torch.no_grad()
    def render(model: Any, **more: Any) -> None:
        model(**given, **more)

    def rendering(model: Any, attention: str) -> Callable[[], None]:
        told = [given["timestep"]], given["guidance"], given["pooled_projections"]
        rows = hoist_modulation(as_rendered(model), *told, faces)[0]
        return as_asked(model, attention, partial(render, model, faces=faces, hoisted=rows))

    kinds = {"eager": eager, "compiled": compiled}
    cases = {f"{STOCK}, {kind}": partial(render, pair[0]) for kind, pair in kinds.items()}
    cases |= {f"ours, 2 people, {kind}": rendering(pair[1], "merged") for kind, pair in kinds.items()}
    tables = {"Rendering, a step": rows_of(interleaved(cases, rounds))}
    for kind, pair in kinds.items():
        for attention in ("masked", "merged"):
            training = partial(step, as_trained(pair[1]), given, faces, list(pair[1].parameters()))
            cases[f"{attention}, {kind}"] = as_asked(pair[1], attention, training)
    trained = {name: case for name, case in cases.items() if name.startswith("m")}
    tables["Training, forward and backward"] = rows_of(interleaved(trained, rounds))
    return f"; medians of {rounds} interleaved rounds, one thread, {SIDE // 16 * (SIDE // 16)} noise tokens.", tables


def as_asked(model: Any, attention: str, case: Callable[[], None]) -> Callable[[], None]:
    """With one form of attention."""

    def called() -> None:
        model.attention = attention
        case()

    return called


def step(model: Any, given: dict[str, Any], faces: Any, parameters: list[Any]) -> None:
    """Gradients of everything that is trained."""
    model(**given, faces=faces)[0].square().sum().backward()
    for parameter in parameters:
        parameter.grad = None


def rows_of(taken: dict[str, list[float]]) -> Table:
    """Over the first."""
    first = next(iter(taken))
    return [
        {"case": name, "ms": milliseconds(seconds), f"over {first}": round(ratio(taken, name, first), 2)}
        for name, seconds in taken.items()
    ]
