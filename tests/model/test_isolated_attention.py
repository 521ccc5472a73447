"""Eq. 19: the split form is the masked form, outputs and gradients; identities are isolated exactly."""

import pytest
import torch
from torch.autograd import grad

from anyphoto_cli.model.isolated_attention import choose_kernel, masked_attention, split_attention


def qkv(lengths, n_global=11, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (2, 3, n_global + sum(lengths), 8)
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(3))


@pytest.mark.parametrize("lengths", [[], [7], [3, 5], [1, 9, 4, 2]])
def test_split_equals_masked_with_gradients(lengths):
    q, k, v = qkv(lengths)
    fast, reference = split_attention(q, k, v, lengths), masked_attention(q, k, v, lengths)
    torch.testing.assert_close(fast, reference, rtol=0, atol=1e-14)
    w = torch.randn_like(fast)
    for a, b in zip(grad((fast * w).sum(), (q, k, v)), grad((reference * w).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("attention", [split_attention, masked_attention])
def test_changing_one_identity_leaves_the_other_bit_equal_and_moves_the_globals(attention):
    lengths, first, second = [4, 6], slice(11, 15), slice(15, 21)
    q, k, v = qkv(lengths)
    before = attention(q, k, v, lengths)
    other = [x.detach().clone() for x in (q, k, v)]
    for x in other:
        x[..., second, :] += 1
    after = attention(*other, lengths)
    assert torch.equal(before[..., first, :], after[..., first, :])
    assert not torch.equal(before[..., :11, :], after[..., :11, :])
    assert not torch.equal(before[..., second, :], after[..., second, :])


def test_kernel_follows_the_device():
    assert choose_kernel("auto", torch.device("cuda")) == "split"
    assert choose_kernel("auto", torch.device("cpu")) == "masked"
    assert choose_kernel("masked", torch.device("cuda")) == "masked"
