"""Which scene and which style a picture shows, as a small net reads it: whether a picture follows its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.types import SCENES, STYLES
from anyphoto_cli.types import Picture

PROBE_SIDE = 128
"""Pictures of any size and shape are brought to this square, px."""


def read_scene_and_style(pictures: Sequence[Picture], file: Path | None = None) -> list[tuple[str, str]]:
    """The likeliest of SCENES and of STYLES for every picture. file: None for the probe that came with the package;
    raises EnvironmentFault where that is damaged.
    """
    answers = []
    for picture in pictures:
        scene, style = _session(file or shipped.probe_file()).run(None, {"pictures": to_probe(picture)})
        answers.append((SCENES[int(scene.argmax())], STYLES[int(style.argmax())]))
    return answers


def to_probe(picture: Picture) -> NDArray[np.float32]:
    """[1, 3, PROBE_SIDE, PROBE_SIDE], RGB 0-1."""
    return probe_square(picture).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)


def probe_square(picture: Picture) -> Picture:
    """[PROBE_SIDE, PROBE_SIDE, 3]: averaged where it shrinks, so that fine hatching becomes grey and no pattern."""
    import cv2

    smaller = min(picture.shape[:2]) >= PROBE_SIDE
    way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (PROBE_SIDE, PROBE_SIDE), interpolation=way), np.uint8)


@lru_cache(maxsize=2)
def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
