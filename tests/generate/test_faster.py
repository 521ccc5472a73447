"""Rendering several pictures at once, first-block caching, and other people's LoRAs beside AnyPhoto weights."""

import json
import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.generate import conditions, render, render_again
from anyphoto_cli.generate.png_metadata import read_record, write_png
from anyphoto_cli.generate.rendering import find_models
from anyphoto_cli.model import bases
from anyphoto_cli.model import pipeline as pipelines
from anyphoto_cli.model.first_block_cache import FirstBlockCache
from anyphoto_cli.model.pipeline import AnyPhotoPipeline
from anyphoto_cli.model.style_lora import find_style_lora
from tests.conftest import small_layout
from tests.generate.test_generate import Heard, adapter, pixels, toy  # noqa: F401

DENOISE = {"height": 64, "width": 64, "num_inference_steps": 4, "output_type": "np", "max_sequence_length": 32}


def opened(cls=AnyPhotoPipeline):
    pipeline = cls.from_pretrained(str(bases.base_folder(bases.TINY_RANDOM)))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(pipeline, **more):
    return pipeline("two friends", generator=torch.Generator().manual_seed(0), **DENOISE | more).images[0]


def test_a_batch_over_seeds_and_layouts_is_the_single_pictures(adapter, tmp_path):  # noqa: F811
    """Layouts of other people and prompts go into one call; another size, or no people at all, does not."""
    first = small_layout(tmp_path)
    value = json.loads(first.read_text())
    alone = value | {"faces": [value["faces"][1] | {"bbox": [10, 20, 100, 118]}], "prompt": "one man, and rain"}
    for name, layout in (
        ("alone", alone), ("nobody", value | {"faces": []}), ("wide", value | {"width": 160}),
        ("guided", value | {"negative_prompt": "snow", "true_cfg_scale": 2.0}),
    ):  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(layout))
    files = [first, *(tmp_path / f"{n}.json" for n in ("alone", "wide", "nobody", "guided"))]
    kept, sizes = AnyPhotoPipeline.__call__, []

    def counted(self, *given, **more):
        sizes.append(len(more["prompt_embeds"]))
        return kept(self, *given, **more)

    heard = Heard()
    options = {"adapter": str(adapter), "num_images": 3}
    single = render(files, tmp_path / "single", toy(**options))
    with mock.patch.object(AnyPhotoPipeline, "__call__", counted):
        batched = render(files, tmp_path / "batched", toy(**options, batch=4), listener=heard)
    assert sizes == [4, 2, 3, 3, 3] and heard.steps == 2 * 15
    for one, other in zip(single.pictures, batched.pictures, strict=True):
        a, b = pixels(one.path).astype(int), pixels(other.path).astype(int)
        assert one.path.name == other.path.name and np.abs(a - b).max() <= 1
    again = render(files, tmp_path / "batched", toy(**options, batch=2))  # resumed with another batch
    assert all(picture.skipped for picture in again.pictures)


