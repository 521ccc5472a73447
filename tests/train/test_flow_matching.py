"""Flow matching by hand, and times that are a pure function of the step."""

import numpy as np
import pytest
import torch
from scipy import stats

from anyphoto_cli.train.flow_matching import (
    TimeRule,
    clean_estimate,
    draw_noise,
    draw_times,
    flow_loss,
    interpolate,
    velocity,
)


def test_two_tokens_by_hand():
    clean, noise = torch.tensor([[[2.0], [4.0]]]), torch.tensor([[[6.0], [0.0]]])
    t = torch.tensor([0.25])
    noisy = interpolate(clean, noise, t)
    assert noisy.tolist() == [[[3.0], [3.0]]]
    assert velocity(clean, noise).tolist() == [[[4.0], [-4.0]]]
    said = torch.tensor([[[5.0], [-2.0]]])
    assert flow_loss(said, clean, noise).item() == (1 + 4) / 2
    assert clean_estimate(noisy, velocity(clean, noise), t).tolist() == clean.tolist()
    assert clean_estimate(noisy, said, t).tolist() == [[[1.75], [3.5]]]


def test_the_loss_is_computed_in_float32():
    clean, noise = torch.zeros(1, 4, 2), torch.full((1, 4, 2), 1e-3)
    assert flow_loss(torch.zeros(1, 4, 2, dtype=torch.bfloat16), clean, noise).dtype is torch.float32


def test_all_ranks_share_the_coin_and_nothing_else():
    rule = TimeRule(face_max=0.6)
    for step in range(200):
        first, second = (draw_times(3, rule, 7, step, rank) for rank in (0, 1))
        assert first.with_faces == second.with_faces
        assert not torch.equal(first.t, second.t)
        assert ((first.t <= rule.face_max) == first.with_faces).all()
        again = draw_times(3, rule, 7, step, 0)
        assert torch.equal(first.t, again.t) and again.with_faces == first.with_faces


@pytest.mark.parametrize(
    "rule",
    [
        TimeRule(face_max=0.6),
        TimeRule(mean=-0.4, std=1.3, face_max=0.3),
        TimeRule(face_max=1.0),
        TimeRule(face_max=0.0),
    ],
)
def test_times_are_logit_normal_whatever_the_gate(rule):
    drawn = torch.cat([draw_times(4, rule, 0, step, 0).t for step in range(3000)]).double()
    normal = (torch.logit(drawn.clamp(1e-6, 1 - 1e-6)) - rule.mean) / rule.std
    # Draws of one step share a coin: a quarter of them is independent.
    assert stats.kstest(normal[::4].numpy(), "norm").pvalue > 1e-3
    share = np.mean([draw_times(1, rule, 0, step, 0).with_faces for step in range(3000)])
    assert share == pytest.approx(float((drawn <= rule.face_max).double().mean()), abs=0.03)


def test_noise_is_a_pure_function_of_seed_step_and_rank():
    base = draw_noise((2, 5), 1, 2, 3)
    assert torch.equal(base, draw_noise((2, 5), 1, 2, 3))
    for other in ((0, 2, 3), (1, 1, 3), (1, 2, 2)):
        assert not torch.equal(base, draw_noise((2, 5), *other))
    many = torch.cat([draw_noise((400,), 0, step, 0) for step in range(50)])
    assert abs(many.mean()) < 0.03 and abs(many.std() - 1) < 0.02
