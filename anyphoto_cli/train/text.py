"""Captions through T5 and CLIP: live at every step, or once before the base is loaded, kept in safetensors.

Padded T5 states are part of what FLUX sees, so a caption costs all its tokens on disk: 4 MB at FLUX's 512 x 4096.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.runtime.jobs import batches
from anyphoto_cli.runtime.uploads import upload

AT_ONCE = 256
"""Captions of one file."""


class LiveText:
    """Captions -> (T5 states [n, T, d], CLIP's pooled vector [n, p]). pipeline: diffusers' own, with text encoders."""

    def __init__(self, pipeline: Any, method: MethodConfig) -> None:
        self._pipeline = pipeline
        self._length = min(method.t5_length, pipeline.tokenizer_2.model_max_length)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """On the encoders' device."""
        pipeline = self._pipeline
        states, pooled, _ = pipeline.encode_prompt(
            list(captions), None, pipeline._execution_device, max_sequence_length=self._length
        )
        return states, pooled


class CachedText:
    """The same from the files that `cache_text` wrote, one tensor at a time."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._device, self._folder = device, folder
        self._files = [_opened(file) for file in sorted(folder.glob("*.safetensors"))]
        self._where = {key.partition("/")[0]: file for file in self._files for key in file.keys()}  # noqa: SIM118

    def __contains__(self, caption: str) -> bool:
        return name_of(caption) in self._where

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Raises InputError for a caption that was not cached."""
        found = []
        for caption in captions:
            file = self._where.get(name := name_of(caption))
            if file is None:
                what = f"does not hold the caption {caption[:60]!r}"
                remedy = "Remove this folder; the shards have changed since it was written"
                raise InputError(what, file=self._folder, field="text_embeddings", remedy=remedy)
            found.append([upload(file.get_tensor(f"{name}/{part}"), self._device) for part in ("states", "pooled")])
        states, pooled = zip(*found, strict=True)
        return torch.stack(states), torch.stack(pooled)


def _opened(file: Path) -> Any:
    """Raises InputError for what is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        remedy = "Remove it: its captions are read again"
        raise InputError("is damaged", file=file, field="text_embeddings", remedy=remedy) from error


def name_of(caption: str) -> str:
    """What a caption's tensors are called."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def cache_folder(run: Path, rests_on: Mapping[str, Any]) -> Path:
    """Where a run keeps captions that were read so: with other encoders, lengths or formats they are others."""
    told = json.dumps(dict(rests_on), sort_keys=True)
    return run / "text" / hashlib.sha256(told.encode()).hexdigest()[:12]


def not_cached(captions: Iterable[str], folder: Path) -> list[str]:
    """Those that `folder` does not hold, each once, sorted."""
    held = CachedText(folder, torch.device("cpu"))
    return sorted({caption for caption in captions if caption not in held})


def cache_text(captions: Sequence[str], encode: LiveText, folder: Path) -> None:
    """Read captions and keep what they gave, in files of AT_ONCE.

    One by one, so that what a caption gives does not depend on its neighbours.
    """
    from safetensors.torch import save

    for places in batches(range(len(captions)), AT_ONCE):
        part = captions[places.start : places.stop]
        tensors = {}
        for caption in part:
            states, pooled = encode([caption])
            tensors[f"{name_of(caption)}/states"] = states[0].cpu().contiguous()
            tensors[f"{name_of(caption)}/pooled"] = pooled[0].cpu().contiguous()
        with committed(folder / f"{name_of(part[0])}.safetensors") as out:
            out.write(save(tensors))
