"""The training loop: what was cut off goes on as if it had not been, and two processes do what one does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from anyphoto_cli.mini.pretrain.loop import Schedule, fit, load_trained, progress_of, spawn

SCHEDULE = Schedule(steps=12, batch=8, lr=0.05, warmup=3, ema=0.9)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loss(model: nn.Module, numbers: range, step: int) -> dict[str, torch.Tensor]:
    x = torch.stack([torch.randn(3, generator=torch.Generator().manual_seed(n)) for n in numbers])
    return {"loss": (model(x)[:, 0] - x.sum(1)).square().mean()}


def run_one(folder: Path, minutes: float | None = None) -> None:
    fit("net", net(), loss, SCHEDULE, folder, bfloat16=False, minutes=minutes, log_every=4)


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in load_trained(folder, "net", net()).parameters()])


def test_resumed_is_uninterrupted(tmp_path):
    run_one(tmp_path / "whole")
    for _ in range(40):  # stopped after every step
        run_one(tmp_path / "pieces", minutes=0)
        if progress_of(tmp_path / "pieces", "net") == SCHEDULE.steps:
            break
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "pieces"))
    assert "step 12 loss" in (tmp_path / "whole" / "net.log").read_text()


def test_two_processes_do_what_one_does(tmp_path):
    run_one(tmp_path / "one")
    spawn(run_one, tmp_path / "two", processes=2)
    assert torch.allclose(weights(tmp_path / "one"), weights(tmp_path / "two"), atol=1e-6)


def test_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom dataclasses import replace\nfrom tests.mini import test_loop as t\n"
        "t.fit('net', t.net(), t.loss, replace(t.SCHEDULE, steps=100000), Path(sys.argv[2]), bfloat16=False, save_every_s=0)"
    )
    root = str(Path(__file__).parents[2])
    worker = subprocess.Popen([sys.executable, "-c", code, root, str(tmp_path)], cwd=root)
    deadline = time.monotonic() + 60
    while not (tmp_path / "net.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert progress_of(tmp_path, "net") > 0 and torch.isfinite(weights(tmp_path)).all()


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    def poisoned(model: nn.Module, numbers: range, step: int) -> dict[str, torch.Tensor]:
        terms = loss(model, numbers, step)
        return {"loss": terms["loss"] * float("nan")} if step == 11 else terms

    fit("net", net(), poisoned, SCHEDULE, tmp_path, bfloat16=False)
    assert torch.isfinite(weights(tmp_path)).all()
    assert progress_of(tmp_path, "net") == 12


def test_the_learning_rate_warms_up_and_ends_at_nothing():
    rates = [SCHEDULE.lr_at(step) for step in range(13)]
    assert rates[0] < rates[1] < rates[2] == 0.05 and rates[12] == 0 and sorted(rates[6:], reverse=True) == rates[6:]
