"""The method is exact: against stock diffusers, against the paper read literally, and against itself."""

import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.model import isolation_mask
from anyphoto_cli.model.hoisted_modulation import hoist_modulation
from anyphoto_cli.model.location_lora import lora_parameters
from anyphoto_cli.model.token_pruning import LocationTokens
from anyphoto_cli.model.transformer import AnyPhotoTransformer

from . import branchwise
from .flux import COLUMNS, CONFIG, METHOD, ROWS, inputs, located, transformer

NOISE = ROWS * COLUMNS


def stock_twin(model: AnyPhotoTransformer, **config) -> FluxTransformer2DModel:
    """Unmodified diffusers with the same base weights."""
    stock = FluxTransformer2DModel(**CONFIG | config).double().eval()
    base = {k.replace(".base_layer", ""): v for k, v in model.state_dict().items()}
    stock.load_state_dict({k: v for k, v in base.items() if ".lora_" not in k and "id_projector" not in k})
    return stock


def trainable(model):
    return [*lora_parameters(model).values(), *model.id_projector.parameters()]


def identity(face: LocationTokens, i: int) -> dict:
    start = sum(face.lengths[:i])
    part = slice(start, start + face.lengths[i])
    return {"tokens": face.tokens[part], "ids": face.ids[part], "embeddings": face.embeddings[i : i + 1]}


def reordered(face: LocationTokens, order: list[int]) -> LocationTokens:
    parts = [identity(face, i) for i in order]
    joined = {key: torch.cat([p[key] for p in parts]) for key in ("tokens", "ids", "embeddings")}
    return LocationTokens(lengths=tuple(face.lengths[i] for i in order), **joined)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("adapter", [True, False])
def test_no_faces_equals_stock_flux_bit_for_bit(batch, guidance, adapter):
    model = transformer(adapter, guidance_embeds=guidance)
    given = inputs(batch) | ({} if guidance else {"guidance": None})
    with torch.no_grad():
        assert torch.equal(model(**given)[0], stock_twin(model, guidance_embeds=guidance)(**given)[0])


def test_one_untrained_face_equals_stock_flux_on_the_concatenated_sequence():
    """With Δ = 0 and B = 0 (a fresh adapter) one face is just more image tokens, which stock FLUX can take itself."""
    model, face, given = transformer(trained=False), located(6), inputs()
    stock = stock_twin(model)
    model.add_anyphoto(METHOD.model_copy(update={"identity_guidance": None}))
    longer = given | {
        "hidden_states": torch.cat([given["hidden_states"], face.tokens[None]], 1),
        "img_ids": torch.cat([given["img_ids"], face.ids]),
    }
    with torch.no_grad():
        torch.testing.assert_close(model(**given, faces=[face])[0], stock(**longer)[0][:, :NOISE], rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [(6,), (1, 4), (5, 3, 2)])
@pytest.mark.parametrize("attention", ["masked", "split", "merged"])
@pytest.mark.parametrize("guidance", [1.0, None])
def test_model_equals_the_paper_read_literally_with_gradients(lengths, attention, guidance):
    """Told what training tells, and Eq. 17 to the letter, where noise and identities share one y."""
    method = METHOD.model_copy(update={"identity_guidance": guidance})
    model, given, face = transformer(method=method), inputs(), located(*lengths)
    model.attention = attention
    fast, literal = model(**given, faces=[face])[0], branchwise.forward(model, **given, faces=face)[0]
    torch.testing.assert_close(fast, literal, rtol=0, atol=1e-12)
    w = torch.randn(fast.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((fast * w).sum(), trainable(model)),
        torch.autograd.grad((literal * w).sum(), trainable(model)),
        strict=True,
    ):
        # diffusers turns queries and keys in float32, forward and backward: 1e-7 of a gradient is its rounding.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))


