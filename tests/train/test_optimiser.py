"""Rate, AdamW, clipping and average, by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from anyphoto_cli.config.train import DataConfig, TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.train.optimiser import Optimiser, learning_rate


def config(**more):
    return TrainConfig(output_dir="run", data=DataConfig(shards="data"), **more)


def opened(start, **more):
    parameter = nn.Parameter(torch.tensor(start))
    return parameter, Optimiser({"a": parameter}, config(**more))


def test_the_rate_climbs_evenly_and_falls_along_a_cosine_to_nothing():
    told = config(learning_rate=8e-3, lr_scheduler="cosine", lr_warmup_steps=4, max_train_steps=12)
    rates = [learning_rate(step, told) for step in (0, 1, 3, 4, 6, 8, 10, 12)]
    assert rates == pytest.approx([2e-3, 4e-3, 8e-3, 8e-3, 8e-3 * 0.853553, 4e-3, 8e-3 * 0.146447, 0], abs=1e-8)
    assert learning_rate(0, config(learning_rate=8e-3, lr_warmup_steps=0)) == 8e-3
    line = config(learning_rate=8e-3, lr_scheduler="linear", lr_warmup_steps=4, max_train_steps=12)
    assert [learning_rate(step, line) for step in (0, 3, 4, 6, 8, 12)] == [2e-3, 8e-3, 8e-3, 6e-3, 4e-3, 0]
    same = config(learning_rate=8e-3, lr_scheduler="constant_with_warmup", lr_warmup_steps=4, max_train_steps=12)
    flat = config(learning_rate=8e-3, lr_warmup_steps=4, max_train_steps=12)
    assert [learning_rate(step, same) for step in range(12)] == [learning_rate(step, flat) for step in range(12)]
    assert [learning_rate(step, flat) for step in (1, 3, 11)] == [4e-3, 8e-3, 8e-3]


def test_steps_are_adamw_s_with_what_the_config_says():
    """Several of them: in the first one the betas cancel."""
    parameter, optimiser = opened([1.0, -2.0], learning_rate=0.1, lr_warmup_steps=2, adam_beta1=0.6, adam_beta2=0.95,
                                  adam_weight_decay=0.2, adam_epsilon=0.01)  # fmt: skip
    wanted, first, second = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(np.array([[0.5, -1.0], [2.0, 0.1], [-0.3, 0.4]])):
        rate = 0.05 if step == 0 else 0.1
        first, second = 0.6 * first + 0.4 * gradient, 0.95 * second + 0.05 * gradient**2
        move = first / (1 - 0.6 ** (step + 1)) / (np.sqrt(second / (1 - 0.95 ** (step + 1))) + 0.01)
        wanted = wanted * (1 - rate * 0.2) - rate * move
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        assert optimiser.step(step) == pytest.approx(rate) and parameter.grad is None
        assert parameter.tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def test_long_gradients_are_shortened_and_short_ones_left():
    parameter, optimiser = opened([0.0, 0.0], max_grad_norm=2.0)
    for given, kept in (([3.0, 4.0], [1.2, 1.6]), ([0.3, 0.4], [0.3, 0.4])):
        parameter.grad = torch.tensor(given)
        assert optimiser.clip() == pytest.approx(np.hypot(*given))
        assert parameter.grad.tolist() == pytest.approx(kept, abs=1e-5)


def test_the_average_soon_forgets_the_start_and_then_remembers_as_long_as_asked():
    parameter, optimiser = opened([8.0], ema_decay=0.15, learning_rate=1e-9)
    average = 8.0
    for step, decay in enumerate((1 / 10, 0.15, 0.15)):  # 2 / 11 and 3 / 12 would be more
        parameter.data.fill_(float(step))
        parameter.grad = torch.zeros(1)
        optimiser.step(step)
        average = decay * average + (1 - decay) * step
        with optimiser.averaged():
            assert parameter.item() == pytest.approx(average, abs=1e-5)
        assert parameter.item() == pytest.approx(step, abs=1e-5)


def test_what_is_loaded_goes_on_as_what_was_saved():
    def advance(parameter, optimiser, step):
        parameter.grad = torch.tensor([0.5 * step - 1, 1.0])
        optimiser.step(step)

    more = {"ema_decay": 0.9, "learning_rate": 0.1, "lr_warmup_steps": 0}
    one, first = opened([1.0, 2.0], **more)
    advance(one, first, 0)
    other, second = opened(one.tolist(), **more)
    second.load_state(first.state())
    for pair in ((one, first), (other, second)):
        advance(*pair, 1)
    kept, restored = first.state(), second.state()
    assert set(kept) == {"a/step", "a/exp_avg", "a/exp_avg_sq", "a/average"}
    assert torch.equal(one, other) and all(torch.equal(kept[key], restored[key]) for key in kept)


def test_what_another_run_saved_is_not_loaded():
    """Averages that are missing would begin at untrained weights."""
    (one, plain), (other, averaged) = opened([1.0]), opened([1.0], ema_decay=0.9)
    for parameter, optimiser in ((one, plain), (other, averaged)):
        parameter.grad = torch.ones(1)
        optimiser.step(0)
    for optimiser, saved in ((plain, averaged), (averaged, plain)):
        with pytest.raises(InputError, match="ema_decay: was saved with another ema_decay"):
            optimiser.load_state(saved.state())
    with pytest.raises(InputError, match="holds the optimiser of another model"):
        plain.load_state({f"b{key}": value for key, value in plain.state().items()})
