"""Identity-isolated attention: its exact forms, the dense mask, FlexAttention, and what the pairs alone would cost.

python -m benchmarks attention                   here, FLUX's shapes with fewer and narrower heads, float32
python -m benchmarks attention --device cuda     FLUX.1's: 24 heads of 128, bfloat16
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from anyphoto_cli.model import merged_attention as merged
from anyphoto_cli.model.flash_kernels import Flash, FlashAtOnce, Kernels
from anyphoto_cli.model.isolated_attention import masked_attention, merged_attention, open_attention, split_attention
from benchmarks import card
from benchmarks.rounds import asked, attempted, interleaved, milliseconds, ratio, that_run, wait

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


def by(backend: str, form: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same with one of torch's attention kernels alone."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def called(*given: object) -> Tensor:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return form(*given)

    return called


def merged_by(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None
) -> Tensor:  # fmt: skip
    """The merged form by one set of kernels."""
    with mock.patch.object(merged, "kernels_of", lambda q: kernels):
        return merged_attention(q, k, v, lengths, bias)


def new_shape_rows() -> list[dict[str, object]]:
    """Forward and backward at 1024 px for a number of location tokens that was not seen before, and for it again: what
    a training run pays, whose samples all differ.
    """
    device, shared = torch.device("cuda"), TEXT + 4096
    forms = {"merged": merged_attention, **ON_A_GPU}
    taken: dict[str, list[list[float]]] = {name: [] for name in forms}
    for number in range(6):
        for place, (name, form) in enumerate(forms.items()):
            lengths = (101 + 16 * number + place, 57 + 16 * number + place)
            q, k, v = (
                torch.randn(1, shared + sum(lengths), 24, 128, device=device, dtype=torch.bfloat16)
                .transpose(1, 2).requires_grad_()
                for _ in range(3)
            )  # fmt: skip
            times = []
            for _ in range(3):
                wait()
                began = time.perf_counter()
                torch.autograd.grad(form(q, k, v, lengths).sum(), (q, k, v))
                wait()
                times.append(1000 * (time.perf_counter() - began))
            taken[name].append([times[0], min(times[1:])])
    return [
        {"forward and backward": name,
         **{what: round(statistics.median(times[place] for times in told[1:]), 2)
            for place, what in enumerate(("ms, a new number of tokens", "ms, the same again"))}}
        for name, told in taken.items()
    ]  # fmt: skip


ALONE = "text and noise alone"
FORMS: dict[str, Callable[..., Tensor]] = {
    "no mask (wrong)": open_attention, "dense mask": masked_attention, "split": split_attention,
    "merged": merged_attention,
}  # fmt: skip
ON_A_GPU: dict[str, Callable[..., Tensor]] = {
    "no mask, flash (wrong)": by("FLASH_ATTENTION", open_attention),
    "merged, flash": partial(merged_by, FlashAtOnce()), "merged, flash, a call each": partial(merged_by, Flash()),
}  # fmt: skip


def rows_of(
    px: int, people: int, side: int, device: torch.device, rounds: int, backward: bool, text: int = TEXT,
    with_flex: bool = True,
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
    cases: dict[str, Callable[[], object]] = {ALONE: run(open_attention, shared, [])}
    cases |= {name: run(form) for name, form in forms.items()}
    flexed = with_flex and not backward and people > 1 and text == TEXT and (not cuda or (px, people) == (1024, 4))
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


def tables_of(
    cases: Sequence[tuple[int, int, int]], device: torch.device, rounds: int, with_flex: bool = True
) -> dict[str, list[dict[str, object]]]:  # fmt: skip
    """Forward, and forward and backward."""

    def line(case: tuple[int, int, int], backward: bool) -> list[dict[str, object]]:
        return attempted(lambda: [rows_of(*case, device, rounds, backward, with_flex=with_flex)])

    return {
        f"{title}, over text and noise alone": [row for case in cases for row in line(case, backward)]
        for title, backward in (("Forward", False), ("Forward and backward", True))
    }


def short_tables(device: torch.device, rounds: int) -> dict[str, list[dict[str, object]]]:
    """A few of the cases on a GPU, without FlexAttention, which compiles for each; tokens not seen before."""
    cases = ((512, 2, 128), (768, 4, 144), (1024, 2, 256), (1024, 4, 192), (1024, 8, 128))
    new = {"Numbers of tokens that were not seen before": attempted(new_shape_rows)}
    return tables_of(cases, device, rounds, with_flex=False) | new


def measure(arguments: list[str]) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    cases = CASES + (MORE_ON_A_GPU if device.type == "cuda" else ())
    tables = {"The card": card.rows()} if device.type == "cuda" else {}
    tables |= tables_of(cases, device, rounds)
    if device.type == "cuda":
        tables["Numbers of tokens that were not seen before"] = attempted(new_shape_rows)
    else:
        for title, backward in (("forward", False), ("forward and backward", True)):
            tables[f"Few tokens: {title}, {FEW_TEXT} of text, over text and noise alone"] = [
                {"tokens": FEW_TEXT + (px // 16) ** 2 + people * (side // 16) ** 2}
                | rows_of(px, people, side, device, 8 * rounds, backward, FEW_TEXT)
                for px, people, side in FEW
            ]
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one thread, 2 heads of 128, float32"
    return f"; medians of {rounds} interleaved rounds, {where}, nothing else running.", tables
