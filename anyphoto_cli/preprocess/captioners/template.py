"""Captions without a model: what the source says, else how many people were found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.layout.head_count import counted
from anyphoto_cli.preprocess.caption_checks import plain
from anyphoto_cli.seams import CaptionAnswer, Captioner, CaptionRequest


class TemplateCaptioner:
    """Counts."""

    name, looks = "template", False

    def captions(self, pictures: Iterable[CaptionRequest]) -> Iterator[CaptionAnswer]:
        """The source's own caption wins: someone looked at the picture for it."""
        for request in pictures:
            yield CaptionAnswer(request.id, plain(request.given) or counted(request.people))


def open_captioner(config: PreprocessConfig, options: RunOptions) -> Captioner:
    """It needs neither."""
    return TemplateCaptioner()
