"""Identity-isolated attention: its exact forms, the dense mask, FlexAttention, and what the pairs alone would cost.

python -m benchmarks attention                   here, FLUX's shapes with fewer and narrower heads, float32
python -m benchmarks attention --device cuda     FLUX.1's: 24 heads of 128, bfloat16
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from anyphoto_cli.model.isolated_attention import masked_attention, merged_attention, open_attention, split_attention
from benchmarks import card
from benchmarks.rounds import asked, attempted, interleaved, milliseconds, ratio, that_run

LIMITS = (
    "the pairs that Eq. 19 keeps, over those of text and noise alone; forward at most 1.05 x it on a CPU, forward and "
    "backward at most 0.97 x the dense mask"
)
TEXT = 512
# px, people, side of a face in px: smaller faces in larger groups.
CASES = ((512, 1, 192), (512, 2, 128), (512, 4, 96), (512, 8, 64), (768, 4, 144), (1024, 2, 256), (1024, 4, 192))
FEW = ((64, 2, 16), (128, 2, 48), (160, 3, 48), (192, 3, 64), (256, 3, 64), (320, 3, 80), (384, 4, 80))
"""Pictures of the small world, whose texts have 48 tokens: where the merged form begins to pay on a CPU."""
FEW_TEXT = 48
MORE_ON_A_GPU = ((1024, 1, 384), (1024, 8, 128), (1536, 4, 288), (1536, 8, 192))


def kept_pairs(shared: int, lengths: Sequence[int]) -> int:
    """Queries times the keys each may see."""
    return shared * (shared + sum(lengths)) + sum(n * (shared + n) for n in lengths)


def flex(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Callable[[], Tensor]:
    """FlexAttention, compiled, its block mask made beforehand; no backward pass on a CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    shared, total = q.shape[-2] - sum(lengths), q.shape[-2]
    owner = torch.tensor([0] * shared + [i for i, n in enumerate(lengths, 1) for _ in range(n)], device=q.device)

    def keep(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (owner[i] == 0) | (owner[j] == 0) | (owner[i] == owner[j])

    mask = create_block_mask(keep, None, None, total, total, device=str(q.device))
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask)


def with_varlen(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None) -> Tensor:
    """The merged form with one call for all identities' own pairs; forward alone: varlen's backward pass ignores a
    gradient through the log-sum-exp.
    """
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    if len(lengths) <= 1:
        return open_attention(q, k, v, lengths)
    shared = q.shape[-2] - sum(lengths)
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    out_shared = flash(q[..., :shared, :], k, v)[0]
    by_shared, lse_by_shared = flash(q[..., shared:, :], k[..., :shared, :], v[..., :shared, :])[:2]
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=q.device)
    own = (x[0, :, shared:].transpose(0, 1) for x in (q, k, v))
    by_own, lse_by_own = varlen_attn(*own, ends, ends, max(lengths), max(lengths), return_aux=AuxRequest(lse=True))
    by_own, lse_by_own = by_own.transpose(0, 1)[None], lse_by_own[None]
    lse = torch.logaddexp(lse_by_shared, lse_by_own)
    out_own = by_shared * (lse_by_shared - lse).exp()[..., None] + by_own * (lse_by_own - lse).exp()[..., None]
    return torch.cat([out_shared, out_own.to(q.dtype)], -2)


