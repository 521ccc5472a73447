"""Fused kernels, run on a CPU by Triton's interpreter, against the operations they stand for."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.autograd import grad

pytest.importorskip("triton", reason="Triton comes with torch's builds for CUDA, and with the extra dev on Linux")

from anyphoto_cli.model import fused
from anyphoto_cli.model.hoisted_modulation import hoist_modulation
from tests.conftest import ROOT
from tests.model.flux import inputs, located, transformer

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a card runs the kernels themselves: tests/gpu")


@pytest.mark.parametrize("dtype, most", [(torch.float32, 2e-6), (torch.bfloat16, 0.01), (torch.float16, 0.002)])
def test_each_kernel_and_its_gradients_are_torchs_operations(dtype, most):
    assert max(fused.errors(CPU, dtype, 3, 16)) < most


def float32(batch, *lengths):
    given = {k: x.float() if torch.is_tensor(x) else x for k, x in inputs(batch).items()}
    faces = [located(*lengths), located(2, seed=5)][:batch]
    return given, [replace(f, tokens=f.tokens.float(), embeddings=f.embeddings.float()) for f in faces]


@pytest.mark.parametrize("batch, hoisted", [(1, True), (2, False)])
def test_a_model_renders_the_same_with_them(batch, hoisted):
    model = transformer(num_layers=1).float()
    given, faces = float32(batch, 4, 3)
    found = []
    with torch.no_grad():
        for model.fused in (False, True):
            told = [given["timestep"]], given["guidance"], given["pooled_projections"], faces
            rows = hoist_modulation(model, *told)[0] if hoisted else None
            found.append(model(**given, faces=faces, hoisted=rows)[0])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=2e-4)
    assert not torch.equal(*found)  # they were used


def test_a_model_learns_the_same_with_them():
    model = transformer(num_layers=1).float().train()
    given, faces = float32(2, 4, 3)
    wanted = [p for p in model.parameters() if p.requires_grad]
    found = []
    for model.fused in (False, True):
        loss = model(**given, faces=faces)[0].square().sum()
        found.append(grad(loss, wanted))
    for plain, by_kernels in zip(*found, strict=True):
        assert (plain - by_kernels).norm() <= 1e-4 * plain.norm() + 1e-6


def test_without_location_tokens_every_number_stays_stock():
    model = transformer(trained=False).float()
    given, _ = float32(1, 4)
    with torch.no_grad():
        model.fused = False
        plain = model(**given)[0]
        model.fused = True
        assert torch.equal(model(**given)[0], plain)


def test_the_bases_modulation_is_refused_a_gradient_it_would_not_get():
    model = transformer().float()
    model.requires_grad_(True)
    given, faces = float32(1, 4, 3)
    model.fused = True
    with pytest.raises(ValueError, match="set `fused` to False"):
        model(**given, faces=faces)


def test_on_a_cpu_they_are_not_taken():
    assert not fused.usable(CPU, torch.bfloat16, 24, 128, True)


def test_they_compile_for_cards_and_read_sixteen_bytes_at_a_time(tmp_path):
    env = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.model.compile_fused", "80", "90"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(json.loads(done.stdout).values()) == {16}
