"""Aes: aesthetic scores on a 1-10 scale, by a chain of linear layers on a picture encoder's normalised features.

| name | encoder | head |
|---|---|---|
| v2.5 (the papers') | google/siglip-so400m-patch14-384 | discus0434's aesthetic_predictor_v2_5.pth |
| laion | openai/clip-vit-large-patch14 | improved-aesthetic-predictor's sac+logos+ava1-l14-linearMSE.pth |
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anyphoto_cli.bench.clip_scores import not_there, pixel_values
from anyphoto_cli.bench.memory import Memory
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.commit import sha256_of, sha256_of_state
from anyphoto_cli.runtime.jobs import batches
from anyphoto_cli.types import Picture

ENCODERS = {"v2.5": "google/siglip-so400m-patch14-384", "laion": "openai/clip-vit-large-patch14"}


class Aesthetics:
    """kind: v2.5 or laion. head: its file (weights_only; never unpickled). encoder: a hub id or folder, the kind's own
    when None. Raises EnvironmentFault where either cannot be had, or they do not fit.
    """

    def __init__(
        self, head: Path, kind: str = "v2.5", encoder: str | None = None, device: str = "cpu", batch: int = 16,
        cache: Path | None = None, precision: str = "float32",
    ) -> None:  # fmt: skip
        from transformers import (
            CLIPImageProcessor,
            CLIPVisionModelWithProjection,
            SiglipImageProcessor,
            SiglipVisionModel,
        )

        self.name, self._kind, self._device, self._batch = f"aesthetic {kind}", kind, device, batch
        self._layers = [(w.to(device), b.to(device)) for w, b in read_head(head)]
        source = encoder or ENCODERS[kind]
        model, processor = (
            (SiglipVisionModel, SiglipImageProcessor) if kind == "v2.5"
            else (CLIPVisionModelWithProjection, CLIPImageProcessor)
        )  # fmt: skip
        try:
            self._encoder: Any = (
                model.from_pretrained(source, dtype=getattr(torch, precision)).eval().requires_grad_(False).to(device)
            )
            self._processor: Any = processor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise not_there("aesthetic encoder", "--aesthetic-encoder", source, error) from error
        width = self._layers[0][0].shape[1]
        own = self._encoder.config.hidden_size if kind == "v2.5" else self._encoder.config.projection_dim
        if width != own:
            raise EnvironmentFault(f"takes {width} features, {source} gives {own}", file=head)
        about = (
            f"{sha256_of_state(self._encoder)} {sha256_of(head)} {self._processor.to_json_string()}" if cache else ""
        )
        self._seen = Memory(cache, f"{self.name} {about}")

    def score(self, pictures: Sequence[Picture], contents: Sequence[bytes] | None = None) -> NDArray[np.float64]:
        """[H, W, 3] RGB each -> [n], about 1 to 10; higher is better. contents: as for `Clip.pictures`."""
        if contents is None:
            return self._look(pictures)
        return self._seen.rows(contents, lambda places: self._look([pictures[k] for k in places]))

    def _look(self, pictures: Sequence[Picture]) -> NDArray[np.float64]:
        scores = []
        for places in batches(range(len(pictures)), self._batch):
            part = [pictures[k] for k in places]
            pixels = pixel_values(self._processor, part).to(self._device, self._encoder.dtype)
            answer = self._encoder(pixel_values=pixels)
            rows = answer.pooler_output if self._kind == "v2.5" else answer.image_embeds
            scores.append(chain(torch.nn.functional.normalize(rows.float(), dim=-1), self._layers))
        return torch.cat(scores).double().cpu().numpy() if scores else np.zeros(0)


def chain(rows: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """[n, d] through linear layers, one after another, nothing between them -> [n]."""
    for weight, bias in layers:
        rows = torch.nn.functional.linear(rows, weight, bias)
    return rows[:, 0]


def read_head(file: Path) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) by their numbers. Raises EnvironmentFault for a file that is missing, or no chain of layers."""
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
        numbered = {
            int(match[1]): (value.float(), stored[name.removesuffix("weight") + "bias"].float())
            for name, value in stored.items() if (match := re.search(r"(\d+)\.weight$", name))
        }  # fmt: skip
    except FileNotFoundError as error:
        raise EnvironmentFault("is not there", file=file, remedy="Download it, and give its path") from error
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, AttributeError, TypeError, EOFError) as error:
        raise EnvironmentFault(f"is no aesthetic head ({type(error).__name__})", file=file) from error
    layers = [numbered[number] for number in sorted(numbered)]
    sizes = [layer[0].shape for layer in layers]
    if not layers or sizes[-1][0] != 1 or any(a[0] != b[1] for a, b in pairwise(sizes)):
        raise EnvironmentFault("is no chain of linear layers that ends in one number", file=file)
    return layers
