"""The pipeline: stock FluxPipeline without faces, adapters on disk, other VAEs, memory modes."""

import json
import os
import shutil
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, FluxPipeline
from peft import LoraConfig

from anyphoto_cli.config.generate import Memory
from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.model import bases, memory
from anyphoto_cli.model.adapter import AdapterCard, FacePackCard, read_card, save_adapter
from anyphoto_cli.model.location_lora import lora_parameters
from anyphoto_cli.model.pipeline import AnyPhotoPipeline
from anyphoto_cli.model.transformer import AnyPhotoTransformer
from anyphoto_cli.model.vae import decode, encode, to_pixels
from anyphoto_cli.types import PreparedFace

CPU, FAKE_GPU = torch.device("cpu"), torch.device("cpu", 0)
CARD = AdapterCard(base_model="tiny-random", face_pack=FacePackCard(name="tiny-random", sha256="0" * 64), train_step=7)
METHOD = MethodConfig(lora_rank=4, lora_alpha=8, t5_length=32)


@pytest.fixture(scope="module")
def folder() -> Path:
    return bases.base_folder(bases.TINY_RANDOM)


def opened(folder, cls=AnyPhotoPipeline):
    pipeline = cls.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def prepared(name="ana", left=16, seed=0, size=(64, 96)) -> PreparedFace:
    rng = np.random.default_rng(seed)
    canvas = np.full((*size, 3), 255, np.uint8)
    canvas[16:48, left : left + 32] = rng.integers(0, 255, (32, 32, 3))
    tokens = np.zeros((size[0] // 16, size[1] // 16), bool)
    tokens[1:3, left // 16 : left // 16 + 2] = True
    embedding = rng.standard_normal(512).astype(np.float32)
    return PreparedFace(name, canvas, tokens, embedding / np.linalg.norm(embedding))


FACES = (prepared("ana", 16, 0), prepared("ben", 64, 1))
SMALL = {"height": 64, "width": 96, "num_inference_steps": 2, "output_type": "np", "max_sequence_length": 32}


def picture(pipeline, faces=(), seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return pipeline("two friends", faces=faces, generator=generator, **SMALL | more).images[0]


def test_a_pipeline_whose_adapter_was_taken_out_is_saved_as_the_base_it_was(folder, tmp_path):
    """And one that has it is not saved as a base: no FLUX transformer has such layers."""
    pipeline = opened(folder)
    before, names = picture(pipeline), set(pipeline.transformer.state_dict())
    pipeline.transformer.add_anyphoto(METHOD)
    with pytest.raises(ValueError, match=r"unload_anyphoto\(\) before it is saved"):
        pipeline.save_pretrained(tmp_path / "with")
    pipeline.unload_anyphoto()
    assert set(pipeline.transformer.state_dict()) == names
    pipeline.save_pretrained(tmp_path / "base")
    assert np.array_equal(picture(opened(tmp_path / "base")), before)
    stock = opened(tmp_path / "base", FluxPipeline).transformer
    assert all(torch.equal(one, stock.state_dict()[name]) for name, one in pipeline.transformer.state_dict().items())


def trained(pipeline, method=METHOD):
    """An adapter of random numbers."""
    pipeline.transformer.add_anyphoto(method)
    g = torch.Generator().manual_seed(5)
    for p in [*lora_parameters(pipeline.transformer).values(), *pipeline.transformer.id_projector.parameters()]:
        p.data = torch.randn(p.shape, generator=g) * 0.2
    return pipeline


def test_text_is_spread_over_pictures_as_flux_pipeline_does(folder):
    """Given as numbers once for several pictures, and one negative prompt for several prompts."""
    stock, ours = opened(folder, FluxPipeline), opened(folder)
    states, pooled, _ = stock.encode_prompt("two friends", None, max_sequence_length=METHOD.t5_length)
    given = {"prompt_embeds": states, "pooled_prompt_embeds": pooled, "num_images_per_prompt": 3}
    prompts = {"prompt": ["two friends", "a dog"], "negative_prompt": "rain", "true_cfg_scale": 2.0}
    for asked, count in ((given, 3), (prompts, 2)):
        both = []
        for pipeline in (stock, ours):
            generator = [torch.Generator().manual_seed(k) for k in range(count)]
            both.append(pipeline(generator=generator, **SMALL | asked).images)
        assert len(both[0]) == len(both[1]) == count
        np.testing.assert_allclose(both[1], both[0], atol=2e-5)
    with pytest.raises(ValueError, match="3 pictures are asked for, with text for 2"):
        ours(["a", "b", "c"], negative_prompt=["x", "y"], true_cfg_scale=2.0, **SMALL)


@pytest.mark.parametrize("more", [{}, {"negative_prompt": "rain", "true_cfg_scale": 2.0}], ids=["plain", "cfg"])
def test_no_faces_renders_what_flux_pipeline_renders(folder, more):
    stock = opened(folder, FluxPipeline)("two friends", generator=torch.Generator().manual_seed(0), **SMALL | more)
    assert np.array_equal(picture(opened(folder), **more), stock.images[0])


def test_faces_change_the_picture_and_order_does_not(folder):
    pipeline = trained(opened(folder))
    both = picture(pipeline, FACES)
    np.testing.assert_allclose(picture(pipeline, FACES[::-1]), both, atol=2e-5)
    for other in ((), FACES[:1], (FACES[0], prepared("eve", 64, 2))):
        assert np.abs(picture(pipeline, other) - both).max() > 1e-3


def test_encoded_once_is_the_same_and_a_batch_has_its_own_noise(folder):
    pipeline = trained(opened(folder))
    encoded = pipeline.encode_faces(FACES)
    assert np.array_equal(picture(pipeline, encoded), picture(pipeline, FACES))
    generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
    batch = pipeline("two friends", faces=encoded, generator=generators, num_images_per_prompt=2, **SMALL).images
    for seed in (0, 1):
        np.testing.assert_allclose(batch[seed], picture(pipeline, encoded, seed), atol=2e-5)


def test_negative_branch_sees_places_without_identity(folder):
    """With guidance 1 + w the result is linear in both branches; the negative one must be the dropped condition."""
    pipeline = trained(opened(folder))
    latents = {"output_type": "latent", "num_inference_steps": 1}
    kept = picture(pipeline, FACES, **latents)
    guided = picture(pipeline, FACES, negative_prompt="two friends", true_cfg_scale=2.0, **latents)
    dropped = picture(pipeline, pipeline.encode_faces(FACES).dropped(), **latents)
    torch.testing.assert_close(guided, 2 * kept - dropped, rtol=0, atol=1e-4)


def test_callback_sees_every_step_and_may_interrupt(folder):
    pipeline, seen = opened(folder), []

    def after(pipe, step, time, state):
        seen.append((step, sorted(state)))
        pipe._interrupt = step == 1
        return state

    picture(pipeline, FACES, num_inference_steps=4, callback_on_step_end=after)
    assert seen == [(0, ["latents"]), (1, ["latents"])]


def test_a_canvas_of_another_size_is_refused(folder):
    with pytest.raises(ValueError, match="canvas of ana is not 96x64"):
        picture(opened(folder), (prepared(size=(64, 64)),))


def test_ids_stay_float32_in_bfloat16(folder):
    _, ids = opened(folder).prepare_latents(1, 16, 16, 16 * 300, torch.bfloat16, CPU, torch.Generator())
    assert ids.dtype == torch.float32 and ids[-1, 2] == 299


def test_adapter_round_trip(folder, tmp_path):
    source = trained(opened(folder))
    card = save_adapter(tmp_path / "a", source.transformer, CARD)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "anyphoto.json", "id_projector.safetensors", "pytorch_lora_weights.safetensors",
    ]  # fmt: skip
    loaded, chance = opened(folder), torch.random.get_rng_state()
    assert loaded.load_anyphoto(tmp_path / "a") == card
    assert torch.equal(torch.random.get_rng_state(), chance)  # a seed that a user set before holds
    assert loaded.method == METHOD and loaded.method.alpha == 8
    scaling = {m.scaling["anyphoto"] for m in loaded.transformer.modules() if hasattr(m, "scaling")}
    assert scaling == {2.0}
    assert np.array_equal(picture(loaded, FACES), picture(source, FACES))
    plain = picture(opened(folder), FACES)
    assert not np.array_equal(picture(loaded, FACES), plain)
    theirs, others = (replace(prepared(), pack=pack) for pack in (card.face_pack.sha256, "1" * 64))
    loaded.encode_faces((theirs,))
    with pytest.raises(ValueError, match="ana was prepared with another face pack than the adapter's"):
        loaded.encode_faces((others,))
    loaded.unload_anyphoto()
    loaded.encode_faces((others,))
    assert np.array_equal(picture(loaded, FACES), plain)


def test_an_adapter_s_weights_are_on_the_disk_before_its_card_is_there(folder, tmp_path, monkeypatch):
    told, fsync, move = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: told.append(os.fstat(file).st_ino) or fsync(file))
    monkeypatch.setattr(Path, "replace", lambda path, to: told.append(to.name) or move(path, to))
    card = save_adapter(tmp_path, trained(opened(folder)).transformer, CARD)
    for name in card.files:
        assert (tmp_path / name).stat().st_ino in told[: told.index(name)]
    assert tmp_path.stat().st_ino in told[: told.index("anyphoto.json")]


def test_stock_diffusers_opens_the_lora_file_with_its_alpha(folder, tmp_path):
    save_adapter(tmp_path, trained(opened(folder)).transformer, CARD)
    stock = opened(folder, FluxPipeline)
    stock.load_lora_weights(tmp_path)
    layers = [m for m in stock.transformer.modules() if hasattr(m, "scaling") and m.scaling]
    assert len(layers) == 16 and {next(iter(m.scaling.values())) for m in layers} == {2.0}
    ours = lora_parameters(trained(opened(folder)).transformer)
    name = "transformer_blocks.0.attn.to_q.lora_A.anyphoto.weight"
    theirs = stock.transformer.get_parameter(name.replace("anyphoto", "default_0"))
    assert torch.equal(theirs, ours[name])


@pytest.mark.parametrize("spoil, words", [
    (lambda d: (d / "anyphoto.json").unlink(), "holds no anyphoto.json"),
    (lambda d: (d / "anyphoto.json").write_text("{"), "is damaged"),
    (lambda d: (d / "id_projector.safetensors").unlink(), "id_projector.safetensors: is missing"),
    (lambda d: (d / "id_projector.safetensors").write_bytes((d / "id_projector.safetensors").read_bytes()[:-9]), "sha256"),
    (lambda d: (d / "anyphoto.json").write_text((d / "anyphoto.json").read_text().replace(
        '_version": 1', '_version": 9').replace('"method": {', '"method": {"new_choice": 3, ')),
     "has format 9. Run: pip install -U anyphoto"),
])  # fmt: skip
def test_a_damaged_adapter_is_refused(folder, tmp_path, spoil, words):
    save_adapter(tmp_path / "a", trained(opened(folder)).transformer, CARD)
    there = trained(opened(folder))
    before = picture(there, FACES)
    spoil(tmp_path / "a")
    with pytest.raises(InputError, match=words):
        there.load_anyphoto(tmp_path / "a")
    assert np.array_equal(picture(there, FACES), before)  # who has one keeps it


def test_a_full_disk_leaves_the_adapter_that_was_there(folder, tmp_path, monkeypatch):
    """The card, which is written last, too."""
    source = trained(opened(folder))
    save_adapter(tmp_path, source.transformer, CARD)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    source.transformer.id_projector.fc2.bias.data += 1

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EnvironmentFault, match="cannot write here"):
        save_adapter(tmp_path, source.transformer, CARD)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_adapter_with_nan_is_refused(folder, tmp_path):
    broken = trained(opened(folder))
    broken.transformer.id_projector.fc2.bias.data[0] = float("nan")
    save_adapter(tmp_path, broken.transformer, CARD)
    with pytest.raises(InputError, match="not finite, in fc2.bias"):
        opened(folder).load_anyphoto(tmp_path)


def test_an_adapter_of_another_base_is_refused(folder, tmp_path):
    wide = opened(folder)
    save_adapter(tmp_path, trained(wide, METHOD.model_copy(update={"projector_hidden": 48})).transformer, CARD)
    card = json.loads((tmp_path / "anyphoto.json").read_text())
    card["method"]["projector_hidden"] = 24
    (tmp_path / "anyphoto.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="does not fit this base model.*trained on tiny-random"):
        opened(folder).load_anyphoto(tmp_path)


def test_names_that_are_no_adapter_or_model():
    from anyphoto_cli.model.adapter import find_adapter

    with pytest.raises(InputError, match="no such folder"):
        find_adapter("./nowhere")
    with pytest.raises(
        EnvironmentFault, match="the adapter .* is not in this folder and could not be had from the hub"
    ):
        find_adapter("nobody/nothing")
    with pytest.raises(InputError, match="is no model. Known: mini, tiny-random"):
        bases.resolve_base("flux-prod")
    with pytest.raises(EnvironmentFault, match="FLUX.1-dev is not on this machine"):
        bases.base_folder(bases.FLUX_DEV)


def test_fusing_is_refused_with_an_adapter(folder, tmp_path):
    save_adapter(tmp_path, trained(opened(folder)).transformer, CARD)
    pipeline = opened(folder)
    pipeline.load_anyphoto(tmp_path)
    with pytest.raises(ValueError, match="cannot be fused"):
        pipeline.fuse_lora()


def test_a_style_lora_loads_beside_the_adapter(folder, tmp_path):
    """diffusers' own loader must neither switch our adapter off nor spread it over all tokens."""
    style = opened(folder, FluxPipeline)
    style.transformer.add_adapter(LoraConfig(r=2, target_modules=r".*attn\.to_q", init_lora_weights=False))
    from peft.utils import get_peft_model_state_dict

    FluxPipeline.save_lora_weights(tmp_path / "style", get_peft_model_state_dict(style.transformer))
    save_adapter(tmp_path / "a", trained(opened(folder)).transformer, CARD)
    ours, both = opened(folder), opened(folder)
    for pipeline in (ours, both):
        pipeline.load_anyphoto(tmp_path / "a")
    both.load_lora_weights(tmp_path / "style", adapter_name="style")
    styled = opened(folder)
    styled.load_lora_weights(tmp_path / "style", adapter_name="style")
    assert np.array_equal(picture(both), picture(styled))  # without faces only the style acts
    assert np.abs(picture(both, FACES) - picture(ours, FACES)).max() > 1e-3
    assert np.abs(picture(both, FACES) - picture(styled, FACES)).max() > 1e-3
    # Taken out in diffusers' ways, the style goes, and AnyPhoto weights stay whole.
    with pytest.raises(ValueError, match=r"more than a LoRA; unload_anyphoto\(\)"):
        both.delete_adapters(["style", "anyphoto"])
    both.unload_lora_weights()
    assert np.array_equal(picture(both, FACES), picture(ours, FACES))
    both.unload_lora_weights()
    both.unload_anyphoto()
    styled.unload_lora_weights()
    assert np.array_equal(picture(both), picture(opened(folder))) and np.array_equal(picture(styled), picture(both))


def test_from_pipe_takes_over_a_loaded_pipeline(folder):
    stock = opened(folder, FluxPipeline)
    taken = AnyPhotoPipeline.from_pipe(stock)
    taken.set_progress_bar_config(disable=True)
    assert taken.transformer is stock.transformer
    assert np.array_equal(picture(taken, FACES), picture(opened(folder), FACES))


def test_taef1_fits_and_keeps_a_real_face(folder, testdata, photos, face_pack):
    """The real tiny VAE of FLUX behind the same two functions: round trip of a real photo, then a whole render."""
    from anyphoto_cli.faces.norm_crop import norm_crop
    from anyphoto_cli.faces.reference_face import find_reference_face
    from anyphoto_cli.files.images import read_picture

    vae = AutoencoderTiny.from_pretrained(testdata / "models" / "taef1")
    photo = read_picture(photos / "refs" / "biden" / "biden2.jpg")
    landmarks = find_reference_face(face_pack, photo).face.landmarks
    crop = norm_crop(photo, landmarks, 224)
    with torch.no_grad():
        latents = encode(vae, to_pixels([crop]))
        back = decode(vae, latents)[0].clamp(-1, 1)
    assert latents.shape == (1, 16, 28, 28)
    pixels = ((back.permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
    assert 10 * np.log10(255**2 / np.mean((pixels.astype(float) - crop) ** 2)) > 26
    a, b = face_pack.embed(np.stack([crop[::2, ::2], pixels[::2, ::2]]))
    assert a @ b > 0.8
    pipeline = AnyPhotoPipeline.from_pretrained(str(folder), vae=vae)
    pipeline.set_progress_bar_config(disable=True)
    assert picture(pipeline, FACES).shape == (64, 96, 3)


def test_vae_round_trip_is_the_inverse_normalisation(folder):
    vae = opened(folder).vae
    pixels = to_pixels([prepared().canvas])
    with torch.no_grad():
        latents = encode(vae, pixels)
        z = vae.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(latents, (z - 0.1159) * 0.3611)
        torch.testing.assert_close(decode(vae, latents), vae.decode(z).sample, rtol=0, atol=1e-5)


def test_fp8_storage_renders_nearly_the_same(folder, tmp_path):
    save_adapter(tmp_path, trained(opened(folder)).transformer, CARD)
    exact = opened(folder)
    small = memory.open_pipeline(folder, AnyPhotoPipeline, CPU, torch.float32, "fp8")
    small.set_progress_bar_config(disable=True)
    for pipeline in (exact, small):
        pipeline.load_anyphoto(tmp_path)
    assert small.transformer.transformer_blocks[0].attn.to_q.base_layer.weight.dtype == torch.float8_e4m3fn
    assert {p.dtype for p in lora_parameters(small.transformer).values()} == {torch.float32}
    a, b = picture(exact, FACES), picture(small, FACES)
    assert 0 < np.abs(a - b).mean() < 0.05 * a.std()


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_a_copy_without_a_vocabulary_is_refused(folder, tmp_path, name):
    """transformers would make an empty one: every prompt would read alike."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for file in (copy / name).glob("*"):
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(InputError, match=f"--model: has no vocabulary in {name}/"):
        memory.open_pipeline(copy, AnyPhotoPipeline, CPU, torch.float32, "full")
    without = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")  # nobody reads prompts with it
    assert memory.open_pipeline(copy, AnyPhotoPipeline, CPU, torch.float32, "full", without).tokenizer_2 is None


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "transformer", "vae"])
def test_a_torn_copy_is_refused_in_one_line(folder, tmp_path, part):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    [file] = (copy / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="--model: cannot be opened as a diffusers model") as told:
        memory.open_pipeline(copy, AnyPhotoPipeline, CPU, torch.float32, "full")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("mode", ["offload", "hoisted", "group"])
@torch.no_grad()
def test_exact_memory_modes_render_the_same_numbers(folder, tmp_path, mode, monkeypatch):
    """With `cpu:0` in the part of the GPU. Two pictures of two layouts, as text encoders and transformer take turns."""
    save_adapter(tmp_path, trained(opened(folder)).transformer, CARD)
    resident, small = opened(folder), opened(folder)
    monkeypatch.setattr(memory, "_stays", lambda mode, device: mode == "full")
    memory.place(small, FAKE_GPU, mode)
    for pipeline in (resident, small):
        pipeline.load_anyphoto(tmp_path)
    for seed, faces in ((0, FACES), (1, FACES), (0, FACES[:1])):
        assert np.array_equal(picture(small, faces, seed), picture(resident, faces, seed))


def test_model_offload_brings_the_transformer_before_its_rows_are_made(folder, monkeypatch):
    """diffusers' offload waits for the whole model to be called; on a GPU its parts would still lie in main memory."""
    from accelerate.hooks import CpuOffload

    pipeline, told = trained(opened(folder)), []
    monkeypatch.setattr(memory, "_stays", lambda mode, device: mode == "full")
    memory.place(pipeline, FAKE_GPU, "offload")
    brought = CpuOffload.pre_forward

    def bring(hook, module, *args, **kwargs):
        told.append(type(module).__name__)
        return brought(hook, module, *args, **kwargs)

    monkeypatch.setattr(CpuOffload, "pre_forward", bring)
    embed = pipeline.transformer.time_text_embed
    monkeypatch.setattr(embed, "forward", lambda *a, _f=embed.forward: (told.append("rows"), _f(*a))[1])
    picture(pipeline, FACES)
    first = told.index("rows")
    assert told[first - 1] == "AnyPhotoTransformer"


def test_sampled_canvases_follow_from_nothing_that_was_drawn_before(folder):
    pipeline = opened(folder)
    pipeline.transformer.add_anyphoto(METHOD.model_copy(update={"latent": "sample"}))
    first = pipeline.encode_faces([prepared()]).tokens
    torch.rand(3)
    assert torch.equal(first, pipeline.encode_faces([prepared()]).tokens) and first.any()


class Gone(Exception):
    """The user does not want it any more."""


def gone(*given):
    raise Gone


@pytest.mark.parametrize("where", ["after a step", "while decoding"])
def test_a_call_that_ends_in_an_error_leaves_nothing_on_the_device(folder, monkeypatch, where):
    """With hooks that write down what is there; the next render begins with the text encoders alone."""
    from accelerate.hooks import CpuOffload

    pipeline, there = opened(folder), set()
    monkeypatch.setattr(memory, "_stays", lambda mode, device: mode == "full")
    monkeypatch.setattr(CpuOffload, "pre_forward", lambda hook, module, *a, **k: (there.add(type(module)), (a, k))[1])
    monkeypatch.setattr(CpuOffload, "init_hook", lambda hook, module: (there.discard(type(module)), module)[1])
    memory.place(pipeline, FAKE_GPU, "offload")
    seen, decode_ = [], pipeline._decode
    monkeypatch.setattr(pipeline, "_decode", gone if where == "while decoding" else decode_)

    def after_step(pipeline, step, time, state):
        seen.append(set(there))
        return gone() if where == "after a step" else state

    with pytest.raises(Gone):
        picture(pipeline, callback_on_step_end=after_step)
    assert AnyPhotoTransformer in seen[0] and not there


def test_large_pictures_are_decoded_in_tiles_where_memory_is_short(folder):
    pipeline = opened(folder)
    whole = picture(pipeline, FACES)
    pipeline.tiled_above = 64 * 96
    assert np.array_equal(picture(pipeline, FACES), whole)  # not larger
    pipeline.tiled_above = 64 * 96 - 1
    pipeline.vae.tile_sample_min_size, pipeline.vae.tile_latent_min_size = 64, 8
    tiled = picture(pipeline, FACES)
    assert 0 < np.abs(tiled - whole).mean() < 0.05 and not pipeline.vae.use_tiling
    assert memory.decodes_in_tiles("hoisted", 2**20 + 1) and not memory.decodes_in_tiles("hoisted", 2**20)
    assert not memory.decodes_in_tiles("full", 2**30)


def test_memory_plans(monkeypatch):
    cuda = torch.device("cuda")
    assert memory.plan_memory("auto", CPU, 1.0).mode == "full"
    for mode in ("offload", "hoisted", "nf4", "group"):
        with pytest.raises(InputError, match=f"{mode} needs a GPU"):
            memory.plan_memory(mode, CPU, 1.0)
    for free, mode in (
        (80, "full"),
        (30, "hoisted"),
        (24, "hoisted"),
        (20, "fp8"),
        (12, "nf4"),
        (8, "group"),
        (4, "group"),
    ):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, free=free: (free * 1e9, 80e9))
        plan = memory.plan_memory("auto", cuda, 1.0)
        assert plan.mode == mode and f"{free} GB free" in plan.reason
    assert set(memory.FLUX_NEEDS_GB) == set(memory.EXPLAINED) == set(typing.get_args(Memory)) - {"auto"}
    assert memory.plan_memory("auto", cuda, 0.0).mode == "full"
    assert "--memory nf4" in str(memory.out_of_memory("fp8", cuda))
    for name in ("gpu", "cuda:9", "cpu:7", "meta", "xpu"):
        with pytest.raises(InputError, match="--device"):
            memory.pick_device(name)


def test_a_backbone_nobody_knows_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    with pytest.raises(InputError, match="is a SanaPipeline, for which there is no AnyPhoto backbone"):
        bases.pipeline_class(tmp_path)


@pytest.mark.parametrize("named", ["copy", "flux-schnell"])
def test_a_local_copy_of_flux_dev_still_shows_its_terms(tmp_path, named):
    """Also in a folder that has the name of another base."""
    tmp_path = tmp_path / named
    tmp_path.mkdir()
    (tmp_path / "transformer").mkdir()
    config = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text("{}")
    base = bases.known_terms(bases.resolve_base(str(tmp_path)), tmp_path)
    assert base.licence == bases.FLUX_DEV.licence and base.source == str(tmp_path)
    assert base.steps == bases.FLUX_DEV.steps
    with (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.truncate(23_800_000_000)  # nothing on disk
    assert (bases.relative_size(tmp_path), bases.relative_size(tmp_path, 4)) == (1, 2)


def test_fingerprint_follows_content(folder, tmp_path, monkeypatch):
    from anyphoto_cli.model.fingerprint import folder_sha256

    (tmp_path / "a.safetensors").write_bytes(b"1")
    alone = folder_sha256(tmp_path)
    (tmp_path / "b.safetensors").symlink_to("a.safetensors")  # as a hub's cache has files of the same bytes
    first = folder_sha256(tmp_path)
    assert folder_sha256(tmp_path) == first != alone
    with monkeypatch.context() as unwritable:
        unwritable.setenv("ANYPHOTO_HOME", str(tmp_path / "a.safetensors" / "home"))
        assert folder_sha256(tmp_path) == first
    (tmp_path / "a.safetensors").write_bytes(b"2")
    assert folder_sha256(tmp_path) != first
    assert bases.revision_of(folder) == bases.revision_of(folder)


def test_reading_a_card_keeps_its_choices(folder, tmp_path):
    save_adapter(tmp_path, trained(opened(folder)).transformer, CARD)
    card = read_card(tmp_path)
    assert card.method == METHOD and card.train_step == 7 and card.base_model == "tiny-random"
