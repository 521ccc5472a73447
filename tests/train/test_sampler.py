"""The plan: every sample once, equal steps, like costs together, and the same whoever asks."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyphoto_cli.train.sampler import Plan, straggling


def costs(count, seed=0):
    rng = np.random.default_rng(seed)
    faces = rng.choice([1, 2, 3, 4], count, p=[0.2, 0.4, 0.25, 0.15])
    return (faces * np.exp(rng.normal(4.6, 0.6, count))).astype(np.int32)


@given(count=st.integers(0, 700), batch=st.integers(1, 5), world=st.integers(1, 6), seed=st.integers(0, 99))
def test_no_sample_twice_and_equal_steps_on_all_ranks(count, batch, world, seed):
    plan = Plan(costs(count), batch, world, seed)
    steps = plan.epoch(3)
    assert steps.shape == (count // (batch * world), world, batch)
    assert len(np.unique(steps)) == steps.size and (steps.size == 0 or steps.max() < count)
    assert count - steps.size < batch * world
    assert np.array_equal(steps, Plan(costs(count), batch, world, seed).epoch(3))


def test_epochs_differ_and_what_an_epoch_leaves_out_comes_in_others():
    plan = Plan(costs(103), 4, 2, 1)
    first, second = plan.epoch(0), plan.epoch(1)
    assert not np.array_equal(first, second)
    seen = set(np.concatenate([plan.epoch(e).ravel() for e in range(12)]).tolist())
    assert seen == set(range(103))


def test_going_on_at_any_step_gives_what_an_uninterrupted_run_gets():
    plan = Plan(costs(50), 2, 3, 5)
    whole = [(step, row.tolist()) for step, row in islice(plan.from_step(0, 1), 30)]
    for start in (0, 1, 7, 8, 9, 25):
        assert [(step, row.tolist()) for step, row in islice(plan.from_step(start, 1), 5)] == whole[start : start + 5]


@pytest.mark.parametrize("world, most", [(8, 1.02), (64, 1.02), (1024, 1.05)])
def test_ranks_wait_for_each_other_as_good_as_never(world, most):
    many = costs(world * 200)
    plan = Plan(many, 1, world, 0)
    base = 1024 + 512
    shuffled = np.random.default_rng(0).permutation(len(many))[: plan.steps * world].reshape(-1, world, 1)
    assert straggling(plan.epoch(0), many, base) < most < 1.1 < straggling(shuffled, many, base)


def test_within_a_step_no_rank_has_the_dear_samples_every_time():
    many = costs(8 * 300)
    dearest = many[Plan(many, 2, 4, 0).epoch(0)].sum(-1).argmax(1)
    assert np.bincount(dearest, minlength=4).max() < 0.4 * len(dearest)


def test_large_and_small_faces_alternate():
    many = costs(64 * 300)
    mean = many[Plan(many, 1, 64, 0).epoch(0)].mean((1, 2))
    assert abs(np.corrcoef(mean[:-1], mean[1:])[0, 1]) < 0.2


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="3 samples do not fill a step of 2 x 2"):
        next(Plan(costs(3), 2, 2, 0).from_step(0, 0))


def test_steps_have_the_same_samples_on_any_number_of_ranks_that_take_as_many_together():
    costs = np.arange(50, dtype=np.int32)
    one, two = Plan(costs, 4, 1, seed=3).epoch(1), Plan(costs, 2, 2, seed=3).epoch(1)
    assert np.array_equal(one.reshape(-1, 4), two.reshape(-1, 4))
