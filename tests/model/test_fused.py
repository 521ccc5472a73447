"""Fused kernels, run on a CPU by Triton's interpreter, against the operations they stand for."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import grad

pytest.importorskip("triton", reason="Triton comes with torch's builds for CUDA, and with the extra dev on Linux")

from anyphoto_cli.model import fused
from anyphoto_cli.model.hoisted_modulation import hoist_modulation
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


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("hoisted", [False, True])
def test_a_model_renders_the_same_with_them(batch, hoisted):
    model = transformer().float()
    given, faces = float32(batch, 4, 3)
    found = []
    with torch.no_grad():
        for model.fused in (False, True):
            told = [given["timestep"]], given["guidance"], given["pooled_projections"], faces
            rows = hoist_modulation(model, *told)[0] if hoisted else None
            found.append(model(**given, faces=faces, hoisted=rows)[0])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=2e-4)
    assert not torch.equal(*found)  # they were used


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_model_learns_the_same_with_them(checkpointed):
    model = transformer().float().train()
    if checkpointed:
        model.enable_gradient_checkpointing()
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
