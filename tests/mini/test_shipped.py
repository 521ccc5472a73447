"""The weights that come with the package: whole, small enough, and loaded by the stock classes."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.picture import draw_picture
from anyphoto_cli.mini.pretrain.judge import measure_base, measure_vae, to_picture
from anyphoto_cli.mini.pretrain.text import LENGTH, build_clip, build_t5, with_filler, words
from anyphoto_cli.mini.types import HELD_OUT
from tests.conftest import ROOT
from tests.mini.card import told


@pytest.fixture(scope="module")
def stock():
    """diffusers' own pipeline on the shipped folder."""
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(shipped.base_folder(), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_all_weights_fit_into_25_mb_and_have_the_sums_they_say():
    files = [file for file in shipped.WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25e6
    listed = {line.split("  ")[1] for line in (shipped.WEIGHTS / shipped.SUMS).read_text().splitlines()}
    assert listed == {f.relative_to(shipped.WEIGHTS).as_posix() for f in files if f.parent != shipped.WEIGHTS}
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    for part in ("base", "faces", "persons", "probe"):
        assert shipped.whole(part).is_dir()


def test_a_damaged_or_missing_file_is_one_line(tmp_path):
    copy = tmp_path / "weights"
    shutil.copytree(shipped.WEIGHTS, copy)
    file = copy / "probe" / "probe.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(EnvironmentFault, match=r"probe.onnx: is damaged.*Install anyphoto again"):
        shipped.whole("probe", copy)
    file.unlink()
    with pytest.raises(EnvironmentFault, match=r"probe.onnx: is missing"):
        shipped.whole("probe", copy)
    (copy / shipped.SUMS).write_text("")
    with pytest.raises(EnvironmentFault, match="SHA256SUMS: is damaged: it came with the package. Install anyphoto"):
        shipped.whole("persons", copy)
    (copy / shipped.SUMS).unlink()
    for opened in (lambda: shipped.whole("base", copy), lambda: shipped.fingerprint(copy)):
        with pytest.raises(
            EnvironmentFault, match="SHA256SUMS: is missing: it came with the package. Install anyphoto"
        ):
            opened()


def test_an_adapter_that_is_gone_is_missing_and_not_none(tmp_path, monkeypatch):
    """Else pictures would lose the people, with a remark where an error belongs."""
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    shipped.whole.cache_clear()
    for name in ("adapter", "probe"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"1")
        shipped.write_sums(tmp_path)
    assert shipped.adapter_folder() == tmp_path / "adapter"
    shipped.whole.cache_clear()
    shutil.rmtree(tmp_path / "adapter")
    with pytest.raises(EnvironmentFault, match="adapter/weights: is missing"):
        shipped.adapter_folder()
    shipped.write_sums(tmp_path)
    assert shipped.adapter_folder() is None


def test_the_geometry_is_flux_s(stock):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5EncoderModel

    assert type(stock.transformer) is FluxTransformer2DModel and type(stock.vae) is AutoencoderKL
    assert type(stock.text_encoder) is CLIPTextModel and type(stock.text_encoder_2) is T5EncoderModel
    assert type(stock.scheduler) is FlowMatchEulerDiscreteScheduler
    assert stock.vae_scale_factor == 8 and stock.vae.config.latent_channels == 16
    assert stock.transformer.config.in_channels == 64 and stock.transformer.config.guidance_embeds
    assert stock.tokenizer_2.model_max_length == LENGTH


def test_our_pipeline_without_faces_is_stock_flux_on_mini(stock):
    from anyphoto_cli import AnyPhotoPipeline

    ours = AnyPhotoPipeline.from_pretrained(shipped.base_folder(), torch_dtype=torch.float32)
    ours.set_progress_bar_config(disable=True)
    assert ours.text_length == LENGTH  # cut to what the tokenizer says, not FLUX.1-dev's 512
    call = dict(
        prompt="a photo of two friends at the beach", width=160, height=128, num_inference_steps=2, output_type="np"
    )
    seeded = [torch.Generator().manual_seed(3) for _ in range(2)]
    theirs = stock(**call, generator=seeded[0], max_sequence_length=LENGTH).images
    assert np.array_equal(ours(**call, generator=seeded[1]).images, theirs)


def test_stock_pipeline_renders_as_the_card_says(stock):
    numbers = measure_base(stock, shipped.face_pack_folder(), pictures=24)
    for key in ("people", "scene", "style"):
        assert numbers[key] >= told("base", key) - 0.25, numbers


def test_the_vae_keeps_pictures_and_faces(stock):
    numbers = measure_vae(stock.vae, shipped.face_pack_folder(), pictures=24)
    assert numbers["psnr"] > told("vae", "psnr") - 1 and numbers["face_cosine"] > told("vae", "face_cosine") - 0.015
    white = torch.ones(1, 3, 128, 128)
    from anyphoto_cli.mini.pretrain.vae import reconstruct

    assert to_picture(reconstruct(stock.vae, white)).min() >= 244


def test_every_caption_is_read_word_by_word():
    tokenizer, _ = build_t5()
    clip, _ = build_clip()
    for seed in range(200):
        for said in (picture := draw_picture(seed)).paraphrases + (picture.caption,):
            pieces = tokenizer.tokenize(said)
            assert len(pieces) <= len(said.replace(",", " ,").split()), said
            assert tokenizer.unk_token_id not in tokenizer(said).input_ids
            assert len(clip(said).input_ids) <= 77
    assert len(words()) == len(set(words())) > 300
    assert tokenizer.unk_token_id not in tokenizer("Zebras & ümlauts?".replace("ü", "u")).input_ids


def test_filler_keeps_the_caption_s_words_in_order():
    from anyphoto_cli.mini.pen import Chance

    said = "a photo of two friends at the beach"
    filled = [with_filler(said, Chance("f", k)) for k in range(400)]
    changed = [text for text in filled if text != said]
    assert 20 < len(changed) < 100
    for text in changed:
        left = iter(text.split())
        assert all(word in left for word in said.split()), text


def test_generate_uses_mini_by_default(run, tmp_path, monkeypatch):
    """With the adapter that came with it; and it says what the model is worth."""
    monkeypatch.delenv("ANYPHOTO_GENERATE_MODEL")
    code, out, err = run("generate", ROOT / "examples" / "two_friends.json", "-o", tmp_path)
    assert code == 0, err
    assert "anyphoto-mini draws people that a program invented" in err and "no trained identity" not in err
    picture = tmp_path / "two_friends_seed7.png"
    assert str(picture) in out
    with Image.open(picture) as image:
        assert image.size == (128, 128)
        record = json.loads(image.info["anyphoto"])
    assert record["model"]["name"] == "mini" and record["face_pack"]["name"] == "mini"
    assert record["adapter"]["train_step"] > 0
    code, _, err = run(
        "generate", ROOT / "examples" / "two_friends.json", "-o", tmp_path / "plain", "--adapter", "none", "--dry-run"
    )
    assert code == 0 and "no trained identity" in err


def test_mini_faces_are_found_in_references_without_landmarks(run, tmp_path):
    code, _, err = run("layout", "preview", ROOT / "examples" / "two_friends.json", "-o", tmp_path / "p.png")
    assert code == 0 and (tmp_path / "p.png").is_file(), err


def test_identities_of_the_example_are_held_out():
    """The two friends: nobody the models were trained on."""
    from anyphoto_cli.mini.photos import as_png
    from anyphoto_cli.mini.picture import draw_portrait

    for name, number in (("mia", 1_000_025), ("theo", 1_000_017)):
        assert number >= HELD_OUT
        assert (ROOT / "examples" / "drawn_people" / f"{name}.png").read_bytes() == as_png(
            draw_portrait(number, 1).pixels
        )
