"""Location tokens at the resolution of a run, where preprocess counted them for another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.data.shard_index import TokenCount
from anyphoto_cli.layout.location_canvas import covered_tokens
from anyphoto_cli.types import Points

UNTOLD = 512
"""px that tokens were counted for where a manifest does not say."""
ROUNDING = 0.01
"""Share by which two counts may differ that mean the same."""


@dataclass(frozen=True)
class Resolution:
    """side: of the training crops, px."""

    side: int
    method: MethodConfig

    def count(self, facts: Mapping[str, Any]) -> TokenCount | None:
        """For shards with a manifest of these facts; None where their own count is for this side.

        Exact: from the landmarks of each face. Patch sizes do not matter, as patches are scaled onto the landmarks.
        """
        if _packed_for(facts) == self.side:
            return None
        return TokenCount(f"{self.side} px, {self.method.scale_min_px} at least", partial(_tokens, self))


def _tokens(resolution: Resolution, landmarks: Points, width: int, height: int) -> int:
    return covered_tokens(landmarks, width, height, resolution.side, resolution.method)


def _packed_for(facts: Mapping[str, Any]) -> int:
    try:
        return int(facts["config"]["match"]["train_size"])
    except (KeyError, TypeError, ValueError):
        return UNTOLD
