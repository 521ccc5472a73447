"""What only a GPU can show: its kernels, memory modes, streams and compiled graphs give what the reference path gives.

python -m pytest -m gpu
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.autograd import grad

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.train import LossConfig
from anyphoto_cli.generate import render, verify_files
from anyphoto_cli.model import bases, fused, memory
from anyphoto_cli.model.adapter import save_adapter
from anyphoto_cli.model.hoisted_modulation import hoist_modulation
from anyphoto_cli.model.isolated_attention import masked_attention, merged_attention, split_attention
from anyphoto_cli.model.pipeline import AnyPhotoPipeline
from anyphoto_cli.train.face_windows import CALLS
from anyphoto_cli.train.loop import run as train
from anyphoto_cli.train.objective import objective
from benchmarks.models import random_example
from benchmarks.train import parts_of
from tests.conftest import ROOT
from tests.model.flux import inputs, located, transformer
from tests.model.test_pipeline import CARD, FACES, picture, trained
from tests.train.conftest import mini_shards  # noqa: F401
from tests.train.test_run import config, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def folder():
    return bases.base_folder(bases.TINY_RANDOM)


@pytest.mark.parametrize("lengths", [[64], [100, 37], [1, 64, 16, 9, 144]])
@pytest.mark.parametrize("attention", [split_attention, merged_attention])
def test_fast_attention_is_the_masked_one_with_gradients(attention, lengths):
    """bfloat16 on flash kernels against float64 under the dense mask, no further off than the mask's own kernel."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 300 + sum(lengths), 128, device=GPU).bfloat16().requires_grad_() for _ in range(3))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    w = torch.randn_like(q)

    def outcome(form, given):
        out = form(*given, lengths)
        return (out, *grad((out * w.to(out.dtype)).sum(), given))

    reference = outcome(masked_attention, exact)
    masked, fast = outcome(masked_attention, (q, k, v)), outcome(attention, (q, k, v))
    for mine, plain, true in zip(fast, masked, reference, strict=True):
        off, usual = ((x.double() - true).norm() / true.norm() for x in (mine, plain))
        assert off < 1.5 * usual + 1e-3


def test_attention_that_torch_used_before_does_not_change_what_is_joined():
    """torch keeps cuDNN's plans by the strides of q, k, v alone; on an H200 a plan of plain attention once gave the
    merged form wrong gradients.
    """
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 437, 128, device=GPU).bfloat16().requires_grad_() for _ in range(3))
    lengths, w = [100, 37], torch.randn(2, 4, 437, 128, device=GPU).bfloat16()
    split = grad((split_attention(q, k, v, lengths) * w).sum(), (q, k, v))
    merged = grad((merged_attention(q, k, v, lengths) * w).sum(), (q, k, v))
    for a, b in zip(merged, split, strict=True):
        assert (a - b).float().norm() < 0.01 * b.float().norm()


@pytest.mark.parametrize("mode", ["offload", "hoisted", "group"])
def test_exact_memory_modes_render_the_same_numbers(folder, tmp_path, mode):
    save_adapter(tmp_path, trained(AnyPhotoPipeline.from_pretrained(str(folder))).transformer, CARD)
    pipelines = [memory.open_pipeline(folder, AnyPhotoPipeline, GPU, torch.bfloat16, name) for name in ("full", mode)]
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
        pipeline.load_anyphoto(tmp_path)
    for seed, faces in ((0, FACES), (1, FACES), (0, FACES[:1]), (2, ())):
        resident, small = (picture(pipeline, faces, seed) for pipeline in pipelines)
        if mode == "group" and faces:  # its rows are made in the steps, not all at once
            assert np.abs(resident - small).mean() < 0.01 * resident.std()
        else:
            assert np.array_equal(resident, small)


