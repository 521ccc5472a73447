"""Peak memory on the GPU by `--memory` mode, at FLUX.1's size: a folder is opened, prompted and rendered as `anyphoto
generate` does, each mode in a process of its own. Transformer and T5 are zeros, which take no room on a disk.

python -m benchmarks ladder --device cuda
python -m benchmarks ladder nf4 group "train 512" --device cuda       some of them, all at once
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from anyphoto_cli.model.memory import FLUX_NEEDS_GB
from benchmarks.rounds import asked

LIMITS = "generate at 1024 px with 4 people: hoisted 24 GB, nf4 12 GB, group 8 GB; train on an nf4 base 24 GB"
Table = list[dict[str, object]]
SIDE, PEOPLE, FACE, STEPS = 1024, 4, 192, 4
TOGETHER = (("nf4", "group", "fp8"), ("hoisted", "offload", "train 512"), ("full", "train 1024"))
SMALL = (("full", "fp8"),)


def write_flux(folder: Path, small: bool = False) -> float:
    """A FLUX.1-dev folder: transformer and T5 all zeros, in files that take no room; tokenizers are a toy's. Its GB."""
    from diffusers import FluxPipeline

    from anyphoto_cli.config.method import MethodConfig
    from anyphoto_cli.model.adapter import AdapterCard, FacePackCard, save_adapter
    from anyphoto_cli.model.tiny_random import build_tiny_random
    from anyphoto_cli.model.transformer import AnyPhotoTransformer

    toy = folder.parent / "toy"
    build_tiny_random(toy)
    pipeline = FluxPipeline.from_pretrained(toy)
    if small:
        pipeline.save_pretrained(folder)
        transformer = AnyPhotoTransformer.from_flux(pipeline.transformer)
    else:
        from diffusers import FluxTransformer2DModel
        from transformers import CLIPTextModel, T5EncoderModel

        from benchmarks.memory import clip_l, t5_xxl
        from benchmarks.models import random_vae

        end = pipeline.text_encoder.config.eos_token_id
        pipeline.text_encoder = CLIPTextModel(clip_l(eos_token_id=end)).bfloat16()
        pipeline.vae = random_vae(torch.device("cuda")).cpu()
        pipeline.save_pretrained(folder)  # with the toy's transformer and T5, which are written over
        with torch.device("meta"):
            flux, t5 = FluxTransformer2DModel(guidance_embeds=True), T5EncoderModel(t5_xxl())
        flux.save_config(folder / "transformer")
        t5.config.save_pretrained(folder / "text_encoder_2")
        write_zeros(flux, folder / "transformer" / "diffusion_pytorch_model.safetensors")
        write_zeros(t5, folder / "text_encoder_2" / "model.safetensors")
        transformer = AnyPhotoTransformer.from_flux(flux.bfloat16().to_empty(device="cuda"))
    transformer.add_anyphoto(MethodConfig())
    pack = FacePackCard(name="tiny-random", sha256="0" * 64)
    save_adapter(folder.parent / "adapter", transformer, AdapterCard(base_model="random", face_pack=pack, train_step=1))
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e9


def write_zeros(model: torch.nn.Module, path: Path) -> None:
    """A bfloat16 safetensors file of a model on the meta device; what is not written reads as zeros."""
    entries: dict[str, Any] = {}
    end = 0
    for name, parameter in model.named_parameters():  # those that share a tensor are named once
        begin, end = end, end + 2 * parameter.numel()
        entries[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [begin, end]}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + end)


