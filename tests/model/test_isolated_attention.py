"""Eq. 19: every fast form is the masked form, outputs and gradients; identities are isolated exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import grad

from anyphoto_cli.errors import InputError
from anyphoto_cli.model import flash_kernels, kernel_trial
from anyphoto_cli.model.flash_kernels import Cudnn, Flash, FlashAtOnce
from anyphoto_cli.model.isolated_attention import (
    KERNELS,
    MERGE_FROM,
    choose_kernel,
    masked_attention,
    merged_attention,
    split_attention,
)
from anyphoto_cli.model.joined_parts import join, join_outputs, unjoin
from anyphoto_cli.model.kernel_trial import joins

FAST = [split_attention, merged_attention]


def qkv(lengths, n_global=11, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (2, 3, n_global + sum(lengths), 8)
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(3))


@pytest.mark.parametrize("lengths", [[], [7], [3, 5], [1, 9, 4, 2]])
@pytest.mark.parametrize("attention", FAST)
def test_fast_forms_equal_the_masked_one_with_gradients(attention, lengths):
    q, k, v = qkv(lengths)
    fast, reference = attention(q, k, v, lengths), masked_attention(q, k, v, lengths)
    torch.testing.assert_close(fast, reference, rtol=0, atol=1e-14)
    w = torch.randn_like(fast)
    for a, b in zip(grad((fast * w).sum(), (q, k, v)), grad((reference * w).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=8),
    st.integers(1, 90),
    st.sampled_from([8, 16, 64]),
    st.sampled_from([(torch.float32, 1e-5), (torch.bfloat16, 3e-2)]),
    st.floats(0.1, 12),
)
def test_merged_is_exact_for_any_shape_and_size_of_logits(lengths, n_global, head_dim, kind, size):
    """float32 and bfloat16 against float64, forward and backward; large logits are where a careless merge overflows."""
    dtype, tolerance = kind
    g = torch.Generator().manual_seed(sum(lengths) + n_global)
    shape = (1, 2, n_global + sum(lengths), head_dim)
    q, k, v = ((torch.randn(shape, generator=g) * factor).to(dtype).requires_grad_() for factor in (size, 1, 1))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    fast, reference = merged_attention(q, k, v, lengths), masked_attention(*exact, lengths)
    assert fast.isfinite().all()
    torch.testing.assert_close(fast.double(), reference, rtol=0, atol=tolerance * reference.abs().max().item())
    w = torch.randn(fast.shape, generator=g).to(dtype)
    got = grad((fast * w).sum(), (q, k, v))
    for a, b in zip(got, grad((reference * w.double()).sum(), exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2 * tolerance * b.abs().max().clamp_min(1e-3).item())


def test_merged_passes_gradcheck():
    q, k, v = (x.detach()[:1, :1, :, :4].requires_grad_() for x in qkv([2, 3], n_global=3))
    assert torch.autograd.gradcheck(lambda *x: merged_attention(*x, [2, 3]), (q, k, v))


@pytest.mark.parametrize("attention", [*FAST, masked_attention])
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


def test_kernel_follows_device_and_size():
    half, single = (torch.bfloat16, 128), (torch.float32, 128)
    assert choose_kernel("auto", torch.device("cpu"), MERGE_FROM["cpu"] - 1, *single) == "masked"
    assert choose_kernel("auto", torch.device("cpu"), MERGE_FROM["cpu"], *single) == "merged"
    assert choose_kernel("auto", torch.device("mps"), 4608, *half) == "masked"
    assert choose_kernel("auto", torch.device("cuda"), MERGE_FROM["cuda"] - 1, *half) == "masked"
    assert choose_kernel("auto", torch.device("cuda"), 4608, *single) == "split"  # flash kernels take halves alone
    assert choose_kernel("masked", torch.device("cuda"), 4608, *half) == "masked"
    with pytest.raises(ValueError, match="auto, masked, split, merged; got 'open'"):
        choose_kernel("open", torch.device("cpu"), 10, *single)
    with pytest.raises(InputError, match="--attention: no flash kernel here joins float32. Use split, or auto"):
        choose_kernel("merged", torch.device("cuda"), 4608, *single)
    with pytest.raises(InputError, match="--attention: an Apple GPU has no flash kernels. Use split, or auto"):
        choose_kernel("merged", torch.device("mps"), 4608, *half)
    assert set(KERNELS) == {"masked", "split", "merged", "open"}


@pytest.mark.parametrize("kernels", [Flash(), FlashAtOnce(), Cudnn()], ids=lambda kernels: type(kernels).__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_forms_for_gpus_have_the_calls_and_shapes_that_torch_wants(kernels, dtype):
    """On the meta device: signatures and shapes of torch's own kernels, forward and backward. That the numbers are
    right only a GPU can show, and `joins` sees there.
    """
    lengths, shape = (16, 3), (2, 3, 40 + 19, 64)
    q, k, v, w = (torch.empty(shape, device="meta", dtype=dtype) for _ in range(4))
    out, lse = join(kernels, q, k, v, lengths)
    assert out.shape == shape and out.dtype == dtype and lse.shape == shape[:3] and lse.dtype == torch.float32
    for gradient in unjoin(kernels, w, q, k, v, out, lse, lengths):
        assert gradient.shape == shape and gradient.dtype == dtype


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("lengths, strengths", [([7], [0.5]), ([3, 5], [0.25, 2.0]), ([3, 5, 1], [1.0, 0.0, 4.0])])
def test_strengths_multiply_what_the_picture_sees_of_a_face(name, lengths, strengths):
    """Literally: softmax of the global rows with each face's exponentials times its strength; the faces' own rows stay
    bit for bit what they are.
    """
    n_global = 11
    q, k, v = (x.detach() for x in qkv(lengths))
    factors = torch.ones(2, q.shape[-2], dtype=torch.float64)
    per_token = torch.tensor(strengths, dtype=torch.float64).repeat_interleave(torch.tensor(lengths))
    factors[:, n_global:] = per_token
    factors[1, n_global:] = 1  # the second sample's faces are as they were
    got = KERNELS[name](q, k, v, lengths, factors.log()[:, None, None])
    weights = (q[..., :n_global, :] @ k.mT / q.shape[-1] ** 0.5).exp() * factors[:, None, None]
    torch.testing.assert_close(got[..., :n_global, :], weights / weights.sum(-1, keepdim=True) @ v, rtol=0, atol=1e-13)
    plain = KERNELS[name](q, k, v, lengths)
    torch.testing.assert_close(got[..., n_global:, :], plain[..., n_global:, :], rtol=0, atol=1e-14)
    torch.testing.assert_close(got[1], plain[1], rtol=0, atol=1e-14)
    assert (got[0] - plain[0]).abs().max() > 1e-3


class Cuda:
    """What torch's CUDA kernels compute, in plain torch, with their shapes: [.., 1] and [heads, total] log-sum-exps."""

    def _scaled_dot_product_flash_attention(self, q, k, v):
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return logits.softmax(-1) @ v, logits.logsumexp(-1)

    def _scaled_dot_product_flash_attention_backward(self, grad, q, k, v, out, lse, *_):
        p = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 - lse[..., None]).exp()
        d = p * (grad @ v.transpose(-1, -2) - (grad * out).sum(-1, keepdim=True)) / q.shape[-1] ** 0.5
        return d @ k, d.transpose(-1, -2) @ q, p.transpose(-1, -2) @ grad

    def _scaled_dot_product_cudnn_attention(self, q, k, v, bias, lse):
        assert bias is None and lse
        out, rows = self._scaled_dot_product_flash_attention(q, k, v)
        return out, rows[..., None]

    def _each(self, form, ends, rows, lse=()):
        pieces = []
        for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            cut = [x[first:last].transpose(0, 1) for x in rows]
            pieces.append(form(*cut, *(row[:, first:last] for row in lse)))
        return zip(*pieces, strict=True)

    def _flash_attention_forward(self, q, k, v, ends, ends_k, longest, longest_k, *_):
        assert ends is ends_k and longest == longest_k == int(ends.diff().max())
        outs, rows = self._each(self._scaled_dot_product_flash_attention, ends, (q, k, v))
        return torch.cat([out.transpose(0, 1) for out in outs]), torch.cat(rows, -1)

    def _flash_attention_backward(self, grad, q, k, v, out, lse, ends, *_):
        found = self._each(self._scaled_dot_product_flash_attention_backward, ends, (grad, q, k, v, out), (lse,))
        return tuple(torch.cat([piece.transpose(0, 1) for piece in pieces]) for pieces in found)


