"""One training loop for all models of the small world: resumable, one process a core, the same on a GPU."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.mini.command_line import CUT_OFF
from anyphoto_cli.runtime.devices import cores

STEPS = "ANYPHOTO_MINI_STEPS"
Loss = Callable[[nn.Module, range, int], dict[str, Tensor]]
"""(model, sample numbers of this process, step) -> named scalars; "loss" is minimised, the others are logged."""


@dataclass(frozen=True)
class Schedule:
    """steps of `batch` samples over all processes. Warm-up, constant, then a cosine to 0 over the last `decay` share.

    ema: decay of the averaged weights per step, or None. muon_lr: matrices that `fit` is told are hidden go through
    Muon at that rate (scaled to AdamW's step sizes), everything else through AdamW.
    """

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.5
    clip: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    ema: float | None = None
    muon_lr: float | None = None

    def asked_for(self) -> Schedule:
        """With as many steps as the environment asks for, if it does."""
        return replace(self, steps=int(os.environ[STEPS])) if STEPS in os.environ else self

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, a pure function of it."""
        return self.lr * self.share_at(step)

    def share_at(self, step: int) -> float:
        """That rate as a share of the highest."""
        start = self.steps * (1 - self.decay)
        cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, (step - start) / max(self.steps - start, 1))))
        return min(1.0, (step + 1) / self.warmup) * cosine


