"""Identity-isolated attention: its exact forms, the dense mask, FlexAttention, and what the pairs alone would cost.

python -m benchmarks attention                   here, FLUX's shapes with fewer and narrower heads, float32
python -m benchmarks attention --device cuda     FLUX.1's: 24 heads of 128, bfloat16
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anyphoto_cli.model.isolated_attention import masked_attention, merged_attention, open_attention, split_attention
from benchmarks.rounds import asked, interleaved, milliseconds, ratio

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

    cases = {
        "text and noise alone": run(open_attention, shared, []), "no mask (wrong)": run(open_attention),
        "dense mask": run(masked_attention), "split": run(split_attention), "merged": run(merged_attention),
    }  # fmt: skip
    flexed = not backward and people > 1 and text == TEXT
    if flexed:
        cases["FlexAttention"] = flex(q, k, v, lengths)
    taken = interleaved(cases, rounds)
    alone = "text and noise alone"
    told: dict[str, object] = {
        "px": px, "faces": f"{people} x {side} px", "location tokens": sum(lengths),
        "pairs (limit)": round(kept_pairs(shared, lengths) / shared**2, 3),
    }  # fmt: skip
    for name in ("no mask (wrong)", "dense mask", "split", "merged"):
        told[name] = round(ratio(taken, name, alone), 3)
    if not backward and text == TEXT:
        told["FlexAttention"] = round(ratio(taken, "FlexAttention", alone), 2) if flexed else "n/a"
    best = min(("split", "merged"), key=lambda name: ratio(taken, name, alone))
    told["best / dense mask"] = round(ratio(taken, best, "dense mask"), 3)
    told["ms, text and noise alone"] = milliseconds(taken[alone])
    return told


def measure(arguments: list[str]) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    cases = CASES + (MORE_ON_A_GPU if device.type == "cuda" else ())
    tables = {
        f"{title}, over text and noise alone": [
            rows_of(*case, device=device, rounds=rounds, backward=backward) for case in cases
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
