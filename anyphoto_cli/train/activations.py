"""What blocks keep for their backward pass, and how many may do so within a budget: selective checkpointing.

Counted, not guessed: see docs/performance/memory.md (`python -m benchmarks memory`).
"""

from __future__ import annotations

from typing import Any

DOUBLE, SINGLE = 16.8, 15.5
"""Numbers of the model's format that a block keeps, per token and width, with LoRA of rank 128 on location tokens."""


def kept_gigabytes(transformer: Any, tokens: int, blocks: int, bytes_each: int = 2) -> float:
    """Of the last `blocks` blocks. tokens: text, noise and location tokens of a whole batch."""
    single = min(blocks, len(transformer.single_transformer_blocks))
    widths = SINGLE * single + DOUBLE * (blocks - single)
    return float(widths * tokens * transformer.inner_dim * bytes_each / 1e9)


def blocks_to_keep(transformer: Any, tokens: int, budget_gb: float, bytes_each: int = 2) -> int:
    """The most of the last blocks that fit into a budget."""
    every = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    return sum(kept_gigabytes(transformer, tokens, count, bytes_each) <= budget_gb for count in range(1, every + 1))
