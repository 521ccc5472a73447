"""One training step: ours, a naive AnyPhoto, and a plain LoRA step of stock FLUX; and what the loader delivers.

python -m benchmarks train                       here, at a small size
python -m benchmarks train --device cuda         FLUX.1's size with random weights, 512 x 512 px
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.config.train import LossConfig, TrainConfig
from anyphoto_cli.model.location_lora import ADAPTER, Weights, _delta
from anyphoto_cli.train.ahead import encoded
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.flops import peak_flops, step_flops
from anyphoto_cli.train.frozen import Parts, encode_batch
from anyphoto_cli.train.objective import objective
from anyphoto_cli.train.optimiser import Optimiser, trained_parameters
from anyphoto_cli.train.sections import Sections
from benchmarks import card
from benchmarks.models import Text, built, random_example, random_vae, recogniser_of
from benchmarks.rounds import asked, attempted, interleaved, ratio, that_run

LIMITS = (
    "at least 1.25 x a naive AnyPhoto (dense mask, LoRA computed for all tokens, whole picture decoded) with the same "
    "checkpointing, 1.6 x one with full checkpointing; on an H100 50 % MFU, at most 60 GB in bfloat16"
)
Step = Callable[[], Tensor]


def lora_on_all_tokens(
    layer: nn.Module, x: Tensor, tail: int, own: Tensor | None = None, weights: Weights | None = None
) -> Tensor:  # fmt: skip
    """What `split_lora` gives, with the adapter computed for every token and masked after."""
    out = layer.base_layer(x) if hasattr(layer, "base_layer") else layer(x)
    if not tail or not hasattr(layer, "lora_A") or ADAPTER not in layer.lora_A:
        return out
    mask = torch.zeros(len(x), 1, dtype=x.dtype, device=x.device)
    mask[-tail:] = 1
    return out + mask * _delta(layer, ADAPTER, x)


@contextmanager
def naive() -> Iterator[None]:
    """For the time of a step."""
    from anyphoto_cli.model import blocks, identity_modulation, transformer

    with ExitStack() as stack:
        for module in (blocks, identity_modulation, transformer):
            stack.enter_context(mock.patch.object(module, "split_lora", lora_on_all_tokens))
        yield


def parts_of(model: Any, device: torch.device) -> Parts:
    """A model with the frozen ones around it. As `train` has it without gradient checkpointing, the face windows'
    decoding is kept for the backward pass.
    """
    text = Text(device, 512, model.config.joint_attention_dim)
    return Parts(model, random_vae(device), text, recogniser_of(device), device, model.dtype, recompute=False)


def steps(parts: Parts, plain: Any, side: int, faces: int) -> dict[str, tuple[Any, Step, Any]]:
    """Name -> (model, a step's loss, what to hold around it)."""
    ours, vae, text, device, dtype = parts.transformer, parts.vae, parts.encode_text, parts.device, parts.dtype
    example = random_example(side, faces, np.random.default_rng(0))

    def loss(decode: str) -> Step:
        config = LossConfig(face_decode=decode)
        return lambda: objective([example], parts, config, ours.method, seed=0, step=0, rank=0).loss

    def plain_loss() -> Tensor:
        from anyphoto_cli.model.token_pruning import grid_ids
        from anyphoto_cli.model.vae import to_pixels

        with torch.no_grad():
            clean = vae.encode(to_pixels([example.picture]).to(device, dtype)).latent_dist.mode()
        packed = F.pixel_unshuffle(clean, 2).flatten(2).transpose(1, 2).to(dtype)
        noise = torch.randn_like(packed)
        states, pooled = text(["a"])
        said = plain(
            hidden_states=(packed + noise) / 2, encoder_hidden_states=states.to(dtype),
            pooled_projections=pooled.to(dtype), timestep=torch.full((1,), 0.5, device=device),
            guidance=torch.ones(1, device=device), img_ids=grid_ids(side // 16, side // 16).to(device),
            txt_ids=torch.zeros(512, 3, device=device), return_dict=False,
        )[0]  # fmt: skip
        return (said.float() - (noise - packed).float()).square().mean()

    found: dict[str, tuple[Any, Step, Any]] = {"ours": (ours, loss("crop"), nullcontext)}
    if device.type == "cuda":
        found["ours, encoded ahead"] = (ours, ahead([example], parts, ours.method), nullcontext)
    return found | {
        "naive": (ours, loss("full"), naive),
        "naive, full checkpointing": (ours, loss("full"), naive),
        "plain LoRA step of stock FLUX, no faces": (plain, plain_loss, nullcontext),
    }


def ahead(examples: list[Example], parts: Parts, method: MethodConfig) -> Step:
    """The step whose VAE and captions were done beside the one before."""

    def encode(batch: Any, number: int) -> Any:
        return encode_batch(batch, parts, method, seed=0, step=0, rank=0)

    work = encoded(repeat(examples), encode, range(1_000_000), parts.device)
    return lambda: objective(examples, parts, LossConfig(), method, seed=0, step=0, rank=0, encoded=next(work)[1]).loss


def run_step(name: str, model: Any, loss: Step, around: Any, device: torch.device) -> tuple[float, float]:
    """(seconds, GB at most on a GPU, of saved tensors elsewhere)."""
    with as_named(name, model):
        return _run_step(model, loss, around, device)


@contextmanager
def as_named(name: str, model: Any) -> Iterator[None]:
    """Checkpointed or naive, as a case's name says, and plain again afterwards: other tables are made of this model."""
    if "checkpointing" in name:
        model.enable_gradient_checkpointing()
    if naive_ := name.startswith("naive"):
        model.attention, model.fused = "masked", False
    try:
        yield
    finally:
        model.disable_gradient_checkpointing()
        if naive_:
            model.attention, model.fused = "auto", None


def _run_step(model: Any, loss: Step, around: Any, device: torch.device) -> tuple[float, float]:
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    counting = nullcontext() if device.type == "cuda" else torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
    began = time.perf_counter()
    with around(), counting:
        loss().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    taken = time.perf_counter() - began
    for parameter in model.parameters():
        parameter.grad = None
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    bytes_ = torch.cuda.max_memory_allocated() if device.type == "cuda" else sum(
        size for where, size in saved.items() if where not in own
    )  # fmt: skip
    return taken, bytes_ / 1e9


def step_rows(parts: Parts, plain: Any, side: int, faces: int, rounds: int) -> list[dict[str, object]]:
    """Interleaved rounds, the first dropped."""
    device, cases = parts.device, steps(parts, plain, side, faces)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    memory: dict[str, float] = {}
    for round_ in range(rounds + 1):
        for name, (model, loss, around) in cases.items():
            taken, memory[name] = run_step(name, model, loss, around, device)
            # Of the two transformers one is at work.
            memory[name] -= weights_gb(parts.transformer if model is plain else plain) if device.type == "cuda" else 0.0
            if round_:
                seconds[name].append(taken)
    model = cases["ours"][0]
    counts = random_example(side, faces, np.random.default_rng(0)).masks.reshape(faces, -1).sum(1).tolist()
    useful = step_flops(model, (side // 16) ** 2, 512, counts)
    peak = peak_flops(device)
    rows = []
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        ratio = statistics.median(a / b for a, b in zip(taken, seconds["ours"], strict=True))
        mfu = f"{useful / middle / peak:.0%}" if peak and not name.startswith("plain") else "n/a"
        rows.append({
            "step": name, "px": side, "faces": faces, "location tokens": sum(counts), "seconds": round(middle, 3),
            "best": round(min(taken), 3), "ratio to ours": round(ratio, 2), "MFU": mfu,
            "GB" if device.type == "cuda" else "GB saved for the backward pass": round(memory[name], 2),
        })  # fmt: skip
    return rows


def weights_gb(model: Any) -> float:
    return float(sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9)


def whole_step_rows(
    parts: Parts, rounds: int, label: str = "eager", beside: float = 0.0
) -> list[dict[str, object]]:  # fmt: skip
    """A step as `train` takes it, with clipping and the optimiser: time, where it goes, memory; by size and batch.

    beside: GB on the card that are not this model's.
    """
    device, cuda = parts.device, parts.device.type == "cuda"
    optimiser = optimiser_of(parts.transformer)
    rate, rows = (card.matrix_rate() if cuda else None), []
    for side, faces, batch in ((512, 2, 1), (1024, 2, 1), (512, 2, 4)) if cuda else (
        (512, 2, 1),
    ):  # fmt: skip
        examples = [random_example(side, faces, np.random.default_rng(k)) for k in range(batch)]
        told_by = {weight: partial(whole_step, examples, parts, optimiser, weight) for weight in (0.1, 0.0)}
        if cuda:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        _, refused = that_run({"with": partial(told_by[0.1], Sections(device))})
        if refused:
            rows.append({"how": label, "px": side, "faces": faces, "batch": batch, "seconds": refused["with"]})
            continue
        peak = torch.cuda.max_memory_allocated() / 1e9 - beside if cuda else float("nan")
        sections = Sections(device)
        taken = interleaved(
            {"with": partial(told_by[0.1], sections), "without": partial(told_by[0.0], Sections(device))},
            rounds,
            warm=True,
        )
        middle = statistics.median(taken["with"])
        counts = examples[0].masks.reshape(faces, -1).sum(1).tolist()
        useful = batch * step_flops(parts.transformer, (side // 16) ** 2, 512, counts)
        parts_ = sections.take()
        whole = sum(parts_.values())
        by_sheet = peak_flops(device)
        rows.append({
            "how": label, "px": side, "faces": faces, "batch": batch, "seconds": round(middle, 4),
            "samples/s": round(batch / middle, 2), "MFU": f"{useful / middle / by_sheet:.0%}" if by_sheet else "n/a",
            "of the measured matrix rate": f"{useful / middle / rate:.0%}" if rate else "n/a",
            **{f"{name}, of it": f"{share / whole:.0%}" for name, share in parts_.items() if name != "data"},
            "identity loss, of the step": f"{1 - ratio(taken, 'without', 'with'):.1%}",
            "GB at most": round(peak, 1),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def optimiser_of(transformer: Any) -> Optimiser:
    """Of what is trained, with a rate that changes nothing."""
    told = {"model": "mini", "output_dir": "x", "max_train_steps": 100, "learning_rate": 1e-12, "data": {"shards": "x"}}
    return Optimiser(trained_parameters(transformer), TrainConfig.model_validate(told))


def whole_step(examples: Sequence[Example], parts: Parts, optimiser: Any, weight: float, sections: Sections) -> None:
    """Encode, forward, identity loss, backward, clip, update."""
    config = LossConfig(face_weight=weight)
    terms = objective(
        examples, parts, config, parts.transformer.method, seed=0, step=0, rank=0, sections=sections
    )  # fmt: skip
    with sections.of("backward"):
        terms.loss.backward()
    with sections.of("update"):
        optimiser.clip()
        optimiser.step(0)


def loader_rows(seconds: float = 6.0) -> list[dict[str, object]]:
    """Samples a second of one process at 128 and 512 px, and where the time goes."""
    import cProfile
    import pstats

    from anyphoto_cli.config.load import load_config
    from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
    from anyphoto_cli.config.train import TrainConfig
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos
    from anyphoto_cli.preprocess import run as preprocess
    from anyphoto_cli.train.batches import ShardedSamples, batches

    folder = Path(tempfile.mkdtemp(prefix="anyphoto-bench-"))
    world = draw_photos(folder / "world", PhotosConfig(people=12, groups=60, references=2)).folder
    rows = []
    for side, patch in ((128, 112), (512, 448)):
        config = load_config(PreprocessConfig, world / "preprocess.yaml", {"patch_size": patch}, [])
        preprocess(world / "photos", folder / f"{side}", world / "refs", config, RunOptions(executor="here"))
        told = {
            "model": "mini", "output_dir": str(folder / "run"), "max_train_steps": 10**6,
            "data": {"shards": str(folder / f"{side}"), "resolution": side, "workers": 0},
            "method": {"patch_size": patch},
        }  # fmt: skip
        train = TrainConfig.model_validate(told)
        stream = batches(ShardedSamples(folder / f"{side}"), train, 10**5, 0, 1)
        next(stream)
        profile, began, count = cProfile.Profile(), time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            next(stream)
            count += 1
        rate = count / (time.perf_counter() - began)
        profile.enable()
        for _ in range(50):
            next(stream)
        profile.disable()
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        whole = sum(entry[2] for entry in stats.values())
        shares = {
            label: sum(entry[3] for key, entry in stats.items() if key[2] == function) / whole
            for label, function in (
                ("decode", "_decoded"), ("references and degradations", "_reference"), ("canvas", "location_canvas"),
                ("crop", "of_picture"),
            )
        }  # fmt: skip
        rows.append({
            "px": side, "patch": patch, "samples/s, one process": round(rate, 1),
            **{label: f"{share:.0%}" for label, share in shares.items()},
        })  # fmt: skip
    return rows


def measure(arguments: list[str]) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    cuda = device.type == "cuda"
    side, rank = 512, 128 if cuda else 16
    where = torch.cuda.get_device_name() if cuda else "one thread"
    note = f"; medians of {rounds} interleaved rounds, {where}, random weights."
    parts = parts_of(built(device, side, rank), device)
    tables: dict[str, list[dict[str, object]]] = {"The card": card.rows()} if cuda else {}
    if cuda:
        tables["Whole steps, nothing checkpointed, without T5 and CLIP"] = attempted(
            lambda: whole_step_rows(parts, rounds)
        )
    plain = built(device, side, rank, plain=True)
    for faces in (2,) if cuda else (2, 4):
        tables[f"One step without the optimiser, {faces} faces"] = attempted(
            partial(step_rows, parts, plain, side, faces, rounds)
        )
    if not cuda:
        tables["The loader"] = loader_rows()
    return note, tables


def measure_compiled(arguments: list[str]) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """The whole steps again, with compiled blocks."""
    device, rounds = asked(arguments)
    parts = parts_of(built(device, 512, 128 if device.type == "cuda" else 16), device)
    parts.transformer.compile_blocks()
    began = time.perf_counter()
    rows = attempted(lambda: whole_step_rows(parts, rounds, "compiled blocks"))
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one thread"
    spent = f"all in {time.perf_counter() - began:.0f} s, compiling included"
    return f"; medians of {rounds} rounds, {where}, random weights; {spent}.", {"Whole steps": rows}