@pytest.mark.parametrize("kernels", [Flash(), FlashAtOnce(), Cudnn()], ids=lambda kernels: type(kernels).__name__)
@pytest.mark.parametrize("lengths", [(7, 7), (3, 5), (1, 9, 4, 2)])
def test_the_gpu_s_calls_are_joined_as_the_cpu_s_are(monkeypatch, kernels, lengths):
    """The kernels stood in for; on a card they are tried the same way before they are used."""
    monkeypatch.setattr(flash_kernels, "_ATEN", Cuda())
    q, k, v = qkv(lengths)
    reference = masked_attention(q, k, v, lengths)
    w = torch.randn_like(reference)
    with torch.no_grad():
        out, lse = join(kernels, q, k, v, lengths)
        got = unjoin(kernels, w, q, k, v, out, lse, lengths)
    torch.testing.assert_close(out, reference, rtol=0, atol=1e-13)
    torch.testing.assert_close(join_outputs(kernels, q, k, v, lengths), reference, rtol=0, atol=1e-13)
    for a, b in zip(got, grad((reference * w).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert joins(kernels, torch.device("cpu"), torch.float32, 16)


def test_a_full_card_says_nothing_of_a_kernel(monkeypatch):
    """What a trial finds is remembered as long as the process lives."""

    class Full(Cuda):
        def _scaled_dot_product_flash_attention(self, q, k, v):
            raise torch.OutOfMemoryError

    monkeypatch.setattr(flash_kernels, "_ATEN", Full())
    with pytest.raises(torch.OutOfMemoryError):
        joins(Flash(), torch.device("cpu"), torch.float32, 16)


def test_kernels_that_do_not_join_are_not_used(monkeypatch):
    """A log-sum-exp to another base, a backward pass that makes its own of it, an operator that is not there."""

    class Other(Cuda):
        def _scaled_dot_product_flash_attention(self, q, k, v):
            out, lse = super()._scaled_dot_product_flash_attention(q, k, v)
            return out, lse * 1.4427

    class Own(Cuda):
        def _scaled_dot_product_flash_attention_backward(self, grad, q, k, v, out, lse, *_):
            out, lse = self._scaled_dot_product_flash_attention(q, k, v)
            return super()._scaled_dot_product_flash_attention_backward(grad, q, k, v, out, lse)

    class Gone(Cuda):
        _flash_attention_forward = property()

    for stand_in in (Other(), Own(), Gone()):
        monkeypatch.setattr(flash_kernels, "_ATEN", stand_in)
        assert not joins(FlashAtOnce(), torch.device("cpu"), torch.float32, 16)


@pytest.mark.parametrize("passes, taken", [((Cudnn, Flash), Cudnn), ((FlashAtOnce, Flash), FlashAtOnce), ((), None)])
def test_the_first_set_of_kernels_that_passes_is_taken(monkeypatch, passes, taken):
    monkeypatch.setattr(kernel_trial, "joins", lambda kernels, *_: type(kernels) in passes)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = kernel_trial.cuda_kernels.__wrapped__(torch.device("cuda"), torch.bfloat16, 128)
    assert found is None if taken is None else type(found) is taken


@pytest.mark.parametrize("lengths", [[7], [3, 5], [1, 9, 4, 2]])
def test_a_bias_in_the_merged_form_is_the_masked_one_s(lengths):
    q, k, v = (x.detach() for x in qkv(lengths))
    bias = torch.randn(2, 1, 1, k.shape[-2], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            merged_attention(q, k, v, lengths, bias), masked_attention(q, k, v, lengths, bias), rtol=0, atol=1e-14
        )


def test_a_mask_made_in_inference_mode_serves_training():
    lengths = [5, 2, 6]
    q, k, v = qkv(lengths, n_global=13)
    with torch.inference_mode():
        masked_attention(q.detach(), k.detach(), v.detach(), lengths)
    assert all(x.isfinite().all() for x in grad(masked_attention(q, k, v, lengths).sum(), (q, k, v)))