def render(folder: Path, mode: str, device: torch.device) -> dict[str, object]:
    """Open, add an untrained adapter, render a few steps with people; peaks, and what a step took."""
    from anyphoto_cli.model import memory
    from anyphoto_cli.model.pipeline import AnyPhotoPipeline
    from benchmarks.generate import tokens_of

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    reached(f"{mode}: imported")
    began = time.perf_counter()
    pipeline = memory.open_pipeline(folder, AnyPhotoPipeline, device, dtype, mode)
    reached(f"{mode}: base opened")
    pipeline.load_anyphoto(folder.parent / "adapter")
    pipeline.set_progress_bar_config(disable=True)
    opened = time.perf_counter() - began
    reached(f"{mode}: adapter loaded")
    ticks: list[float] = []

    def tick(_: Any, number: int, __: Any, state: dict[str, Any]) -> dict[str, Any]:
        if device.type == "cuda":
            torch.cuda.synchronize()
        ticks.append(time.perf_counter())
        reached(f"{mode}: step {number}")
        return state

    side = SIDE if device.type == "cuda" else 256
    faces = tokens_of([(FACE // 16) ** 2 if device.type == "cuda" else 9] * PEOPLE, side, torch.device("cpu"), dtype)
    pipeline("two friends on a beach", faces=faces, height=side, width=side, num_inference_steps=STEPS,
             output_type="pt", callback_on_step_end=tick)  # fmt: skip
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    reserved = torch.cuda.max_memory_reserved() / 1e9 if device.type == "cuda" else 0.0
    return {
        "--memory": mode, "GB allocated at most": round(peak, 1), "GB reserved at most": round(reserved, 1),
        "stated need": FLUX_NEEDS_GB[mode], "s, a later step": round((ticks[-1] - ticks[1]) / (STEPS - 2), 2),
        "s to open": round(opened, 1),
    }  # fmt: skip


def train_nf4(folder: Path, device: torch.device, side: int) -> dict[str, object]:
    """A training step on a base in NF4, without text encoders (captions cached) and with gradient checkpointing."""
    from functools import partial

    import numpy as np

    from anyphoto_cli.config.method import MethodConfig
    from anyphoto_cli.model import memory
    from anyphoto_cli.model.pipeline import AnyPhotoPipeline
    from anyphoto_cli.train.frozen import Parts
    from anyphoto_cli.train.models import TEXT
    from anyphoto_cli.train.sections import Sections
    from benchmarks.models import Text, random_example, recogniser_of
    from benchmarks.train import optimiser_of, whole_step

    pipeline = memory.open_pipeline(
        folder, AnyPhotoPipeline, device, torch.bfloat16, "nf4", without=TEXT, offload=False
    )
    for model in (pipeline.transformer, pipeline.vae):
        model.requires_grad_(False)
    pipeline.transformer.add_anyphoto(MethodConfig())
    pipeline.transformer.train().enable_gradient_checkpointing()
    text = Text(device, 512, pipeline.transformer.config.joint_attention_dim)
    parts = Parts(pipeline.transformer, pipeline.vae, text, recogniser_of(device), device, torch.bfloat16)
    examples = [random_example(side, 2, np.random.default_rng(0))]
    step = partial(whole_step, examples, parts, optimiser_of(parts.transformer), 0.1)
    reached("train: opened")
    step(Sections(device))
    torch.cuda.synchronize()
    began = time.perf_counter()
    step(Sections(device))
    torch.cuda.synchronize()
    return {"train on an nf4 base, all checkpointed": f"{side} px, 2 faces",
            "GB allocated at most": round(torch.cuda.max_memory_allocated() / 1e9, 1),
            "GB reserved at most": round(torch.cuda.max_memory_reserved() / 1e9, 1),
            "s, a step": round(time.perf_counter() - began, 2)}  # fmt: skip


def _in_a_process(*words: str, limit: float = 120.0) -> dict[str, object]:
    """A line of JSON from a fresh process, or why there is none."""
    command = [sys.executable, "-m", "benchmarks.ladder", *words]
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as complained:
        # Three processes with a thread for every core each would wait for each other.
        few = os.environ | {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // 4, 1))}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complained, text=True, env=few)
        RUNNING.append((process, Path(complained.name)))
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return {"failed": f"not through in {limit:.0f} s; last said: {_last(Path(complained.name))}"}
        if process.returncode:
            return {"failed": _last(Path(complained.name))}
    found: dict[str, object] = json.loads(said.strip().splitlines()[-1])
    return found


def _last(complained: Path) -> str:
    return (complained.read_text(encoding="utf-8").strip().splitlines() or ["nothing said"])[-1][:200]


def reached(what: str) -> None:
    """A line for whoever wonders where the time goes."""
    print(f"{time.perf_counter() - STARTED:.0f} s after the start: {what}", file=sys.stderr, flush=True)


STARTED = time.perf_counter()
RUNNING: list[tuple[subprocess.Popen[str], Path]] = []


def _stop(*_: Any) -> None:
    """Whoever is stopped leaves no process behind that others' timings would suffer from, and says how far it was."""
    for process, complained in RUNNING:
        if process.poll() is None:
            process.kill()
            print(*process.args[3:], _last(complained), flush=True)  # type: ignore[index]
    os._exit(143)


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    every = [mode for modes in TOGETHER for mode in modes]
    named = tuple(mode for mode in every if mode in arguments)
    device, _ = asked([word for word in arguments if word not in every])
    cuda = device.type == "cuda"
    wanted = (named,) if named else TOGETHER if cuda else SMALL
    signal.signal(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "flux"
        if cuda:
            print(_in_a_process("write", str(folder)), flush=True)
        else:
            write_flux(folder, small=True)
        # Some beside each other, as far as a large card and main memory hold them: peaks are each process's own.
        rows = [row for modes in wanted for row in _at_once(folder, device, modes)]
        tables = {f"generate, {SIDE} px, {PEOPLE} people of {FACE} px, T5 and CLIP included": filled(
            [row for row in rows if "--memory" in row])}  # fmt: skip
        if cuda:
            tables["train"] = filled([row for row in rows if "--memory" not in row])
    where = torch.cuda.get_device_name() if cuda else "toy size"
    return f"; {where}, weights of zeros; up to three processes at once, so seconds are rough.", tables


def _at_once(folder: Path, device: torch.device, modes: tuple[str, ...]) -> Table:
    """Modes of `--memory`, or `train SIDE`."""

    def one(mode: str) -> dict[str, object]:
        if mode.startswith("train "):
            row = _in_a_process("train", str(folder), str(device), mode.split()[1])
            row = row if "failed" not in row else {"train on an nf4 base, all checkpointed": mode} | row
        else:
            row = {"--memory": mode} | _in_a_process("render", str(folder), mode, str(device))
        print(row, flush=True)
        return row

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, modes))


def filled(rows: Table) -> Table:
    """The same columns in every row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows]


def main() -> None:
    """write FOLDER | render FOLDER MODE DEVICE | train FOLDER DEVICE SIDE."""
    what, folder, *more = sys.argv[1:]
    if what == "write":
        print(json.dumps({"GB": round(write_flux(Path(folder)), 1)}))
    elif what == "render":
        print(json.dumps(render(Path(folder), more[0], torch.device(more[1]))))
    else:
        print(json.dumps(train_nf4(Path(folder), torch.device(more[0]), int(more[1]))))


if __name__ == "__main__":
    main()