def by(backend: str, form: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same with one of torch's attention kernels alone."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def called(*given: object) -> Tensor:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return form(*given)

    return called


@functools.cache
def mask_of(shared: int, lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Eq. 19's mask, made once: what a careful user of a dense mask would do."""
    owner = torch.tensor([0] * shared + [i for i, n in enumerate(lengths, 1) for _ in range(n)], device=device)
    return (owner[:, None] == 0) | (owner[None] == 0) | (owner[:, None] == owner[None])


def with_kept_mask(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None) -> Tensor:
    """`masked_attention`, its mask made once."""
    if bias is not None or len(lengths) <= 1:
        return masked_attention(q, k, v, lengths, bias)
    mask = mask_of(q.shape[-2] - sum(lengths), tuple(lengths), q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


ALONE = "text and noise alone"
FORMS: dict[str, Callable[..., Tensor]] = {
    "no mask (wrong)": open_attention, "dense mask": masked_attention, "split": split_attention,
    "merged": merged_attention,
}  # fmt: skip
ON_A_GPU: dict[str, Callable[..., Tensor]] = {
    "dense mask": with_kept_mask,
    "split, flash": by("FLASH_ATTENTION", split_attention), "split, cuDNN": by("CUDNN_ATTENTION", split_attention),
    "merged, varlen": with_varlen,
}  # fmt: skip


def rows_of(
    px: int, people: int, side: int, device: torch.device, rounds: int, backward: bool, text: int = TEXT
) -> dict[str, object]:  # fmt: skip
    """One line of the table."""
    cuda = device.type == "cuda"
    heads, width, dtype = (24, 128, torch.bfloat16) if cuda else (2, 128, torch.float32)
    shared, lengths = text + (px // 16) ** 2, [(side // 16) ** 2] * people
    total = shared + sum(lengths)
    # Strided as in the model: [S, heads, width] seen as [heads, S, width].
    q, k, v = (
        torch.randn(1, total, heads, width, device=device, dtype=dtype).transpose(1, 2).requires_grad_(backward)
        for _ in range(3)
    )

    def run(form: Callable[..., Tensor], end: int = total, lengths: Sequence[int] = lengths) -> Callable[[], None]:
        weights = torch.randn_like(q[:, :, :end])

        def once() -> None:
            out = form(q[:, :, :end], k[:, :, :end], v[:, :, :end], lengths)
            if backward:
                torch.autograd.grad((out * weights).sum(), (q, k, v))

        return once

    forms = FORMS | (ON_A_GPU if cuda else {})
    if backward:
        forms.pop("merged, varlen", None)
    cases: dict[str, Callable[[], object]] = {ALONE: run(open_attention, shared, [])}
    cases |= {name: run(form) for name, form in forms.items()}
    flexed = not backward and people > 1 and text == TEXT and (not cuda or px == 1024 or (px, people) == (512, 4))
    if flexed:
        cases["FlexAttention"] = flex(q, k, v, lengths)
    cases, refused = that_run(cases)
    taken = interleaved(cases, rounds, 10 if cuda else 1)
    told: dict[str, object] = {
        "px": px, "faces": f"{people} x {side} px", "location tokens": sum(lengths),
        "pairs (limit)": round(kept_pairs(shared, lengths) / shared**2, 3),
    }  # fmt: skip
    for name in forms:
        told[name] = "refused" if name in refused else round(ratio(taken, name, ALONE), 3)
    if not backward and text == TEXT:
        told["FlexAttention"] = round(ratio(taken, "FlexAttention", ALONE), 2) if "FlexAttention" in taken else "n/a"
    best = min((name for name in ("split", "merged") if name in taken), key=lambda name: ratio(taken, name, ALONE))
    told["best / dense mask"] = round(ratio(taken, best, "dense mask"), 3)
    told["ms, text and noise alone"] = milliseconds(taken[ALONE]) if not cuda else round(
        statistics.median(taken[ALONE]) * 1000, 3
    )  # fmt: skip
    if cuda:
        rate = 4 * heads * width * shared**2 * (3.5 if backward else 1) / statistics.median(taken[ALONE])
        told["TFLOP/s there"] = round(rate / 1e12)
    if cuda and not backward:
        told |= errors_of(q, k, v, lengths, {name: form for name, form in forms.items() if name not in refused})
    return told


def errors_of(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], forms: dict[str, Callable[..., Tensor]]
) -> dict[str, object]:  # fmt: skip
    """Largest distance of two exact forms from float32 under a dense mask, over its largest number."""
    exact = masked_attention(q.float(), k.float(), v.float(), lengths)

    def off(name: str) -> float:
        return float((forms[name](q, k, v, lengths).float() - exact).abs().max() / exact.abs().max())

    return {f"error, {name}": f"{off(name):.0e}" for name in ("dense mask", "split", "merged") if name in forms}


def measure(arguments: list[str]) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    cases = CASES + (MORE_ON_A_GPU if device.type == "cuda" else ())
    tables = {"The card": card.rows()} if device.type == "cuda" else {}
    tables |= {
        f"{title}, over text and noise alone": [
            row
            for case in cases
            for row in attempted(lambda case=case, backward=backward: [rows_of(*case, device, rounds, backward)])
        ]
        for title, backward in (("Forward", False), ("Forward and backward", True))
    }
    if device.type == "cpu":
        for title, backward in (("forward", False), ("forward and backward", True)):
            tables[f"Few tokens: {title}, {FEW_TEXT} of text, over text and noise alone"] = [
                {"tokens": FEW_TEXT + (px // 16) ** 2 + people * (side // 16) ** 2}
                | rows_of(px, people, side, device, 8 * rounds, backward, FEW_TEXT)
                for px, people, side in FEW
            ]
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one thread, 2 heads of 128, float32"
    return f"; medians of {rounds} interleaved rounds, {where}, nothing else running.", tables
