"""All tables of a GPU but the ladder's from one pair of models in one process, for a card that is lent for minutes.

python -m benchmarks together --device cuda                       FLUX.1's size with random weights
python -m benchmarks together pictures kernels --device cuda      some of them

Each part's page is written when it is through; what is stopped later is not lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from anyphoto_cli.model.location_lora import ADAPTER, location_lora_config
from benchmarks import attention, card, generate, kernels, pictures, train
from benchmarks.models import as_rendered, as_trained
from benchmarks.rounds import asked, attempted

Table = list[dict[str, object]]
Written = Callable[[str, str, dict[str, Table]], None]


PARTS = ("generate", "train", "pictures", "train-compiled", "kernels", "attention")
"""In an order in which little is compiled twice."""


def measure(arguments: list[str], written: Written) -> None:
    """written: keeps (part, note, tables)."""
    wanted = [part for part in PARTS if part in arguments] or PARTS
    device, rounds = asked([word for word in arguments if word not in PARTS])
    began = time.perf_counter()

    def told(part: str, note: str, tables: dict[str, Table]) -> None:
        written(part, note, tables)
        print(f"== {part} after {time.perf_counter() - began:.0f} s", flush=True)

    stock, ours = generate.a_pair(device, 1024 if device.type == "cuda" else 512, 128 if device.type == "cuda" else 16)
    print(f"built after {time.perf_counter() - began:.0f} s", flush=True)
    measured = parts_of(device, rounds, stock, ours)
    for part in wanted:
        if part in measured:
            told(part, *measured[part]())


def parts_of(device: torch.device, rounds: int, stock: Any, ours: Any) -> dict[str, Callable[[], Any]]:
    """Name -> what gives (a note, tables by title)."""
    note = f"; {card.name(device)}, random weights; medians of {rounds} rounds."

    def compiled_training() -> tuple[str, dict[str, Table]]:
        as_trained(ours).compile_blocks()
        parts = train.parts_of(ours, device)
        rows = attempted(lambda: train.whole_step_rows(parts, rounds, "compiled blocks", train.weights_gb(stock)))
        return note, {"Whole steps": rows}

    found: dict[str, Callable[[], Any]] = {
        "generate": lambda: generate.measure_on(device, rounds, stock, as_rendered(ours)),
        "train": lambda: eager_training(device, rounds, stock, as_trained(ours)),
        "pictures": lambda: pictures.measure_on(device, max(rounds // 2, 1), (stock, as_rendered(ours)), False),
        "train-compiled": compiled_training,
        "kernels": lambda: kernels.measure_on(device, rounds, stock, ours),
    }
    if device.type == "cuda":
        found["attention"] = lambda: (note, attention.short_tables(device, rounds))
    return found


def eager_training(device: torch.device, rounds: int, stock: Any, ours: Any) -> tuple[str, dict[str, Table]]:
    """Whole steps of ours; then ours against naive and a plain LoRA step."""
    parts, cuda = train.parts_of(ours, device), device.type == "cuda"
    tables: dict[str, Table] = {"The card": card.rows()} if cuda else {}
    tables["Whole steps, nothing checkpointed, without T5 and CLIP"] = attempted(
        lambda: train.whole_step_rows(parts, rounds, beside=train.weights_gb(stock))
    )
    stock.add_adapter(location_lora_config(ours.method, len(stock.single_transformer_blocks)), ADAPTER)
    for name, parameter in stock.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        parameter.data = parameter.data.float() if ".lora_" in name else parameter.data
    stock.train()
    tables["One step without the optimiser"] = attempted(lambda: train.step_rows(parts, stock, 512, 2, rounds))
    stock.delete_adapters(ADAPTER)
    stock.eval().requires_grad_(False)
    return f"; {card.name(device)}, random weights; medians of {rounds} interleaved rounds.", tables
