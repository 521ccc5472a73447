"""What blocks keep is counted, not guessed: FLUX.1's width on torch's meta device, where nothing is allocated."""

import pytest

from anyphoto_cli.model.transformer import AnyPhotoTransformer
from anyphoto_cli.train.activations import blocks_to_keep, kept_gigabytes
from anyphoto_cli.train.loop import run as train
from benchmarks.memory import kept_bytes, on_meta
from tests.generate.test_generate import Heard
from tests.train.test_run import config, same, state


@pytest.mark.parametrize("px, faces", [(512, [64, 64]), (1024, [144] * 4)])
def test_the_constants_are_what_real_blocks_keep(px, faces):
    small = kept_bytes(px, faces, 1, 1)
    counted = (kept_bytes(px, faces, 2, 1) - small, kept_bytes(px, faces, 1, 2) - small)
    flux = on_meta(lambda: AnyPhotoTransformer(guidance_embeds=True, num_layers=1, num_single_layers=1))
    tokens = (px // 16) ** 2 + 512 + sum(faces)
    single = kept_gigabytes(flux, tokens, 1)
    told = (kept_gigabytes(flux, tokens, 2) - single, single)
    for bytes_, gigabytes in zip(counted, told, strict=True):
        assert bytes_ <= gigabytes * 1e9 * 1.01 and bytes_ > 0.85 * gigabytes * 1e9


def test_as_many_blocks_as_the_budget_holds():
    flux = on_meta(lambda: AnyPhotoTransformer(guidance_embeds=True))
    tokens = 1024 + 512 + 128
    every = kept_gigabytes(flux, tokens, 57)
    assert blocks_to_keep(flux, tokens, 0.01) == 0 and blocks_to_keep(flux, tokens, every + 1e-6) == 57
    for budget in (0.5, 2, 5):
        kept = blocks_to_keep(flux, tokens, budget)
        assert kept_gigabytes(flux, tokens, kept) <= budget < kept_gigabytes(flux, tokens, kept + 1)
    assert blocks_to_keep(flux, 2 * tokens, 2) == pytest.approx(blocks_to_keep(flux, tokens, 2) / 2, abs=1)


def test_a_budget_changes_what_is_computed_again_and_no_number(mini_shards, tmp_path):
    heard = Heard()
    for name, budget in (("none", None), ("some", 0.004)):
        more = {"max_train_steps": 2, "gradient_checkpointing": True, "activation_memory_gb": budget}
        train(config(mini_shards, tmp_path / name, **more), listener=heard)
    assert same(state(tmp_path / "none" / "checkpoint-2"), state(tmp_path / "some" / "checkpoint-2"))
    [told] = [notice for notice in heard.notices if "computed again" in notice]
    assert told in [f"{count} of 3 blocks are computed again in the backward pass" for count in (1, 2)]
