"""Offloading and casting hooks around the model, with a CPU in the part of the GPU.

`cpu:0` is not `cpu` to these hooks, so that they really move: tensors, conditions and modules take the path they take
to a GPU.
"""

import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import LoraConfig

from anyphoto_cli.model.adapter import AdapterCard, FacePackCard, load_adapter, save_adapter
from anyphoto_cli.model.transformer import AnyPhotoTransformer

from .flux import inputs, located, transformer

FAKE_GPU = torch.device("cpu", 0)
CARD = AdapterCard(base_model="x", face_pack=FacePackCard(name="p", sha256="0"))


@pytest.fixture
def saved(tmp_path):
    save_adapter(tmp_path, transformer(), CARD)
    return tmp_path


def bare() -> AnyPhotoTransformer:
    """The same base as `transformer()`, without its adapter."""
    return transformer(trained=False)


def model_offload(model):
    cpu_offload_with_hook(model, FAKE_GPU)


def sequential(model):
    for module in model.modules():
        if not list(module.children()):
            add_hook_to_module(module, AlignDevicesHook(FAKE_GPU, io_same_device=True))


def groups(kind):
    more = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    return lambda m: m.enable_group_offload(FAKE_GPU, torch.device("cpu"), offload_type=kind, **more)


@pytest.mark.parametrize(
    "offload, exactly", [
        (model_offload, True), (sequential, False), (groups("leaf_level"), False), (groups("block_level"), True),
    ],
    ids=["model", "sequential", "leaf groups", "block groups"],
)  # fmt: skip
@pytest.mark.parametrize("adapter_first", [True, False])
@torch.no_grad()
def test_offloaded_equals_resident(saved, offload, exactly, adapter_first):
    """Where layers are brought one by one, the adapter is added by a call of its own, rounded once more."""
    resident, offloaded = bare(), bare()
    load_adapter(resident, saved)
    for step in (load_adapter, offload) if adapter_first else (offload, load_adapter):
        step(*([offloaded, saved] if step is load_adapter else [offloaded]))
    given, face = inputs(), located(4, 3)
    expected = resident(**given, faces=[face])[0]
    assert torch.isfinite(expected).all()
    got = offloaded(**given, faces=[face])[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert torch.equal(got, expected) or not exactly


@pytest.mark.parametrize("offload", [sequential, groups("leaf_level")], ids=["sequential", "leaf groups"])
@torch.no_grad()
def test_float32_masters_of_a_fresh_adapter_are_brought_by_calls(offload):
    resident, offloaded = (transformer().to(torch.bfloat16) for _ in range(2))
    called = set()
    for model in (resident, offloaded):
        masters = {
            name: module
            for name, module in model.named_modules()
            if name.endswith(("lora_A.anyphoto", "lora_B.anyphoto"))
        }
        for name, module in masters.items():
            module.float()
            if model is offloaded:
                module.register_forward_pre_hook(lambda _, __, name=name: called.add(name))
    offload(offloaded)
    given = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs().items()}
    face = located(4, 3).to("cpu", torch.bfloat16)
    expected, got = (model(**given, faces=[face])[0].float() for model in (resident, offloaded))
    assert called == set(masters) and float((got - expected).norm() / expected.norm()) < 0.02


def test_a_transformer_that_is_offloaded_already_is_not_retyped():
    from diffusers import FluxTransformer2DModel

    from .flux import CONFIG

    stock = FluxTransformer2DModel(**CONFIG)
    model_offload(stock)
    with pytest.raises(ValueError, match="first, then offload"):
        AnyPhotoTransformer.from_flux(stock)


@torch.no_grad()
def test_eight_bit_storage_after_the_adapter_leaves_the_adapter_exact(saved):
    model = bare().float()
    load_adapter(model, saved)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    kinds = {p.dtype for n, p in model.named_parameters() if "lora_" in n or "id_projector" in n}
    assert torch.float8_e4m3fn not in kinds
    given = {k: v.float() if torch.is_tensor(v) else v for k, v in inputs().items()}
    assert torch.isfinite(model(**given, faces=[located(4).to("cpu", torch.float32)])[0]).all()


@torch.no_grad()
def test_a_failed_load_leaves_the_plain_model(saved, tmp_path_factory):
    import json
    import shutil

    wrong = tmp_path_factory.mktemp("wrong")
    shutil.copytree(saved, wrong, dirs_exist_ok=True)
    card = json.loads((wrong / "anyphoto.json").read_text())
    card["method"]["projector_hidden"] = 5
    (wrong / "anyphoto.json").write_text(json.dumps(card))
    model, given, face = bare(), inputs(), located(4)
    plain = model(**given, faces=[face])[0]
    with pytest.raises(Exception, match="does not fit"):
        load_adapter(model, wrong)
    assert torch.equal(model(**given, faces=[face])[0], plain)
    load_adapter(model, saved)
    assert not torch.equal(model(**given, faces=[face])[0], plain)


@torch.no_grad()
def test_a_style_lora_loaded_first_goes_on_working(saved):
    def styled():
        model = bare()
        model.add_adapter(LoraConfig(r=2, target_modules=r".*attn\.to_q", init_lora_weights=False), "style")
        torch.manual_seed(9)
        for name, parameter in model.named_parameters():
            if "style" in name:
                parameter.data = torch.randn_like(parameter).double() * 0.2
        return model

    alone, both = styled(), styled()
    load_adapter(both, saved)
    given = inputs()
    assert torch.equal(both(**given)[0], alone(**given)[0])
    assert not torch.equal(both(**given)[0], bare()(**given)[0])
    both.remove_anyphoto()
    assert torch.equal(both(**given, faces=[located(3)])[0], alone(**given, faces=[located(3)])[0])


def test_a_dora_style_is_refused():
    model = transformer()
    model.add_adapter(LoraConfig(r=2, target_modules=r".*attn\.to_q", use_dora=True), "dora")
    with pytest.raises(ValueError, match="variant"):
        model.double()(**inputs(), faces=[located(3)])
