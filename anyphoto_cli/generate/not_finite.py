"""A picture whose numbers are not finite: none would be black and infinity white, and the picture look finished."""

from __future__ import annotations

from typing import Any

from anyphoto_cli.errors import PictureFault


def not_finite(name: str, remedy: str) -> PictureFault:
    """Of the picture of that name, which is not written."""
    return PictureFault("came out as numbers that are not finite, and is not written", file=name, remedy=remedy)


def finer(dtype: Any, weights: str = "Weights of the model") -> str:
    """What to do where numbers overflow, a sentence. dtype: torch's, that was computed in."""
    wider = {"torch.float16": "bfloat16 or float32", "torch.bfloat16": "float32"}.get(str(dtype))
    return f"Try --dtype {wider}" if wider else f"{weights} are broken: copy or download them anew"
