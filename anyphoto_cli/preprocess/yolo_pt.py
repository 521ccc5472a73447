"""YOLO weights (.pt) through ultralytics itself, class person only. Its code and weights are AGPL-3.0."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.home import one_at_a_time
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.types import Box, Person, Picture

_REMEDY = 'Run: pip install "anyphoto[yolo]" (on a GPU), or give a YOLO .onnx, which needs nothing more'


class YoloPt:
    """A person detector from a .pt file; a known name (yolo11x.pt) is downloaded by ultralytics on first use.

    threads: of torch in this process, on the CPU; 0: as many as ultralytics takes. masks: whether it has any.
    """

    def __init__(self, file: Path, device: str = "cpu", threads: int = 0) -> None:
        # Read when ultralytics is imported: no pickled code from weights, no packages installed behind one's back.
        os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
        os.environ["YOLO_AUTOINSTALL"] = "0"
        os.environ.setdefault("YOLO_VERBOSE", "false")
        self.name, self._device = file.name, device
        try:
            from ultralytics import YOLO
        except Exception as error:  # beside a torch of another build its import fails in many ways
            what = f"needs ultralytics, which cannot be imported here ({type(error).__name__}: {str(error)[:80]})"
            raise EnvironmentFault(what, file=file, field="--person-model", remedy=_REMEDY) from error
        try:
            # Workers would write the download over each other.
            with nullcontext() if file.is_file() else one_at_a_time(file.name):
                self._model = YOLO(str(file))
        except Exception as error:  # bad weights, no network, no such name
            raise _unusable(file, error) from error
        self.masks = self._model.task == "segment"
        self._person = next((number for number, name in self._model.names.items() if name == "person"), None)
        if self._person is None:
            raise InputError("knows no class named person", file=file, field="--person-model")
        if threads and device == "cpu":
            self._keep_to(threads)

    def _keep_to(self, threads: int) -> None:
        import torch

        # ultralytics sets a number of its own when it first predicts: only this comes after it.
        self._model.add_callback("on_predict_start", lambda predictor: torch.set_num_threads(threads))

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the weights."""
        return sha256_of(Path(self._model.ckpt_path))

    def persons(self, pictures: Sequence[Picture], least_score: float = 0.25) -> list[list[Person]]:
        """[H, W, 3] RGB each -> its persons, best first."""
        return [self._persons_of(picture, least_score) for picture in pictures]

    def _persons_of(self, picture: Picture, least_score: float) -> list[Person]:
        """By itself: ultralytics pads pictures of several shapes otherwise than those of one, and boxes go by that."""
        bgr = np.ascontiguousarray(picture[..., ::-1])  # as OpenCV reads it
        [result] = self._model.predict(
            [bgr], classes=[self._person], conf=least_score, device=self._device, verbose=False, retina_masks=True
        )
        return read_result(result)


def _unusable(file: Path, error: Exception) -> InputError:
    said = f"({type(error).__name__}: {str(error)[:120]})"
    if file.is_file():
        return InputError(f"cannot be used as YOLO weights {said}", file=file, field="--person-model")
    what, remedy = f"is not there, and ultralytics could not download it {said}", "Name a file of YOLO weights"
    return InputError(what, file=file, field="--person-model", remedy=remedy)


def read_result(result: Any) -> list[Person]:
    """ultralytics' Results of one picture -> persons, best first."""
    boxes, scores = _numpy(result.boxes.xyxy), _numpy(result.boxes.conf)
    masks = [None] * len(boxes) if result.masks is None else list(_numpy(result.masks.data) > 0.5)
    order = np.argsort(-scores, kind="stable")
    return [Person(Box(*map(float, boxes[k])), float(scores[k]), masks[k]) for k in order]


def _numpy(tensor: Any) -> Any:
    return np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor)
