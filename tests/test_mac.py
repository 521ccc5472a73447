"""What is told and reckoned otherwise on a Mac, as far as that shows without one."""

import os
import resource
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from anyphoto_cli import doctor
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.generate.rendering import find_models, render
from anyphoto_cli.mini import commands
from anyphoto_cli.mini.pretrain.loop import spawn
from anyphoto_cli.model import memory
from anyphoto_cli.train.flops import memory_gb
from anyphoto_cli.train.models import training_device
from anyphoto_cli.train.optimiser import Optimiser
from tests.conftest import small_layout
from tests.generate.test_generate import Heard, toy
from tests.train.test_run import config

MAC = torch.device("mps", 0)
FULL = "MPS backend out of memory (MPS allocated: 18.13 GB, other allocations: 1 GB, max allowed: 18.13 GB)."


@pytest.fixture
def darwin(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")


def test_memory_is_told_in_the_unit_of_the_system(monkeypatch, darwin):
    used = SimpleNamespace(ru_maxrss=3 * 10**9)
    monkeypatch.setattr(resource, "getrusage", lambda _: used)
    assert memory_gb(torch.device("cpu")) == 3.0
    monkeypatch.setattr(sys, "platform", "linux")
    assert memory_gb(torch.device("cpu")) == 3072.0
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5 * 10**9)
    assert memory_gb(MAC) == 5.0


def test_cores_are_counted_where_the_system_does_not_tell_which_may_be_used(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    threads, ran = torch.get_num_threads(), []
    spawn(ran.append, "here")
    torch.set_num_threads(threads)
    assert ran == ["here"]
    commands.run_command(tmp_path, ("--version",), beside=2)


def test_modes_that_an_apple_gpu_has(darwin):
    assert memory.plan_memory("auto", MAC, 1.0).mode == "full"
    for mode in ("full", "offload", "hoisted", "nf4", "group"):
        assert memory.plan_memory(mode, MAC, 1.0).mode == mode
    with pytest.raises(InputError, match="--memory: mps has no 8-bit floats, which fp8 needs. Use full, hoisted or"):
        memory.plan_memory("fp8", MAC, 1.0)
    assert "Try --memory hoisted" in str(memory.out_of_memory("full", MAC))
    assert "Try --memory nf4" in str(memory.out_of_memory("hoisted", MAC))
    assert "Try --memory fp8" in str(memory.out_of_memory("full", torch.device("cpu")))
    assert "Make the picture smaller" in str(memory.out_of_memory("fp8", torch.device("cpu")))


def test_training_refuses_what_an_apple_gpu_has_not(monkeypatch):
    monkeypatch.setattr(memory, "pick_device", lambda name: MAC)
    with pytest.raises(InputError, match="base_storage: mps has no 8-bit floats, which fp8 needs. Use full"):
        training_device(config("none", "unused", base_storage="fp8"), 0)
    assert training_device(config("none", "unused"), 0) == MAC


def test_bitsandbytes_is_had_by_itself(monkeypatch, darwin):
    """The extra gpu leaves it out on a Mac."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(EnvironmentFault, match="Run: pip install bitsandbytes$"):
        memory._nf4(torch.bfloat16)
    with pytest.raises(EnvironmentFault, match="Run: pip install bitsandbytes, or set"):
        Optimiser({}, config("none", "unused", use_8bit_adam=True))


@pytest.mark.parametrize("where", ["encode_faces", "__call__"])
def test_memory_that_runs_out_there_is_one_line(tmp_path, where):
    """It comes as a RuntimeError of another kind than CUDA's."""
    models = find_models(toy())
    full = mock.Mock(side_effect=RuntimeError(FULL))
    pipeline = models.renderer(Heard())._pipeline
    with (
        mock.patch.object(type(pipeline), where, full),
        pytest.raises(EnvironmentFault, match="ran out of memory with"),
    ):
        render([small_layout(tmp_path)], tmp_path / "out", toy(), models=models)
    with pytest.raises(EnvironmentFault, match="Try --memory hoisted"):
        memory.place(SimpleNamespace(to=full), MAC, "full")
    with pytest.raises(RuntimeError, match="must match"):
        memory.place(SimpleNamespace(to=mock.Mock(side_effect=RuntimeError("sizes must match"))), MAC, "full")


def test_doctor_knows_of_no_nvidia_there(monkeypatch, darwin):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 21 * 10**9)
    told = [finding.text for finding in doctor.examine() if finding.section in ("Packages", "Devices")]
    assert "mps: Apple GPU, 21 GB for it; nobody has run anyphoto on one" in told
    assert not any("CUDA" in text or "extra gpu" in text for text in told)
