"""CLIP-I and CLIP-T: cosines of CLIP's picture and text features, raw, as WithAnyone's evaluator prints them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anyphoto_cli.bench.memory import Memory
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.commit import sha256_of_state
from anyphoto_cli.runtime.jobs import batches
from anyphoto_cli.types import Picture

CLIP = "openai/clip-vit-base-patch16"
LONGEST = 16
"""Times the short side, of the long one: what lies further out is no part of the middle square, nor of what its
pixels are interpolated from.
"""
Rows = NDArray[np.float32]


class Clip:
    """source: a hub id, or a folder that save_pretrained wrote: model, tokenizer and picture processor.

    cache: where features are remembered. precision: float32 or bfloat16. Raises EnvironmentFault where there is none.
    """

    def __init__(
        self, source: str = CLIP, device: str = "cpu", batch: int = 32, cache: Path | None = None,
        precision: str = "float32",
    ) -> None:  # fmt: skip
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        self.name, self._device, self._batch = source, device, batch
        self._dtype: torch.dtype = getattr(torch, precision)
        try:
            self._model: Any = (
                CLIPModel.from_pretrained(source, dtype=self._dtype).eval().requires_grad_(False).to(device)
            )
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(source)
            self._processor: Any = CLIPImageProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise not_there("CLIP", "--clip", source, error) from error
        about = f"clip {precision} {sha256_of_state(self._model)} {self._processor.to_json_string()}" if cache else ""
        self._seen, self._read = Memory(cache, f"{about} picture"), Memory(cache, f"{about} text")

    def pictures(self, pictures: Sequence[Picture], contents: Sequence[bytes] | None = None) -> Rows:
        """[H, W, 3] RGB each -> [n, d], unit length: short side to 224, middle square, CLIP's own normalisation.

        contents: the files' bytes, by which a picture is known again.
        """
        if contents is None:
            return self._look(pictures)
        return self._seen.rows(contents, lambda places: self._look([pictures[k] for k in places]))

    def texts(self, texts: Sequence[str]) -> Rows:
        """-> [n, d], unit length; what is longer than 77 tokens is cut."""
        return self._read.rows([said.encode() for said in texts], lambda places: self._hear([texts[k] for k in places]))

    def _look(self, pictures: Sequence[Picture]) -> Rows:
        rows = []
        for places in batches(range(len(pictures)), self._batch):
            part = [pictures[k] for k in places]
            pixels = pixel_values(self._processor, part).to(self._device, self._dtype)
            rows.append(_unit(_features(self._model.get_image_features(pixel_values=pixels))))
        return np.concatenate(rows) if rows else np.zeros((0, self._model.config.projection_dim), np.float32)

    def _hear(self, texts: Sequence[str]) -> Rows:
        rows = []
        for places in batches(range(len(texts)), self._batch):
            given = self._tokenizer(
                [texts[k] for k in places], padding=True, truncation=True, max_length=77,
                return_tensors="pt",
            ).to(self._device)  # fmt: skip
            rows.append(_unit(_features(self._model.get_text_features(**given))))
        return np.concatenate(rows) if rows else np.zeros((0, self._model.config.projection_dim), np.float32)


def pixel_values(processor: Any, pictures: Sequence[Picture]) -> torch.Tensor:
    """[H, W, 3] RGB each -> [n, 3, h, w], as transformers' processor does it, in bounded memory."""
    cropped = bool(getattr(processor, "do_center_crop", False))
    given = [np.ascontiguousarray(_without_far_ends(one) if cropped else one) for one in pictures]
    # Told where the channels are: of a picture 3 px high it might take its rows for them.
    told = processor(images=given, input_data_format="channels_last", return_tensors="pt")
    pixels: torch.Tensor = told.pixel_values
    return pixels


def _without_far_ends(picture: Picture) -> Picture:
    """Of a strip what its middle square can be told from: the short side is enlarged to 224 px before the crop, and
    the long one would grow with it, to gigabytes.
    """
    for axis in (0, 1):
        too_long = picture.shape[axis] - LONGEST * picture.shape[1 - axis]
        if (cut := (too_long + 1) // 2) > 0:  # as much on both sides: the middle stays the middle
            picture = picture[cut:-cut] if axis == 0 else picture[:, cut:-cut]
    return picture


def not_there(what: str, option: str, source: str, error: Exception) -> EnvironmentFault:
    """The one line for a model that cannot be had: its column says n/a. option: that names another."""
    told = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    remedy = f"Give a folder of a copy: {option} DIR"
    return EnvironmentFault(f"{what} could not be loaded from {source} ({told})", remedy=remedy)


def _features(answer: Any) -> torch.Tensor:
    """transformers 5 answers with an output object, 4 with the tensor."""
    found: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.pooler_output
    return found


def _unit(rows: torch.Tensor) -> Rows:
    unit: Rows = torch.nn.functional.normalize(rows.float(), dim=1).cpu().numpy()
    return unit