@pytest.mark.parametrize("mode", ["fp8", "nf4"])
def test_rounded_memory_modes_render_nearly_the_same(folder, tmp_path, mode):
    if mode == "nf4":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is in the extras gpu and dev")
    save_adapter(tmp_path, trained(AnyPhotoPipeline.from_pretrained(str(folder))).transformer, CARD)
    pictures = []
    for name in ("full", mode):
        pipeline = memory.open_pipeline(folder, AnyPhotoPipeline, GPU, torch.bfloat16, name)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.load_anyphoto(tmp_path)
        pictures.append(picture(pipeline, FACES))
    exact, small = pictures
    assert 0 < np.abs(small - exact).mean() < 0.3 * exact.std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_kernels_are_torchs_operations(dtype):
    assert fused.usable(GPU, dtype, 24, 128, True)
    assert max(fused.errors(GPU, dtype, 24, 128)) < 0.005


def test_a_model_learns_the_same_with_fused_kernels():
    model = transformer(attention_head_dim=64, axes_dims_rope=(16, 24, 24)).to(GPU)
    wanted = [p for p in model.parameters() if p.requires_grad]
    given = {k: x.to(GPU) if torch.is_tensor(x) else x for k, x in inputs(2).items()}
    faces = [located(4, 3).to(GPU), located(2, seed=5).to(GPU)]

    def gradients(dtype, by_kernels):
        model.to(dtype).fused = by_kernels
        said = {
            k: x.to(dtype) if torch.is_tensor(x) and k not in ("img_ids", "txt_ids") else x for k, x in given.items()
        }
        loss = model(**said, faces=[face.to(GPU, dtype) for face in faces])[0].float().square().sum()
        return torch.cat([g.double().flatten() for g in grad(loss, wanted)])

    by_kernels, plain = (gradients(torch.bfloat16, way) for way in (True, False))
    assert (by_kernels - plain).norm() < 0.04 * plain.norm()  # .013 on a CPU, by rounding


def test_hoisted_rows_are_the_steps_own():
    model = transformer().to(GPU)
    given = {k: x.to(GPU) if torch.is_tensor(x) else x for k, x in inputs(2).items()}
    faces = [located(4, 3).to(GPU), located(2, seed=5).to(GPU)]
    with torch.no_grad():
        known = given["guidance"], given["pooled_projections"]
        [rows] = hoist_modulation(model, [given["timestep"]], *known, faces, at_once=False)
        exact = model(**given, faces=faces)[0]
        assert torch.equal(exact, model(**given, faces=faces, hoisted=rows)[0])
        rows = hoist_modulation(model, [given["timestep"] / 2, given["timestep"]], *known, faces)[1]
        torch.testing.assert_close(model(**given, faces=faces, hoisted=rows)[0], exact, rtol=0, atol=1e-12)


def test_compiled_blocks_are_the_eager_ones():
    eager, compiled = transformer().float().to(GPU), transformer().float().to(GPU)
    compiled.compile_blocks()
    given = {k: x.float().to(GPU) if torch.is_tensor(x) else x for k, x in inputs().items()}
    for lengths in ((4, 3), (2, 2, 5), (6,)):
        faces = [located(*lengths).to(GPU, torch.float32)]
        faces = [type(faces[0])(f.tokens, f.ids, f.lengths, f.embeddings.float()) for f in faces]
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(**given, faces=faces)[0], eager(**given, faces=faces)[0], rtol=0, atol=1e-4
            )


@pytest.mark.parametrize("attention, dtype", [("masked", torch.float32), ("merged", torch.bfloat16)])
def test_compiled_blocks_learn_what_eager_ones_learn(attention, dtype):
    models = [transformer().to(GPU, dtype) for _ in range(2)]
    models[1].compile_blocks(fullgraph=True)
    floats = {"hidden_states", "encoder_hidden_states", "pooled_projections"}
    given = {k: x.to(GPU, dtype if k in floats else torch.float32) if torch.is_tensor(x) else x
             for k, x in inputs().items()}  # fmt: skip
    for lengths in ((4, 3), (2, 2, 5)):
        face = located(*lengths).to(GPU, dtype)
        face = replace(face, embeddings=face.embeddings.float())
        found = []
        for model in models:
            model.attention = attention
            loss = model(**given, faces=[face])[0].float().square().sum()
            wanted = [p for p in model.parameters() if p.requires_grad]
            found.append(torch.cat([g.float().flatten() for g in grad(loss, wanted)]))
        assert (found[1] - found[0]).norm() < (1e-4 if dtype == torch.float32 else 0.05) * found[0].norm()


