"""An adapter part of the way between two: what a second run brings is taken in part, what it costs in part.

Source: robust fine-tuning by weight interpolation, arXiv 2109.01903. LoRA's factors are interpolated as they are, which
is no interpolation of their product: it is meant for a run that was trained on from the other adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from anyphoto_cli.errors import InputError
from anyphoto_cli.model.adapter import AdapterCard, StartCard, read_card, read_weights

SAME = ("base_model", "base_revision", "face_pack", "embedding", "method")


@dataclass(frozen=True)
class Start:
    """folder: of the adapter at the beginning of the way; `export` also takes a run, or a checkpoint. share: of the way
    to go, above 0 and below 1.
    """

    folder: Path
    share: float

    def card(self, end: AdapterCard) -> AdapterCard:
        """The one of the adapter part of the way to `end`. Raises InputError where the two do not go together."""
        if not 0 < self.share < 1:
            raise InputError(f"{self.share} is not between 0 and 1", field="--share", remedy="0.5 is half of the way")
        start = read_card(self.folder)
        for key in SAME:
            if getattr(start, key) != getattr(end, key):
                raise InputError(f"has another {key} than the run", file=self.folder, field="--start",
                                 remedy="Name the adapter that the run was trained on from")  # fmt: skip
        return end.model_copy(update={"start": StartCard(sha256=start.sha256, share=self.share)})

    def weights(self, end: tuple[dict[str, Tensor], dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """start + share (end - start), in float32: (LoRA, projector), as `read_weights` gives those of the end.

        Raises InputError where shapes differ or the start is damaged.
        """
        start = read_weights(self.folder, read_card(self.folder))
        lora, projector = (self._between(*pair) for pair in zip(start, end, strict=True))
        return lora, projector

    def _between(self, start: dict[str, Tensor], end: dict[str, Tensor]) -> dict[str, Tensor]:
        if {key: value.shape for key, value in start.items()} != {key: value.shape for key, value in end.items()}:
            raise InputError("has weights of other shapes than the run", file=self.folder, field="--start")
        return {key: start[key].float().lerp(value.float(), self.share) for key, value in end.items()}
