"""All tables of a GPU but the ladder's from one pair of models in one process, for a card that is lent for minutes.

python -m benchmarks together --device cuda      FLUX.1's size with random weights: generate, train, pictures, ladder

Each part's page is written when it is through; what is stopped later is not lost.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from anyphoto_cli.model.flash_kernels import Cudnn, Flash, FlashAtOnce
from anyphoto_cli.model.isolated_attention import masked_attention, merged_attention
from anyphoto_cli.model.kernel_trial import cuda_kernels, errors
from anyphoto_cli.model.location_lora import ADAPTER, location_lora_config
from anyphoto_cli.train.optimiser import trained_parameters
from anyphoto_cli.train.sections import Sections
from benchmarks import attention, card, generate, pictures, train
from benchmarks.rounds import asked, attempted

Table = list[dict[str, object]]
Written = Callable[[str, str, dict[str, Table]], None]


def measure(arguments: list[str], written: Written) -> None:
    """written: keeps (part, note, tables)."""
    device, rounds = asked(arguments)
    began = time.perf_counter()

    def told(part: str, note: str, tables: dict[str, Table]) -> None:
        written(part, note, tables)
        print(f"== {part} after {time.perf_counter() - began:.0f} s", flush=True)

    attempted(lambda: kernel_rows(device))
    stock, ours = generate.a_pair(device, 1024 if device.type == "cuda" else 512, 128 if device.type == "cuda" else 16)
    print(f"built after {time.perf_counter() - began:.0f} s", flush=True)
    told("generate", *generate.measure_on(device, rounds, stock, ours))
    if device.type == "cuda":
        note = f"; {card.name(device)}; medians of {rounds} interleaved rounds."
        told("attention", note, attention.short_tables(device, rounds))
    told("train", *eager_training(device, rounds, stock, as_trained(ours)))
    told("pictures", *pictures.measure_on(device, max(rounds // 2, 1), (stock, as_rendered(ours)), compile_stock=False))
    del stock
    gc.collect()
    parts = train.parts_of(as_trained(ours), device)
    note = f"; {card.name(device)}, random weights; medians of {rounds} rounds."
    rows = attempted(lambda: train.whole_step_rows(parts, rounds, "compiled blocks"))
    told("train-compiled", note, {"Whole steps": rows})
    told("memory", f"; {card.name(device)}, random weights.", {"In NF4": attempted(lambda: nf4_rows(parts))})


def kernel_rows(device: torch.device) -> Table:
    """What each set of flash kernels is off by, and which one is taken."""
    if device.type == "cpu":
        return []
    rows: Table = []
    for kernels in (Cudnn(), FlashAtOnce(), Flash()):
        for lengths, shared, strided in (((24, 9, 40), 56, True), ((100, 37), 300, True), ((100, 37), 300, False),
                                         ((100, 37), 128, False), ((64, 64), 256, True)):  # fmt: skip
            try:
                found: object = [
                    f"{x:.1e}" for x in errors(kernels, device, torch.bfloat16, 128, lengths, shared, strided)
                ]
            except RuntimeError as error:
                found = str(error)[:200]
            name = type(kernels).__name__
            rows.append({"kernels": name, "lengths": lengths, "shared": shared, "strided": strided, "off": found})
    for strided in (True, False):
        off = [f"{x:.1e}" for x in through_autograd(device, strided)]
        rows.append({"kernels": "through autograd", "strided": strided, "off": off})
    chosen = cuda_kernels(torch.device("cuda", 0), torch.bfloat16, 128)
    return [*rows, {"taken": type(chosen).__name__}]


def through_autograd(device: torch.device, strided: bool) -> list[float]:
    """Of `merged_attention` with gradients, against float64 under the mask."""
    torch.manual_seed(0)
    lengths = (100, 37)
    q, k, v = (torch.randn(2, 437, 4, 128, device=device, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3))
    given = [(x if strided else x.contiguous()).requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in given]
    w = torch.randn(2, 4, 437, 128, device=device, dtype=torch.bfloat16)

    def outcome(form: Callable[..., torch.Tensor], x: list[torch.Tensor]) -> list[torch.Tensor]:
        out = form(*x, lengths)
        return [out.detach(), *torch.autograd.grad((out * w.to(out.dtype)).sum(), x)]

    pairs = zip(outcome(merged_attention, given), outcome(masked_attention, exact), strict=True)
    return [float((x.double() - y).norm() / y.norm()) for x, y in pairs]


def as_trained(model: Any) -> Any:
    """Masters in float32 that want gradients."""
    for parameter in trained_parameters(model).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return model.train()


def as_rendered(model: Any) -> Any:
    """As `load_anyphoto` leaves it."""
    for name, parameter in trained_parameters(model).items():
        parameter.data = parameter.data.to(model.dtype) if "lora_" in name else parameter.data
        parameter.requires_grad_(False)
    return model.eval()


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


def nf4_rows(parts: Any) -> Table:
    """The blocks' linear layers in NF4 where they stand: peak of a training step with everything checkpointed, of a
    render's step with four people. T5 comes before in both, and is smaller.
    """
    import bitsandbytes as bnb
    import numpy as np

    from anyphoto_cli.config.train import TrainConfig
    from anyphoto_cli.train.optimiser import Optimiser

    model, device = parts.transformer, parts.device
    model.compiled_blocks = False
    for block in [*model.transformer_blocks, *model.single_transformer_blocks]:
        block._compiled_call_impl = None
        linears = [(name, layer) for name, layer in block.named_modules() if isinstance(layer, nn.Linear)]
        for name, linear in linears:
            if "lora_" in name:
                continue
            four = bnb.nn.Linear4bit(
                linear.in_features, linear.out_features, linear.bias is not None, torch.bfloat16, quant_type="nf4",
                device="meta",
            )  # fmt: skip
            weight = linear.weight.data.cpu()
            four.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            four.bias = linear.bias
            parent, _, child = name.rpartition(".")
            linear.weight = None
            setattr(block.get_submodule(parent), child, four.to(device))
    gc.collect()
    torch.cuda.empty_cache()
    told = {"model": "mini", "output_dir": "x", "max_train_steps": 100, "learning_rate": 1e-12,
            "data": {"shards": "x"}}  # fmt: skip
    rows: Table = []
    model.enable_gradient_checkpointing()
    optimiser = Optimiser(trained_parameters(model), TrainConfig.model_validate(told))
    for side in (512, 1024):
        example = train.random_example(side, 2, np.random.default_rng(0))
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            torch.cuda.synchronize()
            began = time.perf_counter()
            train.whole_step([example], parts, optimiser, 0.1, Sections(device))
            torch.cuda.synchronize()
        rows.append({
            "what": f"training step, {side} px, 2 faces, all checkpointed",
            "GB at most": round(torch.cuda.max_memory_allocated() / 1e9, 1),
            "seconds": round(time.perf_counter() - began, 2),
        })  # fmt: skip
        print(rows[-1], flush=True)
    del optimiser
    as_rendered(model)
    gc.collect()
    torch.cuda.empty_cache()
    given = generate.inputs_of(model, 1024, 512)
    faces = [generate.tokens_of([144] * 4, 1024, device, torch.bfloat16)]
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        model(**given, faces=faces)
        torch.cuda.synchronize()
        began = time.perf_counter()
        model(**given, faces=faces)
        torch.cuda.synchronize()
    rows.append({
        "what": "a render's step, 1024 px, 4 people", "GB at most": round(torch.cuda.max_memory_allocated() / 1e9, 1),
        "seconds": round(time.perf_counter() - began, 2),
    })  # fmt: skip
    return rows
