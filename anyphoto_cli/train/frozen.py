"""The frozen models around the transformer, and what they make of a batch: latents, location tokens, read captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anyphoto_cli.model.token_pruning import LocationTokens, prune
from anyphoto_cli.model.vae import encode, posterior, to_pixels
from anyphoto_cli.runtime.uploads import upload
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.flow_matching import draw_noise, generator


@dataclass(frozen=True, eq=False)
class Parts:
    """The transformer and the frozen models. encode_text: captions -> (T5 states [n, T, d], CLIP pooled [n, p]).

    recogniser: None where no identity loss is asked for. dtype: the number format of the transformer's activations.
    face_vae: decodes the faces for the identity loss; None: `vae` does. recompute: decode again in the backward pass.
    """

    transformer: Any
    vae: Any
    encode_text: Any
    recogniser: nn.Module | None
    device: torch.device
    dtype: torch.dtype
    guidance: float = 1.0
    face_vae: Any = None
    recompute: bool = True


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch of n as the transformer takes it. clean: X_0, [n, 16, h, w] float32. faces: E of each sample. states:
    [n, T, d] of T5. pooled: [n, p] of CLIP. On the device, without gradient.
    """

    clean: Tensor
    faces: list[LocationTokens]
    states: Tensor
    pooled: Tensor

    def used_on(self, stream: Any) -> None:
        """The memory of another CUDA stream is not given out again before `stream` is through with it."""
        located = [t for face in self.faces for t in (face.tokens, face.ids, face.embeddings)]
        for tensor in (self.clean, self.states, self.pooled, *located):
            tensor.record_stream(stream)


@torch.no_grad()
def encode_batch(
    examples: Sequence[Example], parts: Parts, method: Any, *, seed: int, step: int, rank: int
) -> Encoded:  # fmt: skip
    """The posteriors' samples follow from (seed, step, rank). step: of the micro-steps."""
    clean = _latents(examples, parts, seed, step, rank)
    faces = location_tokens(examples, parts, method, generator(seed, step, rank, salt=3))
    return Encoded(clean, faces, *parts.encode_text([example.caption for example in examples]))


def _latents(examples: Sequence[Example], parts: Parts, seed: int, step: int, rank: int) -> Tensor:
    """X_0: [n, 16, h, w] float32: a sample of the posterior, its noise drawn on the CPU, the same on every device."""
    pixels = to_pixels([example.picture for example in examples], parts.device).to(parts.vae.dtype)
    z = posterior(parts.vae, pixels)
    if not isinstance(z, Tensor):  # a tiny VAE gives latents, and no posterior
        noise = draw_noise(tuple(z.mean.shape), seed, step, rank, salt=2)
        z = z.mean.float() + z.std.float() * upload(noise, z.mean.device)
    z = z.float()
    scaled: Tensor = (z - (parts.vae.config.shift_factor or 0.0)) * parts.vae.config.scaling_factor
    return scaled


def location_tokens(
    examples: Sequence[Example], parts: Parts, method: Any, chance: torch.Generator
) -> list[LocationTokens]:  # fmt: skip
    """E_i of each example, their canvases encoded together; zeros where an identity is dropped, or never shown.

    chance: of the posterior's sample, where the method asks for one. Source: Eq. 13; paper 4.1.
    """
    canvases = [canvas for example in examples for canvas in example.canvases]
    latents = encode(parts.vae, to_pixels(canvases, parts.device), method.latent, chance)
    found = []
    for example, own in zip(examples, latents.split([len(e.canvases) for e in examples]), strict=True):
        masks, embeddings = torch.from_numpy(example.masks), torch.from_numpy(example.embeddings)
        tokens = prune(own, masks, embeddings, method.rope_index).to(parts.device, parts.dtype)
        found.append(tokens.dropped() if example.dropped or not method.identity else tokens)
    return found