def test_a_picture_of_a_batch_is_rendered_again_with_its_batch(layout_file, tmp_path, run):
    """To the bit. Where that cannot be, the line says why, and the exit code is 3."""
    out = tmp_path / "out"
    small_layout(tmp_path, "u.json", prompt="two others")
    render([layout_file, tmp_path / "u.json"], out, toy(batch=3, num_images=2))
    assert [read_record(out / f"{name}.png")["together"] for name in ("trip_seed1", "u_seed0", "u_seed1")] == [
        [0, 1, None], [None, None, 0], [1],
    ]  # fmt: skip
    shutil.rmtree(out)
    render([layout_file], out, toy(batch=3, num_images=3))
    real, sizes = AnyPhotoPipeline.__call__, []

    def told_apart(self, *given, **more):  # the toy's sums are the same for every size: here they are not
        sizes.append(len(more["prompt_embeds"]))
        result = real(self, *given, **more)
        result.images = result.images * (0.5 + 0.1 * sizes[-1])
        return result

    with mock.patch.object(AnyPhotoPipeline, "__call__", told_apart):
        render([layout_file], out, toy(batch=3, num_images=3), overwrite=True)
        picture = out / "trip_seed1.png"
        code, said, _ = run("generate", "--from", picture)
        assert (code, sizes) == (0, [3, 3]) and "identical, pixel for pixel" in said
        assert sorted(file.name for file in out.iterdir()) == [
            "trip_seed0.png", "trip_seed1.png", "trip_seed1_again.png", "trip_seed2.png",
        ]  # fmt: skip
        assert (out / "trip_seed1_again.png").read_bytes() == picture.read_bytes()
        code, said, _ = run("generate", "--from", picture, "--batch", "1", "-o", tmp_path / "alone")
        assert code == 3 and "differs from the original: it was rendered in one call with 2 more" in said
        record = read_record(picture)
        for together, why in ((None, "its record does not say"), ([0, 1, None], "with another layout's pictures")):
            other = {key: value for key, value in record.items() if key != "together"}
            with Image.open(picture) as image:
                write_png(image.copy(), out / "other.png", other | ({"together": together} if together else {}))
            code, said, _ = run("generate", "--from", out / "other.png", "--json", "--overwrite")
            assert code == 3 and why in json.loads(said)["why"] and not json.loads(said)["identical"]
        with Image.open(picture) as image:
            write_png(image.copy(), out / "other.png", record | {"together": [0, 2, "x"]})
        code, _, err = run("generate", "--from", out / "other.png", "--overwrite")
        assert code == 2 and "record.together: is damaged or was edited" in err


def test_references_are_read_once_a_layout(tmp_path):
    """For four pictures of two people: opened once to find the faces, and once to paste them."""
    layout, reads, kept = small_layout(tmp_path), [], conditions.read_bytes
    with mock.patch.object(conditions, "read_bytes", lambda path: (reads.append(path.name), kept(path))[1]):
        render([layout], tmp_path / "out", toy(num_images=4, batch=2))
    assert sorted(reads) == ["ana.png", "ana.png", "ben.png", "ben.png"]


def test_what_cannot_be_encoded_leaves_nothing_on_the_device(layout_file, tmp_path):
    models, freed = find_models(toy()), []
    pipeline = models.renderer(Heard())._pipeline
    full = mock.patch.object(pipeline, "encode_faces", side_effect=torch.OutOfMemoryError)
    told = mock.patch.object(pipeline, "maybe_free_model_hooks", lambda: freed.append(1))
    with full, told, pytest.raises(EnvironmentFault, match="ran out of memory"):
        render([layout_file], tmp_path / "out", toy(), models=models)
    assert freed == [1]