def test_samples_of_a_ragged_batch_do_not_see_each_other():
    model, given = transformer(), inputs(3)
    faces = [located(5, 3), located(2, seed=5), located(1, 4, 2, seed=6)]
    together = model(**given, faces=faces)[0]
    for b in range(3):
        alone = {k: v[b : b + 1] if torch.is_tensor(v) and k.endswith(("states", "ions", "step", "ance")) else v
                 for k, v in given.items()}  # fmt: skip
        torch.testing.assert_close(model(**alone, faces=[faces[b]])[0], together[b : b + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [3, 18])
def test_masks_of_a_ragged_batch_are_made_once(monkeypatch, samples):
    """Three blocks ask, and the last, whose noise tokens alone are read, does not."""
    asked, make = [], isolation_mask._made
    monkeypatch.setattr(isolation_mask, "_made", lambda *key: asked.append(key) or make(*key))
    isolation_mask._small.masks.clear()
    model = transformer()
    model.attention = "masked"
    model(**inputs(samples), faces=[located(1, 1 + n, seed=n) for n in range(samples)])
    assert len(asked) == samples == len(isolation_mask._small.masks)
    model(**inputs(2), faces=[located(5, 3), located(2, 4, seed=5)])
    assert len(isolation_mask._small.masks) <= 16  # those of a large batch end with it


def test_equal_layouts_in_a_batch_equal_single_runs():
    model, given, face = transformer(), inputs(2), located(4, 3)
    together = model(**given, faces=[face, face])[0]
    for b in range(2):
        alone = given | {k: given[k][b : b + 1] for k in ("hidden_states", "encoder_hidden_states", "timestep")}
        alone |= {k: given[k][b : b + 1] for k in ("pooled_projections", "guidance")}
        torch.testing.assert_close(model(**alone, faces=[face])[0], together[b : b + 1], rtol=0, atol=1e-12)


def test_permuting_identities_changes_nothing():
    model, given, face = transformer(), inputs(), located(5, 3, 2)
    a, b = (model(**given, faces=[f])[0] for f in (face, reordered(face, [2, 0, 1])))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["masked", "split", "merged"])
def test_strengths_of_faces(attention):
    """1 is what was trained, bit for bit; 0 takes a person out of the picture, exactly; a batch mixes them freely."""
    model, given, face = transformer(), inputs(2), located(4, 3)
    model.attention = attention

    def said(*strengths):
        return model(**given, faces=[replace(face, strengths=one) for one in strengths])[0]

    plain = model(**given, faces=[face, face])[0]
    assert torch.equal(said((1.0, 1.0), None), plain)
    first = LocationTokens(lengths=face.lengths[:1], **identity(face, 0))
    torch.testing.assert_close(
        said((1.0, 0.0), (1.0, 0.0)), model(**given, faces=[first, first])[0], rtol=0, atol=1e-12
    )
    mixed = said((0.5, 2.0), (1.0, 1.0))
    torch.testing.assert_close(mixed[1], plain[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed[0], said((0.5, 2.0), (0.5, 2.0))[0], rtol=0, atol=1e-12)
    assert (mixed[0] - plain[0]).abs().max() > 1e-4
    ragged = [replace(face, strengths=(0.5, 2.0)), located(2, seed=5)]
    torch.testing.assert_close(model(**given, faces=ragged)[0][0], mixed[0], rtol=0, atol=1e-12)
    for wrong in ((1.0,), (1.0, -0.1)):
        with pytest.raises(ValueError, match="one strength, at least 0, for each"):
            replace(face, strengths=wrong)


def test_who_and_where_both_matter():
    """The tests above would pass for a model that ignored its faces; this one would not."""
    model, given, face = transformer(), inputs(), located(5, 3)
    base = model(**given, faces=[face])[0]
    for key, value in {"embeddings": face.embeddings.flip(0), "tokens": face.tokens * 1.1, "ids": face.ids + 1}.items():
        changed = LocationTokens(**vars(face) | {key: value})
        assert (model(**given, faces=[changed])[0] - base).abs().max() > 1e-3, key
    assert (model(**given, faces=[face.dropped()])[0] - base).abs().max() > 1e-3


@pytest.mark.parametrize("dropped", [False, True])
def test_every_trainable_parameter_gets_a_gradient(dropped):
    """Also when the condition is dropped: plain DDP needs a gradient everywhere on every rank."""
    model, face = transformer(), located(4, 3)
    model(**inputs(), faces=[face.dropped() if dropped else face])[0].square().sum().backward()
    named = lora_parameters(model) | dict(model.id_projector.named_parameters())
    assert all(p.grad is not None for p in named.values())
    zero = [name for name, p in named.items() if not p.grad.abs().sum() > 0]
    # A zeroed input gives its own first weights nothing to learn from; everything else learns.
    assert zero == ([n for n in named if n in ("fc1.weight", "x_embedder.lora_A.anyphoto.weight",
                                               "x_embedder.lora_B.anyphoto.weight")] if dropped else [])  # fmt: skip


def test_fresh_adapter_learns_from_step_one():
    """B = 0 and Δ = 0 leave the output as it is, yet both receive gradients."""
    model = transformer(trained=False)
    plain = model(**inputs(), faces=[located(4, 3)])[0]
    model.add_anyphoto(MethodConfig(lora_rank=2))
    model.id_projector.double()
    out = model(**inputs(), faces=[located(4, 3)])[0]
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-12)
    out.square().sum().backward()
    assert model.id_projector.fc2.weight.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for n, p in lora_parameters(model).items() if "lora_B" in n)


