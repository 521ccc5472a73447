"""Eq. 13: packing as diffusers packs, latents and ids under one mask."""

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from anyphoto_cli.layout.location_canvas import token_mask
from anyphoto_cli.model.token_pruning import Spans, grid_ids, pack, prune


def test_pack_and_ids_equal_diffusers():
    z = torch.randn(2, 16, 6, 10)
    assert torch.equal(pack(z), FluxPipeline._pack_latents(z, 2, 16, 6, 10))
    assert torch.equal(grid_ids(3, 5), FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32))


def test_a_location_token_sits_where_its_pixels_are():
    """Each latent pixel carries its own coordinates, so a token can be asked where it comes from."""
    rows, columns = 4, 6
    z = torch.zeros(2, 16, 2 * rows, 2 * columns)
    z[:, 0] = torch.arange(2 * rows)[:, None]
    z[:, 1] = torch.arange(2 * columns)
    masks = torch.zeros(2, rows, columns, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 0, 5] = True
    face = prune(z, masks, torch.zeros(2, 512), rope_index=1)
    assert face.lengths == (6, 1)
    assert torch.equal(face.ids[:, 0], torch.ones(7))
    # Channel c of the 2x2 cell stands at 4c; its top left pixel is at twice the token's place.
    assert torch.equal(face.tokens[:, 0], face.ids[:, 1] * 2)
    assert torch.equal(face.tokens[:, 4], face.ids[:, 2] * 2)
    assert face.ids[:6, 1:].tolist() == [[r, c] for r in (1, 2) for c in (2, 3, 4)]


def test_an_empty_mask_is_refused():
    masks = torch.zeros(1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="at least one"):
        prune(torch.zeros(1, 16, 4, 4), masks, torch.zeros(1, 512))


@pytest.mark.parametrize("seed", range(5))
def test_token_mask_equals_max_pooling(seed):
    mask = np.random.default_rng(seed).random((64, 96)) > 0.997
    pooled = torch.nn.functional.max_pool2d(torch.from_numpy(mask)[None].float(), 16)[0].bool()
    assert np.array_equal(token_mask(mask, "any"), pooled.numpy())


def test_mask_rules_differ_as_they_say():
    mask = np.zeros((16, 64), bool)
    mask[:, 16:20] = True  # a quarter of the second cell
    mask[:, 32:44] = True  # three quarters of the third
    mask[8, 56] = True  # the middle of the fourth alone
    assert token_mask(mask, "any").tolist() == [[False, True, True, True]]
    assert token_mask(mask, "majority").tolist() == [[False, False, True, False]]
    assert token_mask(mask, "nearest").tolist() == [[False, False, True, True]]


def test_sizes_tell_compiled_blocks_all_that_spans_hold():
    spans = Spans.of_lengths(3, 5, 7, ((2, 4), (), (3,)))
    told = Spans.of_sizes(spans.indexed(torch.device("cpu")).sizes, spans.attention)
    assert told == spans
