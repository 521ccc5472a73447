"""One micro-step: a batch of examples -> the loss and what it is made of. Paper 3.5, Eq. 20-25."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anyphoto_cli.config.train import LossConfig
from anyphoto_cli.model.token_pruning import LocationTokens, grid_ids, pack, prune, unpack
from anyphoto_cli.model.vae import encode, posterior, to_pixels
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.face_loss import FaceTarget, face_loss
from anyphoto_cli.train.flow_matching import TimeRule, clean_estimate, draw_noise, draw_times, flow_loss, interpolate
from anyphoto_cli.train.sections import Sections


@dataclass(frozen=True, eq=False)
class Parts:
    """The frozen models around the transformer. encode_text: captions -> (T5 states [n, T, d], CLIP pooled [n, p]).

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
class Terms:
    """loss: what is minimised. Without gradient: flow, face (0 when not asked for), valid: faces that counted, the sum
    of their cosines, whether the identity loss was asked for, mean time. Numbers of the device stay there: reading one
    here would have the host wait for the forward pass before it can launch the backward pass.
    """

    loss: Tensor
    flow: Tensor
    face: Tensor
    valid: int
    cosines: Tensor
    with_faces: bool
    time: float
    extra: dict[str, float] = field(default_factory=dict)


def objective(
    examples: Sequence[Example], parts: Parts, loss: LossConfig, method: Any, *, seed: int, step: int, rank: int,
    sections: Sections | None = None,
) -> Terms:  # fmt: skip
    """L = L_CFM + lambda L_id on one batch. step: of the micro-steps, counted over the run. Source: Eq. 25.

    Noise, times and the posterior's sample follow from (seed, step, rank). sections: to time by.
    """
    sections = sections or Sections(parts.device)
    rule = TimeRule(loss.time_mean, loss.time_std, loss.face_t_max if loss.face_weight else 0.0)
    with torch.no_grad(), sections.of("encode"):
        clean = _latents(examples, parts, seed, step, rank)
        faces = location_tokens(examples, parts, method)
        states, pooled = parts.encode_text([example.caption for example in examples])
    times = draw_times(len(examples), rule, seed, step, rank)
    t = times.t.to(parts.device)
    noise = draw_noise(tuple(clean.shape), seed, step, rank).to(parts.device)
    noisy = interpolate(clean, noise, t)
    with sections.of("transformer"):
        said = unpack(_velocity(pack(noisy), t, states, pooled, faces, parts, clean.shape), *_grid(clean)).float()
    flow = flow_loss(said, clean, noise)
    total, told, valid, cosines = flow, torch.zeros(()), 0, torch.zeros(())
    if times.with_faces and loss.face_weight and parts.recogniser is not None:
        margin = loss.face_margin if loss.face_decode == "crop" else None
        targets = [_targets(example, loss.face_target) for example in examples]
        with sections.of("faces"):
            found = face_loss(
                clean_estimate(noisy, said, t), targets, parts.face_vae or parts.vae, parts.recogniser, margin=margin,
                recompute=parts.recompute,
            )  # fmt: skip
        total = flow + loss.face_weight * found.loss
        told, valid, cosines = found.loss.detach(), found.valid, found.cosines.sum()
    return Terms(total, flow.detach(), told, valid, cosines, times.with_faces, float(times.t.mean()))


def _latents(examples: Sequence[Example], parts: Parts, seed: int, step: int, rank: int) -> Tensor:
    """X_0: [n, 16, h, w] float32: a sample of the posterior, its noise drawn on the CPU, the same on every device."""
    pixels = to_pixels([example.picture for example in examples]).to(parts.device, parts.vae.dtype)
    z = posterior(parts.vae, pixels)
    if not isinstance(z, Tensor):  # a tiny VAE gives latents, and no posterior
        z = z.mean.float() + z.std.float() * draw_noise(tuple(z.mean.shape), seed, step, rank, salt=2).to(z.mean.device)
    z = z.float()
    scaled: Tensor = (z - (parts.vae.config.shift_factor or 0.0)) * parts.vae.config.scaling_factor
    return scaled


def location_tokens(examples: Sequence[Example], parts: Parts, method: Any) -> list[LocationTokens]:
    """E_i of each example, their canvases encoded together; zeros where an identity is dropped, or never shown.

    Source: Eq. 13; paper 4.1.
    """
    canvases = [canvas for example in examples for canvas in example.canvases]
    latents = encode(parts.vae, to_pixels(canvases).to(parts.device), method.latent)
    found = []
    for example, own in zip(examples, latents.split([len(e.canvases) for e in examples]), strict=True):
        masks, embeddings = torch.from_numpy(example.masks), torch.from_numpy(example.embeddings)
        tokens = prune(own, masks, embeddings, method.rope_index).to(parts.device, parts.dtype)
        found.append(tokens.dropped() if example.dropped or not method.identity else tokens)
    return found


def _velocity(
    noisy: Tensor, t: Tensor, states: Tensor, pooled: Tensor, faces: Sequence[LocationTokens], parts: Parts, shape: Any
) -> Tensor:
    """v_theta, packed. Time stays float32: rounded to bfloat16 it would be another time than the one mixed with."""
    transformer = parts.transformer
    guided = bool(transformer.config.guidance_embeds)
    guidance = torch.full((len(noisy),), parts.guidance, device=parts.device) if guided else None
    answer: Tensor = transformer(
        hidden_states=noisy.to(parts.dtype), encoder_hidden_states=states.to(parts.dtype),
        pooled_projections=pooled.to(parts.dtype), timestep=t, guidance=guidance,
        img_ids=grid_ids(shape[2] // 2, shape[3] // 2).to(parts.device),
        txt_ids=torch.zeros(states.shape[1], 3, device=parts.device), faces=faces, return_dict=False,
    )[0]  # fmt: skip
    return answer


def _grid(latents: Tensor) -> tuple[int, int]:
    return latents.shape[2] // 2, latents.shape[3] // 2


def _targets(example: Example, whom: str) -> list[FaceTarget]:
    wanted = example.own if whom == "picture" else example.embeddings
    return [FaceTarget(points, torch.from_numpy(row)) for points, row in zip(example.landmarks, wanted, strict=True)]