def fit(
    name: str,
    model: nn.Module,
    loss: Loss,
    schedule: Schedule,
    folder: Path,
    *,
    device: str = "cpu",
    bfloat16: bool | None = None,
    minutes: float | None = None,
    save_every_s: float = 240.0,
    log_every: int = 50,
    hidden: Callable[[str], bool] = lambda name: False,
) -> nn.Module:
    """Train `model` in place and return it with its averaged weights, or its last ones where ema is None.

    Goes on from `folder`/`name`.pt where there is one; sample k of step s is number s * batch + k, whatever the number
    of processes, so that a resumed run sees what an uninterrupted one would have seen. minutes: stop (saved) after
    that long; `left_of` the checkpoint says whether it is through. bfloat16: compute format; None: where the device is
    fast at it. hidden: names of matrices for Muon.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model.to(device)
    averaged = _Average(model, schedule.ema)
    optimiser = _Optimiser(model, schedule, hidden)
    file = folder / f"{name}.pt"
    start = _resume(file, model, optimiser, averaged, device)
    use_bf16 = _agree(fast_bfloat16(device), world) if bfloat16 is None else bfloat16
    share = range(rank * schedule.batch // world, (rank + 1) * schedule.batch // world)
    began = saved = time.monotonic()
    sums: dict[str, list[float]] = {}
    for step in range(start, schedule.steps):
        optimiser.set_share(schedule.share_at(step))
        first = step * schedule.batch
        with torch.autocast(device.split(":")[0], torch.bfloat16) if use_bf16 else nullcontext():
            terms = loss(model, range(first + share.start, first + share.stop), step)
        optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        norm = _reduce_and_clip(model, schedule.clip, world)
        if math.isfinite(norm):
            optimiser.step()
            averaged.update(model, step)
        for key, value in terms.items():
            sums.setdefault(key, []).append(float(value.detach()))
        if rank == 0 and (step + 1) % log_every == 0:
            rate = (step + 1 - start) * schedule.batch / (time.monotonic() - began)
            told = " ".join(f"{key} {sum(values) / len(values):.4f}" for key, values in sums.items())
            _log(folder, name, f"step {step + 1} {told} norm {norm:.2f} {rate:.0f}/s")
        if (step + 1) % log_every == 0:
            sums = {}
        late = minutes is not None and time.monotonic() - began > minutes * 60
        over = _agree(late or orphaned(), world)
        if rank == 0 and (over or time.monotonic() - saved > save_every_s or step + 1 == schedule.steps):
            _save(file, model, optimiser, averaged, step + 1, schedule.steps)
            saved = time.monotonic()
        if over:
            break
    if rank == 0 and start >= schedule.steps and left_of(file):  # asked for fewer steps than when it began
        _save(file, model, optimiser, averaged, start, schedule.steps)
    averaged.copy_to(model)
    return model


def progress_of(folder: Path, name: str) -> int:
    """The number of steps that a saved run has done; 0 when there is none."""
    file = folder / f"{name}.pt"
    return int(torch.load(file, map_location="cpu", weights_only=True)["step"]) if file.is_file() else 0


class Unfinished(AnyPhotoError):
    """A stage that was cut off, saved; what comes after it must wait. Exit code 3."""

    exit_code = CUT_OFF


def left_of(file: Path) -> tuple[int, int] | None:
    """(steps done, steps asked for) of a saved run that is not through; None for one that is, or that there is not.

    Runs of earlier versions did not write down what was asked for: they count as through.
    """
    if not file.is_file():
        return None
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    done, asked = int(state["step"]), int(state.get("steps", 0))
    return (done, asked) if done < asked else None


def checkpoint_of(folder: Path, name: str) -> Path:
    """The file of a saved run. Raises InputError where there is none."""
    file = folder / f"{name}.pt"
    if not file.is_file():
        raise InputError("is not there", file=file, remedy="Run the stage first that makes it")
    return file


def load_trained(folder: Path, name: str, model: nn.Module) -> nn.Module:
    """The averaged (else the last) weights of a saved run. Raises InputError where there is none."""
    state = torch.load(checkpoint_of(folder, name), map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    if state["average"]:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), state["average"], strict=True):
                parameter.copy_(value)
    return model.eval()


class _Average:
    """Exponential moving average of the parameters, warmed up so that the random start is soon forgotten."""

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self.values = [p.detach().clone() for p in model.parameters()] if decay else []

    def update(self, model: nn.Module, step: int) -> None:
        if self.decay:
            weight = 1 - min(self.decay, (step + 1) / (step + 10))
            torch._foreach_lerp_(self.values, [p.detach() for p in model.parameters()], weight)

    def copy_to(self, model: nn.Module) -> None:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), self.values, strict=False):
                parameter.copy_(value)


class _Optimiser:
    """AdamW, and Muon for hidden matrices where the schedule has a rate for it. Matrices are decayed, vectors not."""

    def __init__(self, model: nn.Module, schedule: Schedule, hidden: Callable[[str], bool]) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        muon = [p for name, p in named if schedule.muon_lr and p.ndim == 2 and hidden(name)]
        rest = [p for _, p in named if all(p is not other for other in muon)]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(groups, lr=schedule.lr, betas=schedule.betas, eps=1e-8, fused=True), schedule.lr)
        ]
        if muon and schedule.muon_lr:
            decay, rate = schedule.weight_decay, schedule.muon_lr
            part = torch.optim.Muon(muon, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append((part, rate))

    def set_share(self, share: float) -> None:
        """Learning rates as a share of the highest."""
        for part, rate in self._parts:
            for group in part.param_groups:
                group["lr"] = rate * share

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        for part, _ in self._parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """As torch's."""
        for part, _ in self._parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """One a part."""
        return [part.state_dict() for part, _ in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """The opposite; [] for a run that has not begun."""
        for (part, _), state in zip(self._parts, states, strict=bool(states)):
            part.load_state_dict(state)


def _reduce_and_clip(model: nn.Module, clip: float, world: int) -> float:
    """Mean gradient over the processes as one flat sum, then clipped. Returns the norm before."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if world > 1:
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= world
        parts = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
    return float(nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], clip))


def _agree(said: bool, world: int) -> bool:
    """Whether any process says so: what one does, all do."""
    if world == 1:
        return said
    flag = torch.tensor(float(said))
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def orphaned() -> bool:
    """A spawned process whose parent was killed: it would work on unseen, beside its successor."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def begin_with(folder: Path, name: str, model: nn.Module) -> None:
    """A checkpoint of step 0 with these weights, unless there is one of that name. The first process writes it."""
    joined = dist.is_initialized()
    if not (joined and dist.get_rank()) and not (folder / f"{name}.pt").is_file():
        average = [p.detach().clone() for p in model.parameters()]
        _write(folder / f"{name}.pt", {"step": 0, "model": model.state_dict(), "optimiser": [], "average": average})
    if joined:
        dist.barrier()


def _save(file: Path, model: nn.Module, optimiser: Any, averaged: _Average, step: int, steps: int) -> None:
    state = {"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": averaged.values}
    _write(file, state | {"steps": steps})


def _write(file: Path, state: dict[str, Any]) -> None:
    """Written beside and renamed: a killed run leaves the last whole file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(file)


def _resume(file: Path, model: nn.Module, optimiser: Any, averaged: _Average, device: str) -> int:
    if not file.is_file():
        return 0
    state = torch.load(file, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    averaged.values = [value.to(device) for value in state["average"]] if averaged.decay else []
    return int(state["step"])


def _log(folder: Path, name: str, line: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {name} {line}"
    print(text, flush=True)
    with (folder / f"{name}.log").open("a") as log:
        log.write(text + "\n")


def fast_bfloat16(device: str) -> bool:
    """GPUs are; of CPUs those with AVX-512 BF16 or AMX (others emulate it, 40 times slower than float32)."""
    if not device.startswith("cpu"):
        return True
    left = torch.randn(512, 512)
    timings = []
    for dtype in (torch.float32, torch.bfloat16):
        matrix = left.to(dtype)
        matrix @ matrix
        began = time.perf_counter()
        for _ in range(5):
            matrix @ matrix
        timings.append(time.perf_counter() - began)
    return timings[1] < 0.7 * timings[0]


def spawn(target: Callable[..., None], *arguments: Any, processes: int = 0) -> None:
    """Run target(*arguments) in one process a core with one thread each, joined by gloo; in this one where 1 is asked.

    Threads inside one process lose most of their time to barriers as soon as anything else runs beside them.
    """
    processes = processes or cores()
    torch.set_num_threads(1)
    if processes == 1:
        target(*arguments)
        return
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    from torch.multiprocessing.spawn import spawn as start

    start(_worker, (processes, port, target, arguments), nprocs=processes)


def _worker(rank: int, world: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        target(*arguments)
    finally:
        dist.destroy_process_group()
