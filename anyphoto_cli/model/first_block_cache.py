"""First-block caching: where the first block adds what it added a step before, the others are not asked again.

Inexact, and therefore off by default. What all blocks but the first add to the noise tokens is kept; a step whose first
block adds nearly what it added at the last step computed in full takes it from there. Source: ParaAttention's
first-block cache, after TeaCache (arXiv 2411.19108). diffusers' own hook wants every block to return both streams; our
last one returns noise tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(eq=False)
class FirstBlockCache:
    """Of one render and branch. threshold: relative change (mean absolute) of the first block's share, up to which it
    is taken for the same. asked, reused: steps so far, and those that took the kept rest.
    """

    threshold: float
    asked: int = 0
    reused: int = 0
    _first: Tensor | None = None
    _rest: Tensor | None = None

    def rest_for(self, first: Tensor) -> Tensor | None:
        """What the other blocks add, or None: compute it, then `keep` it. first: [B|X|, dim], the first block's share.

        Waits for the device: the choice is made on the host.
        """
        self.asked += 1
        if self._first is not None:
            change = (first - self._first).abs().mean() / self._first.abs().mean()
            if float(change) < self.threshold:
                self.reused += 1
                return self._rest
        self._first = first
        return None

    def keep(self, rest: Tensor) -> None:
        """[B|X|, dim] of the step that `rest_for` had nothing for."""
        self._rest = rest
