"""Encoding in pieces against its literal twin, one call for all."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from anyphoto_cli.mini.shipped import base_folder
from anyphoto_cli.model import vae as module
from anyphoto_cli.model.vae import encode, posterior


@pytest.fixture(scope="module")
def vae():
    return AutoencoderKL.from_pretrained(base_folder() / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pieces_are_the_whole(vae, count):
    pixels = torch.rand(count, 3, 128, 128, generator=torch.Generator().manual_seed(count)) * 2 - 1
    assert module.PIXELS_AT_ONCE["cpu"] // 128**2 == 2  # five pictures go in three calls
    whole = vae.encode(pixels).latent_dist
    pieces = posterior(vae, pixels)
    assert torch.allclose(pieces.mean, whole.mean, atol=1e-5) and torch.allclose(pieces.std, whole.std, atol=1e-5)
    sampled = encode(vae, pixels, "sample", torch.Generator().manual_seed(3))
    wanted = (whole.sample(torch.Generator().manual_seed(3)) - vae.config.shift_factor) * vae.config.scaling_factor
    assert torch.allclose(sampled, wanted, atol=1e-5)


def test_a_vae_without_a_posterior_too():
    torch.manual_seed(0)
    tiny = AutoencoderTiny(latent_channels=16, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
                           num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4).eval()  # fmt: skip
    pixels = torch.rand(3, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        whole = tiny.encode(pixels).latents
        assert torch.allclose(posterior(tiny, pixels), whole, atol=1e-5)


def test_a_large_picture_goes_alone(vae):
    calls = []

    class Counted:
        dtype, config = vae.dtype, vae.config

        def encode(self, pixels):
            calls.append(len(pixels))
            return vae.encode(pixels)

    encode(Counted(), torch.zeros(3, 3, 256, 192))
    assert calls == [1, 1, 1]
