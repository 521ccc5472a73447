"""Whether what a pipeline of diffusers decoded is made of numbers. Its picture does not tell: none is black, infinity
white.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from anyphoto_cli.generate.not_finite import finer, not_finite


@contextmanager
def only_finite(pipeline: Any, name: str) -> Iterator[None]:
    """Look at what its VAE's decoder gives meanwhile: some VAEs clamp it themselves, and all pipelines do.

    name: of the picture. Raises PictureFault, at the end, where a number was none.
    """
    broken: list[Any] = []

    def look(module: Any, given: Any, decoded: Any) -> None:
        broken.append(~decoded.isfinite().all())

    watching = pipeline.vae.decoder.register_forward_hook(look)
    try:
        with np.errstate(invalid="ignore"):  # what its picture is made of is told here
            yield
    finally:
        watching.remove()
    if any(bool(one) for one in broken):
        raise not_finite(name, finer(pipeline.dtype))
