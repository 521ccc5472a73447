"""Micro-steps and ranks that together are one step, and runs with them that go on where they were."""

import itertools
import json
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.train import batches as batches_module
from anyphoto_cli.train import loop
from anyphoto_cli.train.batches import ShardedSamples, batches
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.loop import run as train
from tests.train.test_run import config, same, state, weights


def told(shards, out, **more):
    """Three steps of two micro-steps of one sample, with averaged weights."""
    base = {"max_train_steps": 3, "train_batch_size": 1, "gradient_accumulation_steps": 2, "ema_decay": 0.9}
    return config(shards, out, **base | {"checkpointing_steps": 3, "report_to": "none"} | more)


@pytest.fixture(scope="module")
def whole(mini_shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("accumulated") / "run"
    assert train(told(mini_shards, out)).finished
    return out


def test_a_run_with_micro_steps_and_averages_goes_on_bit_for_bit(mini_shards, whole, tmp_path):
    out = tmp_path / "run"
    assert train(told(mini_shards, out), stop=lambda: True).step == 1
    assert train(told(mini_shards, out)).finished
    one, other = (state(run / "checkpoint-3") for run in (out, whole))
    assert same(one, other) and any(key.endswith("/average") for key in one)
    for part in ("adapter", "checkpoint-3/average"):
        assert same(weights(out / part), weights(whole / part))


def test_a_run_does_not_go_on_with_other_shards(mini_shards, whole, tmp_path):
    """Though they have the same names: the order of samples would be another one."""
    data = shutil.copytree(mini_shards, tmp_path / "data")
    assert train(told(data, whole)).finished  # a copy is no other data
    manifest = data / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=7))
    with pytest.raises(InputError, match="shards' manifest: this run began with"):
        train(told(data, whole))


def test_micro_steps_together_have_the_gradient_of_their_mean_and_ranks_hear_of_the_last_one(monkeypatch):
    weight, asked, sent = nn.Parameter(torch.tensor(2.0)), [], []

    def objective(batch, *_, step, **__):
        asked.append((batch, step))
        return SimpleNamespace(loss=weight * batch)

    @contextmanager
    def section(name):
        yield

    @contextmanager
    def during(last):
        sent.append(last)
        yield

    monkeypatch.setattr(loop, "objective", objective)
    run = SimpleNamespace(config=told("data", "run", gradient_accumulation_steps=3), ranks=Ranks(),
                          models=SimpleNamespace(parts=None))  # fmt: skip
    meter = SimpleNamespace(sections=SimpleNamespace(of=section), add=lambda *_: None)
    work = iter([(1.0, None), (3.0, None), (8.0, None), (99.0, None)])
    loss = loop._gradients(run, work, 5, meter, SimpleNamespace(during=during))
    assert weight.grad.item() == pytest.approx(4.0) and loss == pytest.approx(8.0)
    assert asked == [(1.0, 15), (3.0, 16), (8.0, 17)] and sent == [False, False, True]


def test_the_curriculum_counts_steps_and_chance_micro_steps(mini_shards, monkeypatch):
    """A sample that comes again has another crop and other degradations."""
    found, make_example = [], batches_module.make_example

    def made(*given, p, seed):
        found.append((p, seed))
        return make_example(*given, p=p, seed=seed)

    monkeypatch.setattr(batches_module, "make_example", made)
    asked = told(mini_shards, "unused", max_train_steps=4, seed=3, data={"replacement_max": 0.8})
    samples = ShardedSamples(Path(mini_shards))
    for _ in itertools.islice(batches(samples, asked, 0, 0, 1), 8):
        pass
    assert [p for p, _ in found] == pytest.approx([0, 0, 0.48, 0.48, 0.8, 0.8, 0.8, 0.8])
    assert [seed[:2] for _, seed in found] == [(3, micro) for micro in range(8)]
    assert len({seed[2] for _, seed in found}) == 8 and {seed[2] for _, seed in found} < set(range(len(samples)))


def test_two_ranks_are_given_different_samples_and_noise(mini_shards, tmp_path, monkeypatch):
    """In one process: what is summed is twice this rank's own, as if the other one said the same."""

    class Enough(Exception):
        pass

    seen = []

    def objective(batch, *_, step, rank, encoded, **__):
        seen.append(([example.key for example in batch], step, rank))
        raise Enough

    @contextmanager
    def joined(rank, *_):
        yield SimpleNamespace(rank=rank, world=2, local=0, first=rank == 0, any=bool, wait=lambda: None,
                              sum=lambda values: [2 * value for value in values], gather=lambda one: [one] * 2)  # fmt: skip

    monkeypatch.setattr(loop, "objective", objective)
    for rank in range(2):
        monkeypatch.setattr(loop, "joined", partial(joined, rank))
        with pytest.raises(Enough):
            train(told(mini_shards, tmp_path / "run", train_batch_size=4))
    (first, *one), (second, *other) = seen
    assert len({*first, *second}) == 8 and (one, other) == ([0, 0], [0, 1])


def test_a_gradient_that_is_not_finite_changes_nothing(mini_shards, tmp_path, monkeypatch):
    """Though the loss is a number."""
    trained, parameters = loop.trained_parameters, {}

    def spoilt(transformer):
        if not parameters:
            parameters.update(trained(transformer))
            next(p for name, p in parameters.items() if "lora_B" in name).register_hook(lambda g: g * float("inf"))
            before.update({name: p.detach().clone() for name, p in parameters.items()})
        return trained(transformer)

    before: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(loop, "trained_parameters", spoilt)
    with pytest.raises(EnvironmentFault, match="the loss of step 1 is not finite. Nothing was updated"):
        train(told(mini_shards, tmp_path / "run", gradient_accumulation_steps=1))
    assert before and same(before, {name: p.detach() for name, p in parameters.items()})
    assert not list((tmp_path / "run").glob("checkpoint-*"))
