"""Which samples every rank gets at every step: planned for all ranks at once, a pure function of seed and epoch.

Ranks wait for the slowest one at every step, and what a sample costs depends on its location tokens. Within a window of
the shuffled order, samples of like cost are put into one step; steps and windows are shuffled, so that large and small
faces alternate. Every rank has the same number of steps whatever the number of shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS_IN_A_WINDOW = 64


@dataclass(frozen=True)
class Plan:
    """costs: [samples] location tokens. batch: samples of one rank and step. world: ranks."""

    costs: NDArray[np.int32]
    batch: int
    world: int
    seed: int

    @property
    def steps(self) -> int:
        """In an epoch, on every rank; samples that do not fill a last step wait for another epoch's shuffle."""
        return len(self.costs) // (self.batch * self.world)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """[steps, world, batch] sample numbers, none twice."""
        rng = np.random.default_rng([self.seed, epoch])
        at_once = self.batch * self.world
        order = rng.permutation(len(self.costs))[: self.steps * at_once]
        window = STEPS_IN_A_WINDOW * at_once
        planned = [self._window(order[first : first + window], at_once, rng) for first in range(0, len(order), window)]
        shape = (-1, self.world, self.batch)
        steps: NDArray[np.int64] = np.concatenate(planned).reshape(shape) if planned else np.zeros((0, *shape[1:]), int)
        return steps

    def _window(self, order: NDArray[np.int64], at_once: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Alike in cost within a step; within it and among the steps as chance will."""
        groups = order[np.argsort(self.costs[order], kind="stable")].reshape(-1, at_once)
        mixed: NDArray[np.int64] = rng.permuted(groups, axis=1)[rng.permutation(len(groups))]
        return mixed

    def from_step(self, step: int, rank: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(step, sample numbers of this rank) from a step on, epoch after epoch, for ever."""
        if not self.steps:
            raise ValueError(f"{len(self.costs)} samples do not fill a step of {self.world} x {self.batch}")
        while True:
            epoch, place = divmod(step, self.steps)
            plan = self.epoch(epoch)
            for row in plan[place:]:
                yield step, row[rank]
                step += 1


def straggling(plan: NDArray[np.int64], costs: NDArray[np.int32], base: float) -> float:
    """How much longer steps take than with perfect balance: mean over steps of the dearest rank's cost over the mean.

    base: cost of a sample without faces (its noise and text tokens), in location tokens.
    """
    ranks = (costs[plan] + base).sum(-1)
    return float((ranks.max(1) / ranks.mean(1)).mean())