def test_fresh_adapter_has_float32_masters_on_a_bfloat16_base():
    model = transformer(trained=False).bfloat16()
    model.add_anyphoto(METHOD)
    assert {p.dtype for p in trainable(model)} == {torch.float32}
    assert model.transformer_blocks[0].attn.to_q.base_layer.weight.dtype == torch.bfloat16
    given = {k: v.bfloat16() if torch.is_tensor(v) and v.dtype == torch.float64 else v for k, v in inputs().items()}
    assert model(**given, faces=[located(4).to("cpu", torch.bfloat16)])[0].dtype == torch.bfloat16


def test_checkpointed_equals_eager_bit_for_bit_and_kept_blocks_run_once():
    results, runs = [], []
    for kept in (None, 0, 1, 3, 4):  # of 2 double and 2 single blocks; None: no checkpointing at all
        model, calls = transformer(), []
        if kept is not None:
            model.enable_gradient_checkpointing()
            model.kept_blocks = kept
        for block in [*model.transformer_blocks, *model.single_transformer_blocks]:
            block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        out = model(**inputs(2), faces=[located(4, 3), located(2, seed=4)])[0]
        results.append((out, *torch.autograd.grad(out.square().sum(), trainable(model))))
        runs.append(len(calls))
    assert runs == [4, 8, 7, 5, 4]
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_location_tokens_may_have_a_time_of_their_own():
    zero = transformer(method=METHOD.model_copy(update={"identity_time": "zero"}))
    given, face = inputs(), located(4)
    same = transformer()
    assert (zero(**given, faces=[face])[0] - same(**given, faces=[face])[0]).abs().max() > 1e-4
    at_zero = given | {"timestep": torch.zeros(1, dtype=torch.float64)}
    torch.testing.assert_close(zero(**at_zero, faces=[face])[0], same(**at_zero, faces=[face])[0], rtol=0, atol=1e-12)


def test_location_tokens_are_told_the_guidance_of_their_training_whatever_the_noise_is_told():
    """Of a base without a guidance embedding, and where training and rendering tell the same, nothing changes."""

    def made(own, told, **config):
        model = transformer(method=METHOD.model_copy(update={"identity_guidance": own}), **config)
        given = inputs() | {"guidance": None if told is None else torch.full((1,), told, dtype=torch.float64)}
        with torch.no_grad():
            return model.modulation_inputs(
                given["timestep"], given["guidance"], given["pooled_projections"], [located(4, 3)], torch.float64
            ), model(**given, faces=[located(4, 3)])[0]

    def gradients(own):
        model = transformer(method=METHOD.model_copy(update={"identity_guidance": own}))
        given = inputs() | {"guidance": torch.ones(1, dtype=torch.float64)}
        return torch.autograd.grad(model(**given, faces=[located(4, 3)])[0].square().sum(), trainable(model))

    (kept, picture), (same, other) = made(1.0, 3.5), made(None, 3.5)
    trained, as_trained = made(None, 1.0)
    assert torch.equal(kept.own, trained.own) and torch.equal(kept.y, same.y)
    assert not torch.equal(kept.y, trained.y) and (picture - other).abs().max() > 1e-4
    assert torch.equal(made(1.0, 1.0)[1], as_trained)
    assert all(map(torch.equal, gradients(1.0), gradients(None)))
    assert torch.equal(made(1.0, None, guidance_embeds=False)[1], made(None, None, guidance_embeds=False)[1])


