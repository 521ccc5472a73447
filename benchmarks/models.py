"""Models with random numbers for the benchmarks, of FLUX.1's sizes on a GPU, else small; and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.model.location_lora import ADAPTER, location_lora_config
from anyphoto_cli.model.transformer import AnyPhotoTransformer
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.optimiser import trained_parameters
from benchmarks.iresnet import random_recogniser

SMALL = dict(
    num_layers=2, num_single_layers=4, attention_head_dim=64, num_attention_heads=6, axes_dims_rope=(8, 28, 28)
)
FULL = dict(num_layers=19, num_single_layers=38, attention_head_dim=128, num_attention_heads=24)


def built(device: torch.device, side: int, rank: int, plain: bool = False) -> Any:
    """A FLUX with random numbers: at full size on a GPU, else small; frozen, with a fresh adapter."""
    sizes = FULL if device.type == "cuda" else SMALL
    width = {"joint_attention_dim": 4096 if device.type == "cuda" else 128}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    kind: Any = AnyPhotoTransformer
    if plain:
        from diffusers import FluxTransformer2DModel as kind
    transformer = of_random_numbers(lambda: kind(guidance_embeds=True, **sizes, **width), device, dtype)
    transformer.requires_grad_(False)
    method = MethodConfig(lora_rank=rank)
    if plain:
        config = location_lora_config(method, len(transformer.single_transformer_blocks))
        transformer.add_adapter(config, ADAPTER)
        for name, parameter in transformer.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
    else:
        transformer.add_anyphoto(method)
    return transformer.train()


def of_random_numbers(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A model made on the meta device, then filled where it is to be: no second copy in memory."""
    with torch.device("meta"):
        model = make()
    model.to_empty(device=device).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    if hasattr(model, "pos_embed"):
        model.pos_embed.to(device)
    return model


def random_vae(device: torch.device) -> Any:
    """FLUX's own sizes on a GPU; elsewhere so small that an encode is 2 % of a step, as it is there."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    cuda = device.type == "cuda"
    vae = AutoencoderKL(
        latent_channels=16, block_out_channels=(128, 256, 512, 512) if cuda else (8, 8, 16, 16),
        layers_per_block=2 if cuda else 1, norm_num_groups=32 if cuda else 4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    return vae.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).requires_grad_(False)


def recogniser_of(device: torch.device) -> nn.Module:
    """iresnet100's size on a GPU, mini's elsewhere."""
    from anyphoto_cli.faces.recogniser_torch import load_recogniser
    from anyphoto_cli.mini.shipped import face_pack_folder

    if device.type == "cuda":
        return random_recogniser(device)
    return load_recogniser(face_pack_folder() / "w_mini.onnx").to(device)


def random_example(side: int, faces: int, rng: np.random.Generator) -> Example:
    """Faces of about a fifth of the side, in a row."""
    cells, wide = side // 16, max(side // 16 // 5, 2)
    masks = np.zeros((faces, cells, cells), bool)
    points = np.zeros((faces, 5, 2))
    template = np.array([(38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2)]) / 112
    for k in range(faces):
        left = (k * (cells - wide)) // max(faces - 1, 1)
        masks[k, cells // 3 : cells // 3 + wide, left : left + wide] = True
        points[k] = template * wide * 16 + (left * 16, cells // 3 * 16)
    embeddings = rng.normal(size=(faces, 512)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    pixels = rng.integers(0, 255, (faces + 1, side, side, 3), dtype=np.uint8)
    return Example(
        "0", pixels[0], "two friends", pixels[1:], masks, embeddings, points, embeddings, np.zeros(faces, bool), False
    )


class Text:
    """Random states in place of T5's and CLIP's: cached embeddings cost nothing."""

    def __init__(self, device: torch.device, length: int, dim: int, pooled: int = 768) -> None:
        self.states, self.pooled = torch.randn(1, length, dim, device=device), torch.randn(1, pooled, device=device)

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        return self.states.expand(len(captions), -1, -1), self.pooled.expand(len(captions), -1)


def as_trained(model: Any) -> Any:
    """Masters in float32 that want gradients."""
    for parameter in trained_parameters(model).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return model.train()


def as_rendered(model: Any) -> Any:
    """As `load_anyphoto` leaves it."""
    for name, parameter in trained_parameters(model).items():
        parameter.data = parameter.data.to(model.dtype) if "lora_" in name else parameter.data
        parameter.requires_grad_(False)
    return model.eval()
