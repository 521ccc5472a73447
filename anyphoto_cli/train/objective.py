"""One micro-step: a batch of examples -> the loss and what it is made of. Paper 3.5, Eq. 20-25."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anyphoto_cli.config.train import LossConfig
from anyphoto_cli.model.token_pruning import grid_ids, pack, unpack
from anyphoto_cli.runtime.uploads import upload
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.face_loss import FaceTarget, face_loss
from anyphoto_cli.train.flow_matching import TimeRule, clean_estimate, draw_noise, draw_times, flow_loss, interpolate
from anyphoto_cli.train.frozen import Encoded, Parts, encode_batch
from anyphoto_cli.train.sections import Sections


@dataclass(frozen=True, eq=False)
class Terms:
    """loss: what is minimised. Without gradient: flow, face (0 when not asked for), valid: faces that counted, the sum
    of their cosines, whether the identity loss was asked for, mean time, shown: faces it was asked for, with those that
    are too small or cut through. Numbers of the device stay there: reading one here would have the host wait for the
    forward pass before it can launch the backward pass.
    """

    loss: Tensor
    flow: Tensor
    face: Tensor
    valid: int
    cosines: Tensor
    with_faces: bool
    time: float
    shown: int = 0


def objective(
    examples: Sequence[Example], parts: Parts, loss: LossConfig, method: Any, *, seed: int, step: int, rank: int,
    sections: Sections | None = None, encoded: Encoded | None = None,
) -> Terms:  # fmt: skip
    """L = L_CFM + lambda L_id on one batch. step: of the micro-steps, counted over the run. Source: Eq. 25.

    Noise, times and the posterior's sample follow from (seed, step, rank). sections: to time by. encoded: what
    `encode_batch` made of the examples, if that was done before.
    """
    sections = sections or Sections(parts.device)
    rule = TimeRule(loss.time_mean, loss.time_std, loss.face_t_max if loss.face_weight else 0.0)
    if encoded is None:
        with sections.of("encode"):
            encoded = encode_batch(examples, parts, method, seed=seed, step=step, rank=rank)
    clean = encoded.clean
    times = draw_times(len(examples), rule, seed, step, rank)
    t = upload(times.t, parts.device)
    noise = upload(draw_noise(tuple(clean.shape), seed, step, rank), parts.device)
    noisy = interpolate(clean, noise, t)
    with sections.of("transformer"):
        said = unpack(_velocity(pack(noisy), t, encoded, parts), *_grid(clean)).float()
    flow = flow_loss(said, clean, noise)
    total, told, valid, shown, cosines = flow, torch.zeros(()), 0, 0, torch.zeros(())
    if times.with_faces and loss.face_weight and parts.recogniser is not None:
        margin = loss.face_margin if loss.face_decode == "crop" else None
        told_of = [loss.face_on_dropped or not example.dropped for example in examples]
        targets = [
            _targets(one, loss.face_target) if tells else [] for one, tells in zip(examples, told_of, strict=True)
        ]
        with sections.of("faces"):
            found = face_loss(
                clean_estimate(noisy, said, t), targets, parts.face_vae or parts.vae, parts.recogniser, margin=margin,
                least_eyes=loss.face_least_eyes, recompute=parts.recompute,
            )  # fmt: skip
        total = flow + loss.face_weight * found.loss
        told, valid, cosines = found.loss.detach(), found.valid, found.cosines.sum()
        shown = sum(map(len, targets))
    return Terms(total, flow.detach(), told, valid, cosines, times.with_faces, float(times.t.mean()), shown)


def _velocity(noisy: Tensor, t: Tensor, encoded: Encoded, parts: Parts) -> Tensor:
    """v_theta, packed. Time stays float32: rounded to bfloat16 it would be another time than the one mixed with."""
    transformer = parts.transformer
    guided = bool(transformer.config.guidance_embeds)
    guidance = torch.full((len(noisy),), parts.guidance, device=parts.device) if guided else None
    answer: Tensor = transformer(
        hidden_states=noisy.to(parts.dtype), encoder_hidden_states=encoded.states.to(parts.dtype),
        pooled_projections=encoded.pooled.to(parts.dtype), timestep=t, guidance=guidance,
        img_ids=upload(grid_ids(*_grid(encoded.clean)), parts.device),
        txt_ids=torch.zeros(encoded.states.shape[1], 3, device=parts.device), faces=encoded.faces, return_dict=False,
    )[0]  # fmt: skip
    return answer


def _grid(latents: Tensor) -> tuple[int, int]:
    return latents.shape[2] // 2, latents.shape[3] // 2


def _targets(example: Example, whom: str) -> list[FaceTarget]:
    wanted = example.own if whom == "picture" else example.embeddings
    return [FaceTarget(points, torch.from_numpy(row)) for points, row in zip(example.landmarks, wanted, strict=True)]
