"""No captions: the shards hold empty ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.seams import CaptionAnswer, Captioner, CaptionRequest


class NoCaptioner:
    """Says nothing."""

    name, looks = "none", False

    def captions(self, pictures: Iterable[CaptionRequest]) -> Iterator[CaptionAnswer]:
        """An empty text each, which is no problem."""
        for request in pictures:
            yield CaptionAnswer(request.id, "")


def open_captioner(config: PreprocessConfig, options: RunOptions) -> Captioner:
    """It needs neither."""
    return NoCaptioner()