def test_a_plain_flux_folder_opens_and_a_loaded_flux_is_retyped(tmp_path):
    stock = FluxTransformer2DModel(**CONFIG).eval()
    stock.save_pretrained(tmp_path)
    opened = AnyPhotoTransformer.from_pretrained(tmp_path)
    given = {k: v.float() if torch.is_tensor(v) else v for k, v in inputs().items()}
    with torch.no_grad():
        expected = FluxTransformer2DModel.from_pretrained(tmp_path)(**given)[0]
        assert torch.equal(opened(**given)[0], expected)
        retyped = AnyPhotoTransformer.from_flux(FluxTransformer2DModel.from_pretrained(tmp_path))
        assert torch.equal(retyped(**given)[0], expected)
    assert AnyPhotoTransformer.from_flux(retyped) is retyped


@pytest.mark.parametrize("hoist", [False, True])
@torch.no_grad()
def test_compiled_equals_eager_and_layouts_make_no_new_graphs(hoist):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    eager, model, counter = transformer(), transformer(), CompileCounterWithBackend("aot_eager")
    model.compile_blocks(backend=counter, fullgraph=True)

    def graphs(*layouts, batch=1, strength=None):
        for lengths in layouts:
            given, faces = inputs(batch), [located(*own, seed=k) for k, own in enumerate(lengths)]
            if strength is not None:
                faces = [replace(face, strengths=(strength,) * len(face.lengths)) for face in faces]
            expected = eager(**given, faces=faces)[0]
            if hoist:
                known = given["guidance"], given["pooled_projections"]
                given["hoisted"] = hoist_modulation(model, [given["timestep"]], *known, faces)[0]
            torch.testing.assert_close(model(**given, faces=faces)[0], expected, atol=1e-12, rtol=0)
        return counter.frame_count

    # The first layout has as many location tokens as there are of text: chance, which the next one must not pay for.
    first = graphs([(3, 2, 2)])
    assert graphs([(6, 5, 4)], [(4, 7)], [(2, 2)], [(5, 3, 2)], [(2, 8, 3, 3)], [(7,)], [(3,)]) == first
    weighed = graphs([(6, 5, 4)], strength=0.5)
    assert graphs([(4, 7)], [(2, 2, 1)], strength=0.7) == weighed and graphs([(3,)], strength=2.0) == weighed


