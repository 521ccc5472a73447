"""Modulation rows computed for all steps at once: the very same numbers, weights that stay away, and no stale row."""

import gc
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from peft import LoraConfig

from anyphoto_cli.model import bases
from anyphoto_cli.model.adapter import save_adapter
from anyphoto_cli.model.blocks import AnyPhotoSingleTransformerBlock
from anyphoto_cli.model.hoisted_modulation import blocks_of, can_hoist, hoist_modulation, modulation_layers
from anyphoto_cli.model.location_lora import ADAPTER
from anyphoto_cli.model.pipeline import AnyPhotoPipeline
from anyphoto_cli.model.visiting import Visitors

from .flux import METHOD as FLUX_METHOD
from .flux import inputs, located, transformer
from .test_pipeline import CARD, FACES, METHOD, SMALL, prepared, trained

FAKE_GPU = torch.device("cpu", 0)


@pytest.fixture(scope="module")
def folder():
    return bases.base_folder(bases.TINY_RANDOM)


@pytest.fixture
def pipeline(folder):
    pipeline = AnyPhotoPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    return trained(pipeline)


def picture(pipeline, faces=FACES, prompt="two friends", seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return pipeline(prompt, faces=faces, generator=generator, **SMALL | more).images[0]


@pytest.mark.parametrize("lengths", [[], [(6,)], [(4, 1), (2, 2, 5)]])
@torch.no_grad()
def test_all_steps_in_one_call_are_the_steps_own(lengths):
    model, faces = transformer(), [located(*own, seed=k) for k, own in enumerate(lengths)]
    given = inputs(max(len(faces), 1))
    steps = [given["timestep"], given["timestep"] / 3, torch.zeros_like(given["timestep"])]
    by_step, at_once = (
        hoist_modulation(model, steps, given["guidance"], given["pooled_projections"], faces, at_once=way)
        for way in (False, True)
    )
    for one, other in zip(by_step, at_once, strict=True):
        assert torch.equal(one.y, other.y)
        for layers in zip(one.blocks, other.blocks, strict=True):
            for a, b in zip(*layers, strict=True):
                torch.testing.assert_close(b.y, a.y, rtol=0, atol=1e-13)
                torch.testing.assert_close(b.own, a.own, rtol=0, atol=1e-13)


@pytest.mark.parametrize("lengths", [[], [(6,)], [(5, 3, 2)], [(4, 1), (2, 2, 5)]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_bit_equal_to_rows_computed_in_the_blocks(lengths, dtype):
    model, faces = transformer().to(dtype), [located(*own, seed=k) for k, own in enumerate(lengths)]
    model.add_adapter(LoraConfig(r=2, target_modules=["norm1.linear", "norm.linear"], init_lora_weights=False), "style")
    model.set_adapter([ADAPTER, "style"])
    given = {
        name: value.to(dtype) if hasattr(value, "dtype") and value.dtype == torch.float64 else value
        for name, value in inputs(max(len(faces), 1)).items()
    }
    times = [given["timestep"] * share for share in (1.0, 0.5, 0.1)]
    steps = hoist_modulation(model, times, given["guidance"], given["pooled_projections"], faces)
    for time, rows in zip(times, steps, strict=True):
        now = given | {"timestep": time, "faces": faces}
        expected = model(**now)[0]
        with mock.patch.object(AnyPhotoSingleTransformerBlock, "modulation", side_effect=AssertionError("was called")):
            assert torch.equal(model(**now, hoisted=rows)[0], expected)


@torch.no_grad()
def test_a_base_without_guidance_and_identities_with_a_time_of_their_own():
    """FLUX.1-schnell is told no guidance; `identity_time: zero` gives identities another row than the noise has."""
    method = FLUX_METHOD.model_copy(update={"identity_time": "zero"})
    model, faces = transformer(guidance_embeds=False, method=method), [located(4, 3)]
    given = inputs() | {"guidance": None}
    [rows] = hoist_modulation(model, [given["timestep"]], None, given["pooled_projections"], faces)
    assert torch.equal(model(**given, faces=faces, hoisted=rows)[0], model(**given, faces=faces)[0])


@pytest.mark.parametrize("more", [{}, {"negative_prompt": "rain", "true_cfg_scale": 2.0}], ids=["plain", "cfg"])
def test_pictures_are_the_same_and_unused_weights_are_in_main_memory(pipeline, more):
    pipeline.hoist_modulation = False
    expected = picture(pipeline, **more)
    pipeline.hoist_modulation = True
    assert np.array_equal(picture(pipeline, **more), expected)

    pipeline.enable_hoisting(FAKE_GPU)
    layers = [layer for block in blocks_of(pipeline.transformer) for layer in modulation_layers(block)]
    home = {id(p): p.data_ptr() for p in [*pipeline.transformer.parameters(), *pipeline.text_encoder_2.parameters()]}
    away = {id(p) for layer in layers for p in layer.parameters()}
    seen = []

    def look(*_):
        for p in pipeline.transformer.parameters():
            assert (p.data_ptr() == home[id(p)]) == (id(p) in away)
        assert all(p.data_ptr() == home[id(p)] for p in pipeline.text_encoder_2.parameters())
        seen.append(1)

    pipeline.transformer.register_forward_pre_hook(look)
    for _ in range(2):  # the second one finds the transformer on the device, and text takes its place first
        assert np.array_equal(picture(pipeline, **more), expected)
    assert len(seen) == 4 * (2 if more else 1)
    assert pipeline._execution_device == FAKE_GPU


def test_an_adapter_that_is_loaded_later_is_at_home_in_main_memory(pipeline, tmp_path):
    """What is added to a model while it visits the device would be made there, and never leave."""
    save_adapter(tmp_path, pipeline.transformer, CARD)
    pipeline.enable_hoisting(FAKE_GPU)
    picture(pipeline)
    assert pipeline._visitors._here == "transformer"
    there = []
    adding = mock.patch.object(pipeline.transformer, "add_anyphoto", lambda *_: there.append(pipeline._visitors._here))
    with adding, pytest.raises(Exception):  # nothing was added  # noqa: B017
        pipeline.load_anyphoto(tmp_path)
    assert there == [None]


def test_seeds_of_a_layout_leave_the_transformer_where_it_is(pipeline):
    pipeline.enable_hoisting(FAKE_GPU)
    embeds, pooled, _ = pipeline.encode_prompt("two friends", None, FAKE_GPU, max_sequence_length=32)
    came = []
    kept = pipeline._visitors.call
    pipeline._visitors.call = lambda name: (came.append(name) if name != pipeline._visitors._here else None, kept(name))
    made = [
        picture(pipeline, prompt=None, seed=seed, prompt_embeds=embeds, pooled_prompt_embeds=pooled) for seed in (0, 1)
    ]
    assert came == ["transformer"] and not np.array_equal(*made)


def test_a_group_that_does_not_fit_is_at_home_again():
    """What was moved so far would lie on the card for ever, beside whatever comes next."""
    tensors = [torch.ones(3), torch.ones(4)]
    homes = [tensor.data_ptr() for tensor in tensors]
    full = SimpleNamespace(data=SimpleNamespace(to=mock.Mock(side_effect=torch.OutOfMemoryError)))
    module = SimpleNamespace(parameters=lambda: tensors, buffers=lambda: [full])
    visitors = Visitors(FAKE_GPU, {"large": lambda: [*tensors, full], "small": lambda: tensors})
    with pytest.raises(torch.OutOfMemoryError):
        visitors.call("large")
    assert [tensor.data_ptr() for tensor in tensors] == homes
    with pytest.raises(torch.OutOfMemoryError), visitors.briefly([module]):
        pass
    assert [tensor.data_ptr() for tensor in tensors] == homes
    visitors.call("small")
    assert not {tensor.data_ptr() for tensor in tensors} & set(homes)
    visitors.leave()
    assert [tensor.data_ptr() for tensor in tensors] == homes


def test_rows_are_shared_by_the_pictures_of_a_layout_and_never_stale(pipeline):
    calls = []
    kept = AnyPhotoSingleTransformerBlock.modulation

    def counting(self, *given):
        calls.append(1)
        return kept(self, *given)

    def fresh(**changed):
        """Whether rows were computed; the picture is right in any case."""
        calls.clear()
        with mock.patch.object(AnyPhotoSingleTransformerBlock, "modulation", counting):
            made = picture(pipeline, **changed)
        computed = bool(calls)
        pipeline.hoist_modulation = False
        assert np.array_equal(picture(pipeline, **changed), made)
        pipeline.hoist_modulation = True
        return computed

    assert fresh() and not fresh() and not fresh(seed=1)
    assert fresh(prompt="three friends") and fresh(num_inference_steps=3) and fresh(guidance_scale=2.0)
    assert fresh(faces=(FACES[0], prepared("eve", 64, 2))) and fresh(faces=FACES[::-1]) and fresh()
    with torch.no_grad():
        pipeline.transformer.id_projector.fc2.bias.add_(0.5)
    assert fresh() and not fresh()
    encoded = pipeline.encode_faces(FACES)
    assert not fresh(faces=encoded)
    for share in (-1, 0.5):  # then those that rows were kept of
        encoded.embeddings.mul_(share)
        assert fresh(faces=encoded) and not fresh(faces=encoded)
    assert fresh()
    layer = blocks_of(pipeline.transformer)[0].norm1.linear
    layer.scaling[ADAPTER] *= 2
    assert fresh() and not fresh()
    pipeline.unload_anyphoto()
    assert fresh()
    gc.collect()  # another adapter may now lie where the first one lay
    trained(pipeline, METHOD.model_copy(update={"lora_rank": 3}))
    assert fresh() and not fresh()


@torch.no_grad()
def test_blocks_whose_weights_a_hook_brings_are_called_as_ever(pipeline):
    expected = picture(pipeline)
    pipeline.transformer.enable_group_offload(FAKE_GPU, torch.device("cpu"), "block_level", num_blocks_per_group=1)
    assert not can_hoist(pipeline.transformer)
    assert np.array_equal(picture(pipeline), expected)
