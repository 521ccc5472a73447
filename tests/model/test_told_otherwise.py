"""Choices that are not the default ones: other steps, another rope index, no identity, a style LoRA in training."""

import pytest
import torch
from peft import LoraConfig

from anyphoto_cli.model import bases
from anyphoto_cli.model.hoisted_modulation import ModulationCache, hoist_modulation
from anyphoto_cli.model.location_lora import ADAPTER, split_lora

from .flux import inputs, located, transformer
from .test_pipeline import FACES, METHOD, opened


@pytest.mark.parametrize("other", [{"step": 3}, {"guidance": 2}], ids=["steps", "guidance"])
@torch.no_grad()
def test_rows_kept_from_the_last_picture_are_not_given_to_one_with_other_numbers(other):
    model, faces, given, cache = transformer(), [located(6)], inputs(), ModulationCache()

    def asked(step=2, guidance=1):
        steps = [given["timestep"], given["timestep"] / step]
        return model, steps, given["guidance"] * guidance, given["pooled_projections"], faces

    kept = cache.of("cond", *asked())
    assert cache.of("cond", *asked()) is kept
    now, right = cache.of("cond", *asked(**other)), hoist_modulation(*asked(**other))
    assert [torch.equal(a.y, b.y) for a, b in zip(now, right, strict=True)] == [True, True]
    assert not torch.equal(now[1].y, kept[1].y)


@pytest.mark.parametrize("identity", [True, False])
def test_weights_trained_without_identity_are_shown_places_alone(identity):
    pipeline = opened(bases.base_folder(bases.TINY_RANDOM))
    pipeline.transformer.add_anyphoto(METHOD.model_copy(update={"identity": identity, "rope_index": 2}))
    encoded = pipeline.encode_faces(FACES)
    assert bool(encoded.tokens.any()) == bool(encoded.embeddings.any()) == identity
    assert encoded.ids.tolist() == [[2, row, left + k] for left in (1, 4) for row in (1, 2) for k in (0, 1)]


@pytest.mark.parametrize("grad", [True, False])
def test_a_style_lora_that_is_active_beside_ours_acts_on_all_tokens_in_training_too(grad):
    model = transformer()
    model.add_adapter(LoraConfig(r=2, target_modules=r".*attn\.to_q", init_lora_weights=False), "style")
    model.double().set_adapter(["style", ADAPTER])
    layer, x = model.transformer_blocks[0].attn.to_q, torch.randn(9, 32, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        fast = split_lora(layer, x, 4)
    both = layer(x)  # peft's own forward: what is active, on every row
    layer.set_adapter("style")
    style = layer(x)
    assert (style - layer.base_layer(x)).abs().max() > 1e-2
    torch.testing.assert_close(fast, torch.cat([style[:5], both[5:]]), rtol=0, atol=1e-14)
