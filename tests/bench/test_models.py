"""CLIP and aesthetic scores on tiny models of the real classes, and the real LAION head."""

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from anyphoto_cli.bench.aesthetics import Aesthetics, read_head
from anyphoto_cli.bench.clip_scores import Clip, pixel_values
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.model.tiny_random import _clip

VISION = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, patch_size=32)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer, text = _clip()
    torch.manual_seed(0)
    told = text.config.to_dict() | {"projection_dim": 16}
    CLIPModel(CLIPConfig(text_config=told, vision_config=VISION, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    sizes = ((64, 96), (300, 200), (224, 224), (40, 500), (128, 128))
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]


def test_clip_s_features_are_transformers_own_and_batches_change_nothing(clip_folder, pictures):
    clip, one_by_one = Clip(str(clip_folder), batch=2), Clip(str(clip_folder), batch=1)
    rows = clip.pictures(pictures)
    assert rows.shape == (5, 16) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert np.allclose(rows, one_by_one.pictures(pictures), atol=1e-6)
    texts = ["two friends", "a park", "people " * 200]
    said = clip.texts(texts)
    assert np.allclose(said, one_by_one.texts(texts), atol=1e-5)  # padding says nothing
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = CLIPImageProcessor()(images=pictures[0], return_tensors="pt").pixel_values
    given = one_by_one._tokenizer(["two friends"], return_tensors="pt")
    with torch.no_grad():
        both = model(pixel_values=pixels, **given)
    assert (both.logits_per_image / model.logit_scale.exp()).item() == pytest.approx(float(rows[0] @ said[0]), abs=1e-5)
    half = Clip(str(clip_folder), precision="bfloat16")
    assert 0 < np.abs(half.pictures(pictures) - rows).max() < 0.03 and np.abs(half.texts(texts) - said).max() < 0.03
    assert clip.pictures([]).shape == clip.texts([]).shape == (0, 16)
    with pytest.raises(
        EnvironmentFault, match="CLIP could not be loaded from /nowhere .*Give a folder of a copy: --clip"
    ):
        Clip("/nowhere")


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_strip_only_its_middle_is_enlarged(clip_folder, turned):
    """1 px high it would be 448,000 px wide at 224: 1.2 GB as float32; its middle square is what it was."""
    rng = np.random.default_rng(1)
    strip = rng.integers(0, 255, (3, 301, 3), dtype=np.uint8)
    long = rng.integers(0, 255, (1, 2000, 3), dtype=np.uint8)
    strip, long = (one.transpose(1, 0, 2) if turned else one for one in (strip, long))
    processor = CLIPImageProcessor()
    last = {"input_data_format": "channels_last", "return_tensors": "pt"}
    whole = processor(images=np.ascontiguousarray(strip), **last).pixel_values
    away = (pixel_values(processor, [strip]) - whole).abs() * 255 * 0.26
    assert away.max() < 4 and away.mean() < 1  # levels of grey: its length is rounded anew
    seen = []
    with mock.patch.object(
        CLIPImageProcessor, "__call__", lambda self, images, **_: seen.extend(images) or mock.Mock()
    ):
        pixel_values(processor, [long])
        pixel_values(CLIPImageProcessor(do_center_crop=False), [long])
    assert [max(one.shape) for one in seen] == [16, 2000]
    assert np.isfinite(Clip(str(clip_folder)).pictures([long])).all()


def head(folder, *sizes, prefix="layers"):
    torch.manual_seed(1)
    stored = {}
    for k, (a, b) in enumerate(pairwise(sizes)):
        stored |= {f"{prefix}.{2 * k}.weight": torch.randn(b, a), f"{prefix}.{2 * k}.bias": torch.randn(b)}
    torch.save(stored, folder / "head.pth")
    return folder / "head.pth"


def test_v2_5_on_siglip(tmp_path, pictures):
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(**VISION, image_size=64)).save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    file = head(tmp_path, 32, 8, 1, prefix="scoring_head")
    aesthetics = Aesthetics(file, encoder=str(tmp_path), batch=2)
    scores = aesthetics.score(pictures)
    assert scores.shape == (5,) and np.isfinite(scores).all() and scores.std() > 0
    assert np.allclose(scores, Aesthetics(file, encoder=str(tmp_path), batch=1).score(pictures), atol=1e-4)
    model = SiglipVisionModel.from_pretrained(tmp_path).eval()
    pixels = SiglipImageProcessor(size={"height": 64, "width": 64})(
        images=pictures[1], return_tensors="pt"
    ).pixel_values
    with torch.no_grad():
        row = model(pixel_values=pixels).pooler_output[0]
    row = row / row.norm()
    for weight, bias in read_head(file):
        row = weight @ row + bias
    assert scores[1] == pytest.approx(float(row), abs=1e-4)
    assert aesthetics.score([]).shape == (0,)
    with pytest.raises(EnvironmentFault, match="takes 30 features, .* gives 32"):
        Aesthetics(head(tmp_path, 30, 1), encoder=str(tmp_path))


def test_the_real_laion_head_fits_clip_l_s_width(testdata, tmp_path, pictures):
    file = testdata / "models" / "aesthetic" / "sac+logos+ava1-l14-linearMSE.pth"
    layers = read_head(file)
    assert [tuple(weight.shape) for weight, _ in layers] == [(1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)]
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=768)).save_pretrained(tmp_path)
    CLIPImageProcessor().save_pretrained(tmp_path)
    scores = Aesthetics(file, "laion", str(tmp_path)).score(pictures)
    assert ((scores > 0) & (scores < 12)).all()


def test_heads_that_are_none(tmp_path):
    (tmp_path / "text.pth").write_bytes(b"nonsense")
    torch.save({"layers.0.weight": torch.ones(3, 4), "layers.0.bias": torch.ones(3)}, tmp_path / "three.pth")
    torch.save([print], tmp_path / "code.pth")
    for name, line in (
        ("text", "is no aesthetic head"), ("three", "is no chain of linear layers"), ("code", "is no aesthetic head"),
        ("gone", "is not there. Download it"),
    ):  # fmt: skip
        with pytest.raises(EnvironmentFault, match=line):
            read_head(tmp_path / f"{name}.pth")


def test_the_format_asked_for_reaches_both_encoders(clip_folder, tmp_path, monkeypatch):
    from anyphoto_cli.bench import aesthetics
    from anyphoto_cli.bench.models import open_models
    from anyphoto_cli.config.bench import BenchConfig

    heard = {}
    monkeypatch.setattr(aesthetics, "Aesthetics", lambda *args, **more: heard.update(more))
    config = BenchConfig(face_packs=("mini",), clip=str(clip_folder), aesthetic_head=str(tmp_path / "head.pth"),
                         precision="bfloat16")  # fmt: skip
    from anyphoto_cli.errors import InputError

    with pytest.raises(InputError, match="head.pth: --aesthetic-head: no such file"):
        open_models(config)
    (tmp_path / "head.pth").touch()
    assert open_models(config).clip._model.dtype == torch.bfloat16 and heard["precision"] == "bfloat16"
