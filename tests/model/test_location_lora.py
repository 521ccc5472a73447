"""LoRA on the tail only, through peft's modules, beside other adapters."""

from collections import Counter

import pytest
import torch
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode

from anyphoto_cli.model import blocks
from anyphoto_cli.model.location_lora import ADAPTER, location_lora_config, lora_parameters, split_lora

from .flux import METHOD, inputs, located, transformer


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("tail", [0, 1, 4, 9])
def test_split_equals_toggled_branches(tail, grad):
    layer = transformer().transformer_blocks[0].attn.to_q
    x = torch.randn(9, 32, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        fast = split_lora(layer, x, tail)
        adapted = layer(x)  # peft's own forward: the adapter on every row
    plain = layer.base_layer(x)
    torch.testing.assert_close(fast, torch.cat([plain[: 9 - tail], adapted[9 - tail :]]), rtol=0, atol=1e-14)


def test_dead_modules_of_the_last_block_carry_no_adapter():
    names = set(lora_parameters(transformer()))
    last = "single_transformer_blocks.1."
    assert not any(n.startswith((last + "attn.to_q", last + "proj_mlp", last + "proj_out")) for n in names)
    assert any(n.startswith(last + "attn.to_k") for n in names)
    assert not any("context" in n or "add_" in n or n.startswith(("proj_out", "norm_out")) for n in names)


def test_module_list_at_flux_size():
    """OminiControl's 343 modules, less the three dead ones; counted on FLUX.1-dev's architecture without its weights."""
    from accelerate import init_empty_weights
    from peft.tuners.tuners_utils import check_target_module_exists

    from anyphoto_cli.model.transformer import AnyPhotoTransformer

    with init_empty_weights():
        flux = AnyPhotoTransformer(guidance_embeds=True)
    names = [name for name, _ in flux.named_modules()]
    counts = []
    for feed_forward_in in (False, True):
        config = location_lora_config(METHOD.model_copy(update={"lora_feed_forward_in": feed_forward_in}), 38)
        counts.append(sum(bool(check_target_module_exists(config, name)) for name in names))
    assert counts == [340, 359]


def test_a_style_lora_acts_on_all_tokens_and_ours_stays_on_its_own():
    model, given, face = transformer(), inputs(), located(4)
    before = model(**given, faces=[face])[0]
    model.add_adapter(LoraConfig(r=2, target_modules=r".*attn\.to_q"), "style")
    model.double()
    for name, parameter in model.named_parameters():
        if "style" in name:
            parameter.data = torch.randn_like(parameter) * 0.2
    model.set_adapter("style")  # as load_lora_weights leaves it: our adapter works although it is not named
    both = model(**given, faces=[face])[0]
    assert (both - before).abs().max() > 1e-3
    assert (model(**given)[0] - both).abs().max() > 1e-3
    model.delete_adapters("style")
    torch.testing.assert_close(model(**given, faces=[face])[0], before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_blocks_adapters_are_cast_at_once_as_each_by_itself(checkpointing, monkeypatch):
    """bfloat16 activations, float32 masters: the same output and gradients to the bit, by two calls a block."""

    class Casts(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.counts = Counter()

        def __torch_dispatch__(self, function, types, given=(), named=None):
            self.counts[function.overloadpacket.__name__] += 1
            return function(*given, **(named or {}))

    def outcome():
        model = transformer().to(torch.bfloat16)
        if checkpointing:
            model.enable_gradient_checkpointing()
        masters = [p for name, p in model.named_parameters() if ".lora_" in name]
        for parameter in masters:
            parameter.data = parameter.data.float().requires_grad_()
        half = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs().items()}
        with Casts() as casts:
            out = model(**half, faces=[located(4).to(torch.device("cpu"), torch.bfloat16)])[0]
            out.float().square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in masters)
        return [out, *(parameter.grad for parameter in masters)], casts.counts

    together, fewer = outcome()
    monkeypatch.setattr(blocks, "cast_together", lambda *_: None)
    apart, more = outcome()
    for one, other in zip(together, apart, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    layers = 2 * 7 + 6 + 3  # adapted ones of two double blocks, a single one, and the last
    assert more["_to_copy"] - fewer["_to_copy"] == layers * (6 if checkpointing else 4)
    assert fewer["_foreach_copy_"] == 4 * (3 if checkpointing else 2) and not more["_foreach_copy_"]


def test_merged_weights_are_refused():
    layer = transformer().transformer_blocks[0].attn.to_q
    layer.merge(adapter_names=[ADAPTER])
    with pytest.raises(ValueError, match="merged"):
        split_lora(layer, torch.zeros(2, 32, dtype=torch.float64), 1)