@pytest.mark.parametrize(
    ("dtype", "told"), [("float32", "are broken: copy or download"), ("bfloat16", "--dtype float32")]
)
def test_numbers_that_are_none_are_no_picture(layout_file, tmp_path, run, dtype, told):
    """One of a base's is enough for a black picture, which would count as finished ever after."""
    base = shutil.copytree(bases.base_folder(bases.TINY_RANDOM), tmp_path / "base")
    [file] = (base / "transformer").glob("*.safetensors")
    weights = load_file(file)
    weights["proj_out.weight"][0, 0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    code, _, err = run(
        "generate", layout_file, "--model", base, "--face-pack", "tiny-random", "-o", tmp_path / "out", "--steps", "1",
        "--dtype", dtype, "-q",
    )  # fmt: skip
    [error] = [line for line in err.splitlines() if line.startswith("Error")]
    assert code == 1 and "trip_seed0.png: came out as numbers that are not finite" in error and told in error
    assert not list(tmp_path.glob("out/*"))


def test_of_a_batch_the_picture_with_broken_numbers_alone_is_left_out(layout_file, tmp_path):
    """Infinity is one, too: clamped it would be a white spot that nobody notices."""
    decode, config, out = pipelines.decode, toy(num_images=3, batch=3), tmp_path / "out"

    def spoiled(vae, latents):
        decoded = decode(vae, latents)
        decoded[len(decoded) // 2, 0, 5, 5] = float("inf")
        return decoded

    with mock.patch.object(pipelines, "decode", spoiled):
        result = render([layout_file], out, config, keep_going=True)
        assert [one.path.name for one in result.pictures] == ["trip_seed0.png", "trip_seed2.png"]
        assert sorted(file.name for file in out.iterdir()) == ["trip_seed0.png", "trip_seed2.png"]
        [line] = result.refused
        assert "trip_seed1.png: came out as numbers that are not finite" in line
        with pytest.raises(EnvironmentFault, match="not finite"):
            render([layout_file], out, config)


def test_first_block_cache_reuses_where_little_changes_and_is_exact_at_nothing():
    pipeline = opened()
    exact = picture(pipeline, num_inference_steps=8)
    assert np.array_equal(picture(pipeline, num_inference_steps=8, cache_threshold=1e-9), exact)
    assert pipeline.reused_steps == 0
    loose = picture(pipeline, num_inference_steps=8, cache_threshold=1.0)
    assert pipeline.reused_steps == 7 and 0 < np.abs(loose - exact).mean() < 0.5
    assert np.array_equal(picture(pipeline, num_inference_steps=8), exact)  # nothing is left of it


def test_the_cache_compares_with_the_last_step_that_was_computed():
    cache, ones = FirstBlockCache(0.1), torch.ones(2, 3)
    assert cache.rest_for(ones) is None
    cache.keep(ones * 7)
    assert torch.equal(cache.rest_for(ones * 1.06), ones * 7)
    assert cache.rest_for(ones * 1.12) is None  # 6 % from the last step, 12 % from the one the rest is of
    cache.keep(ones * 8)
    assert torch.equal(cache.rest_for(ones * 1.2), ones * 8) and (cache.asked, cache.reused) == (4, 2)


@pytest.fixture
def style(tmp_path):
    """A LoRA as diffusers' own scripts leave it."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    transformer = opened(FluxPipeline).transformer
    targets = r".*(attn\.to_[qkv]|proj_mlp|norm1\.linear)"
    torch.manual_seed(4)
    transformer.add_adapter(LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False), "any")
    folder = tmp_path / "style"
    FluxPipeline.save_lora_weights(folder, get_peft_model_state_dict(transformer, adapter_name="any"))
    return folder


def test_without_faces_a_lora_does_what_it_does_in_flux_pipeline(style, tmp_path):
    stock = opened(FluxPipeline)
    stock.load_lora_weights(style, adapter_name="a")
    stock.set_adapters(["a"], [0.7])
    file = small_layout(tmp_path, "nobody.json", faces=[])
    made = render([file], tmp_path / "out", toy(lora=(f"{style}@0.7",))).pictures[0].path
    expected = stock(
        "two friends", generator=torch.Generator().manual_seed(0), height=128, width=128, num_inference_steps=2,
        guidance_scale=3.5, max_sequence_length=stock.tokenizer_2.model_max_length,
    ).images[0]  # fmt: skip
    assert np.array_equal(pixels(made), np.asarray(expected))
    plain = render([file], tmp_path / "plain", toy()).pictures[0].path
    assert not np.array_equal(pixels(plain), pixels(made))


def test_it_stays_exact_beside_weights_in_8_bits(style, adapter, tmp_path):  # noqa: F811
    named = shutil.copytree(style, tmp_path / "me@home")
    config = toy(lora=(str(named),), adapter=str(adapter), memory="fp8")
    transformer = find_models(config).renderer(Heard())._pipeline.transformer
    told = {name: parameter.dtype for name, parameter in transformer.named_parameters() if "proj_mlp" in name}
    assert {dtype for name, dtype in told.items() if "style_0" in name} == {torch.float32}
    assert {dtype for name, dtype in told.items() if "base_layer.weight" in name} == {torch.float8_e4m3fn}


def test_beside_an_adapter_it_is_recorded_and_rendered_again(style, adapter, layout_file, tmp_path, run):  # noqa: F811
    heard = Heard()
    config = toy(adapter=str(adapter), lora=(str(style),))
    [made] = render([layout_file], tmp_path / "out", config, listener=heard).pictures
    assert any("experimental" in notice for notice in heard.notices)
    named = find_style_lora(str(style))
    with mock.patch("anyphoto_cli.model.style_lora.sha256_of", side_effect=["once"]):  # not for each picture
        assert named.record is named.record
    [lora] = read_record(made.path)["loras"]
    assert lora["scale"] == 1 and len(lora["sha256"]) == 64
    assert f"  LoRA: {style} at 1, {lora['sha256']}" in run("provenance", made.path)[1].replace("\n", "")
    again, same = render_again(made.path)
    assert same and again.path.name == f"{made.path.stem}_again.png"
    moved = shutil.copytree(style, tmp_path / "moved")  # the same bytes are the same LoRA, wherever they lie
    assert render_again(made.path, tmp_path / "from_moved", config=toy(lora=(str(moved),)))[1]
    with pytest.raises(InputError, match="was made with other LoRAs"):
        render_again(made.path, tmp_path / "weaker", config=toy(lora=(f"{moved}@0.5",)))
    with pytest.raises(InputError, match="exists and was made from something else"):
        render([layout_file], tmp_path / "out", toy(adapter=str(adapter)))
    [without] = render([layout_file], tmp_path / "without", toy(adapter=str(adapter))).pictures
    [nothing] = render([layout_file], tmp_path / "nothing", toy(adapter=str(adapter), lora=(f"{style}@0",))).pictures
    assert np.array_equal(pixels(nothing.path), pixels(without.path))
    assert not np.array_equal(pixels(made.path), pixels(without.path))
    (style / "pytorch_lora_weights.safetensors").rename(style / "b.safetensors")
    changed = bytearray((style / "b.safetensors").read_bytes())
    changed[-1] ^= 1
    (style / "b.safetensors").write_bytes(changed)
    with pytest.raises(InputError, match="was made with other LoRAs"):
        render_again(made.path, overwrite=True)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("nowhere.safetensors", "nowhere.safetensors: --lora: no such file"),
        ("a/b/c/d", "a/b/c/d: --lora: no such file"),
        ("{style}@much", "'much' is no scale"),
        ("{style}@11", "11 is no scale"),
        ("{tmp}/pickled.bin", "is no .safetensors"),
        ("{tmp}/two", "holds 2 .safetensors"),
        ("{tmp}/empty", "holds no .safetensors"),
        ("{tmp}/ours", "is part of an AnyPhoto adapter, which is no style. Give it with --adapter"),
        ("{tmp}/ours/pytorch_lora_weights.safetensors@1", "is part of an AnyPhoto adapter"),
    ],
)
def test_what_is_no_lora_is_refused(named, told, style, tmp_path):
    (tmp_path / "pickled.bin").write_bytes(b"x")
    for folder, files in (("two", ("a", "b")), ("empty", ()), ("ours", ("pytorch_lora_weights", "id_projector"))):
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / f"{file}.safetensors").write_bytes(b"x")
    with pytest.raises(InputError) as error:
        find_style_lora(named.format(style=style, tmp=tmp_path))
    assert told in str(error.value)


def test_a_lora_may_lie_in_a_folder_of_the_hub():
    with pytest.raises(
        EnvironmentFault, match="the LoRA 'nobody/nothing' is not in this folder and could not be had from the hub"
    ):
        find_style_lora("nobody/nothing/styles/ink/ink.safetensors@0.5")


def test_a_lora_of_another_model_is_named(tmp_path, layout_file, run):
    for name, key in (("other", "transformer.transformer_blocks.0.attn.to_q"), ("alien", "unet.down.0.attn.to_q")):
        save_file(
            {f"{key}.lora_A.weight": torch.ones(2, 999), f"{key}.lora_B.weight": torch.ones(7, 2)},
            tmp_path / f"{name}.safetensors",
        )
        code, _, err = run(
            "generate", layout_file, "-o", tmp_path / "out", "--model", "tiny-random", "--lora",
            tmp_path / f"{name}.safetensors",
        )  # fmt: skip
        assert code == 2 and f"{name}.safetensors: --lora: " in err.replace("\n", " ") and "Traceback" not in err
    assert not list((tmp_path / "out").glob("*.png"))