@pytest.mark.parametrize(
    "attention, layouts, whole",
    [
        ("masked", [[(5, 3)], [(2, 2, 6)]], True),
        ("merged", [[(5, 3), (5, 3)]], True),
        pytest.param("masked", [[(5, 3), (2, 2, 6)]], False, marks=pytest.mark.slow),
    ],
)
def test_compiled_blocks_train(attention, layouts, whole):
    """whole: a block is one graph, whatever its layout. What lies between two graphs goes through Python each time."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    eager, model, before = transformer(num_layers=1), transformer(num_layers=1), counters["stats"]["unique_graphs"]
    eager.attention = model.attention = attention
    model.compile_blocks(backend="aot_eager", fullgraph=whole)
    for samples in layouts:
        given, faces = inputs(len(samples)), [located(*lengths, seed=k) for k, lengths in enumerate(samples)]
        both = [m(**given, faces=faces)[0].square().sum() for m in (eager, model)]
        for a, b in zip(
            *(torch.autograd.grad(loss, trainable(m)) for m, loss in zip((eager, model), both, strict=True)),
            strict=True,
        ):
            torch.testing.assert_close(b, a, rtol=0, atol=1e-10 * float(a.abs().max() + 1))
    # A double block, a single one, and the last of them.
    assert not whole or counters["stats"]["unique_graphs"] - before == 3


@torch.no_grad()
def test_a_machine_that_cannot_compile_is_told_in_a_line():
    def without_a_compiler(graph, examples):
        raise RuntimeError("No working C++ compiler found\nin forty lines more")

    torch._dynamo.reset()
    model = transformer(num_layers=1)
    model.compile_blocks(backend=without_a_compiler)
    with pytest.raises(
        EnvironmentFault, match=r"cannot compile here \(.*No working C.. compiler found.*without --comp"
    ):
        model(**inputs(), faces=[located(3)])


@pytest.mark.skipif(not shutil.which("g++"), reason="torch's compiler needs a C++ compiler on a CPU")
@pytest.mark.parametrize("attention, batch, single_blocks", [("masked", 1, 2), ("merged", 2, 1)])
def test_what_the_compiler_makes_learns_the_same(attention, batch, single_blocks):
    """torch's own compiler, not the stand-in that the others use: written otherwise, it once gave other gradients."""
    torch._dynamo.reset()
    models = [transformer(num_layers=1, num_single_layers=single_blocks).float() for _ in range(2)]
    for model in models:
        model.attention = attention
    models[1].compile_blocks(fullgraph=True)
    given = {key: x.float() if torch.is_tensor(x) else x for key, x in inputs(batch).items()}
    face = located(5, 3).to("cpu", torch.float32)
    faces = [replace(face, embeddings=face.embeddings.float())] * batch
    eager, compiled = (
        torch.autograd.grad(model(**given, faces=faces)[0].square().sum(), trainable(model)) for model in models
    )
    for a, b in zip(compiled, eager, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.fuse_qkv_projections(),
        lambda m: m(**inputs(2), faces=[located(3)]),
        lambda m: m(**inputs(), faces=[located(3)], joint_attention_kwargs={"ip_hidden_states": 1}),
        lambda m: m.add_anyphoto(METHOD),
        lambda m: setattr(m, "attention", "flash") or m(**inputs()),
    ],
)
def test_misuse_is_refused(call):
    with pytest.raises((ValueError, NotImplementedError)):
        call(transformer())


def test_location_tokens_refuse_an_empty_identity():
    face = located(3)
    with pytest.raises(ValueError, match="at least one"):
        LocationTokens(**vars(face) | {"lengths": (3, 0), "embeddings": face.embeddings.repeat(2, 1)})


def test_the_ablations_are_what_they_say():
    """Without modulation the projector has no say; without isolation each identity's change reaches the other."""
    faces = [located(3, 4)]
    changed = located(3, 4)
    changed.tokens[3:] += 1.0  # the second identity
    full = transformer()
    for key in ("modulation", "isolation"):
        method = METHOD.model_copy(update={key: False})
        ablated = transformer(method=method)
        ablated.load_state_dict(full.state_dict())
        out, reference = ablated(**inputs(), faces=faces)[0], full(**inputs(), faces=faces)[0]
        assert not torch.allclose(out, reference)
        if key == "modulation":
            with torch.no_grad():
                full.id_projector.fc2.weight.zero_()
                full.id_projector.fc2.bias.zero_()
            torch.testing.assert_close(out, full(**inputs(), faces=faces)[0], rtol=0, atol=1e-12)
            full = transformer()
        else:
            # Everything sees everything: stock FLUX on the concatenated sequence, identity rows apart.
            from anyphoto_cli.model.isolated_attention import masked_attention, open_attention

            q, k, v = torch.randn(3, 1, 2, 9, 4, dtype=torch.float64)
            assert not torch.allclose(open_attention(q, k, v, [3, 2]), masked_attention(q, k, v, [3, 2]))
            assert torch.equal(open_attention(q, k, v, [3]), masked_attention(q, k, v, [3]))
