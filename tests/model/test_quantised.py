"""NF4 bases: bitsandbytes' own layers under the adapter, against the same numbers written out in float32."""

import pytest
import torch
from torch import nn

from anyphoto_cli.model.location_lora import lora_parameters

from .flux import METHOD, inputs, located, transformer

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is in the extras gpu and dev")


def quantise(model, written_out: bool):
    """Every linear layer of the blocks in NF4, or in float32 with the very numbers that NF4 stands for."""
    for block in [*model.transformer_blocks, *model.single_transformer_blocks]:
        for name, linear in [*block.named_modules()]:
            if not isinstance(linear, nn.Linear):
                continue
            packed, state = bnb.functional.quantize_4bit(linear.weight.data, blocksize=64, quant_type="nf4")
            if written_out:
                linear.weight.data = bnb.functional.dequantize_4bit(packed, state)
                continue
            four = bnb.nn.Linear4bit(
                linear.in_features, linear.out_features, quant_type="nf4", compute_dtype=torch.float32
            )
            four.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", blocksize=64)
            four.bias = nn.Parameter(linear.bias.data, requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(block.get_submodule(parent), child, four.to("cpu"))
    return model


def test_the_adapter_sits_on_nf4_layers_with_gradients():
    outcomes = []
    for written_out in (False, True):
        model = quantise(
            transformer(trained=False, attention_head_dim=32, axes_dims_rope=(8, 12, 12)).float(), written_out
        )
        model.add_anyphoto(METHOD)
        g = torch.Generator().manual_seed(0)
        trainable = [*lora_parameters(model).values(), *model.id_projector.parameters()]
        for p in trainable:
            p.data = torch.randn(p.shape, generator=g) * 0.2
            p.requires_grad_(True)
        kinds = {type(m.base_layer).__name__ for m in model.modules() if hasattr(m, "base_layer")}
        assert kinds == ({"Linear"} if written_out else {"Linear", "Linear4bit"})
        given = {k: v.float() if torch.is_tensor(v) else v for k, v in inputs().items()}
        out = model(**given, faces=[located(4, 3).to("cpu", torch.float32)])[0]
        outcomes.append((out, *torch.autograd.grad(out.square().mean(), trainable)))
    for four, full in zip(*outcomes, strict=True):
        # bitsandbytes' CPU kernel may work in bfloat16 inside: measured .5 % (gradients 2.5 %); no adapter is off by 27 %, one on all rows by 72 %.
        torch.testing.assert_close(four, full, rtol=0, atol=5e-2 * float(full.detach().abs().max()))