def test_the_host_waits_for_nothing_before_the_backward_pass():
    """The second step of two: masks and kernels are made in the first."""
    model = transformer(pooled_projection_dim=768).to(GPU, torch.bfloat16).train()
    parts, method = parts_of(model, GPU), model.method
    for step in range(2):
        examples = [random_example(256, n, np.random.default_rng(n)) for n in (2, 3)]
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            terms = objective(examples, parts, LossConfig(), method, seed=0, step=step, rank=0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert terms.valid == 5
        terms.loss.backward()


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_encoding_ahead_trains_the_same(mini_shards, tmp_path):  # noqa: F811
    told = {"device": "cuda", "mixed_precision": "no", "max_train_steps": 4}
    runs = []
    for ahead in (False, True):
        out = tmp_path / str(ahead)
        train(config(mini_shards, out, overlap_encoding=ahead, **told))
        runs.append((lines(out), weights(out / "adapter")))
    (plain, one), (ahead, other) = runs
    assert [line["flow"] for line in plain] == pytest.approx([line["flow"] for line in ahead], rel=1e-4)
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-4)


def test_a_run_that_was_cut_off_goes_on_as_if_nothing_had_happened(mini_shards, tmp_path):  # noqa: F811
    told = {"device": "cuda", "mixed_precision": "no", "max_train_steps": 4}
    train(config(mini_shards, tmp_path / "whole", **told))
    ticks = iter([False, True])
    stopped = train(config(mini_shards, tmp_path / "cut", **told), stop=lambda: next(ticks))
    assert not stopped.finished
    assert train(config(mini_shards, tmp_path / "cut", **told)).finished
    one, other = (weights(tmp_path / name / "adapter") for name in ("whole", "cut"))
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-4)


def test_the_cpu_trains_the_same(mini_shards, tmp_path, monkeypatch):  # noqa: F811
    """In float32, without TF32, by face windows of the same sizes: the same losses up to rounding."""
    monkeypatch.setitem(CALLS, "cpu", CALLS["cuda"])
    told = {"mixed_precision": "no", "max_train_steps": 3}
    for device in ("cpu", "cuda"):
        train(config(mini_shards, tmp_path / device, device=device, **told))
    here, there = lines(tmp_path / "cpu"), lines(tmp_path / "cuda")
    for key in ("flow", "face", "norm"):
        assert [line[key] for line in here] == pytest.approx([line[key] for line in there], rel=5e-3), key


@pytest.mark.parametrize("storage", ["fp8", "nf4"])
def test_small_bases_train_on_the_device(mini_shards, tmp_path, storage):  # noqa: F811
    """Weights stay on the device between forward and backward, and every adapted layer learns."""
    if storage == "nf4":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is in the extras gpu and dev")
    out = tmp_path / "run"
    train(config(mini_shards, out, device="cuda", base_storage=storage, max_train_steps=3))
    final = load_file(out / "adapter" / "pytorch_lora_weights.safetensors")
    assert all(value.isfinite().all() for value in final.values())
    assert not [key for key, value in final.items() if "lora_B" in key and not value.any()]
    assert lines(out)[0]["norm"] > 0


def test_the_first_command_of_the_readme_on_a_gpu(tmp_path):
    """mini with its adapter, in bfloat16 as by default there: the right people; in float32 the CPU's very picture."""
    layout = [ROOT / "examples" / "three_friends.json"]
    pictures = {}
    for device, dtype in (("cuda", "auto"), ("cuda", "float32"), ("cpu", "float32")):
        out = tmp_path / f"{device}_{dtype}"
        [picture] = render(layout, out, GenerateConfig(model="mini", device=device, dtype=dtype)).pictures
        pictures[device, dtype] = picture.path
    [seen] = verify_files([pictures["cuda", "auto"]])
    assert seen.verdict.passed
    here, there = (
        np.asarray(Image.open(pictures[device, "float32"]).convert("RGB")).astype(int) for device in ("cpu", "cuda")
    )
    assert np.abs(here - there).mean() < 1
