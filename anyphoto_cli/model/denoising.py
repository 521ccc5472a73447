"""From noise to latents: the steps of a render, as FluxPipeline takes them, with people in them.

Classifier-free guidance has two branches a step, everything else one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from anyphoto_cli.model.first_block_cache import FirstBlockCache
from anyphoto_cli.model.hoisted_modulation import StepModulation
from anyphoto_cli.model.token_pruning import LocationTokens

StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
Text = tuple[Tensor, Tensor, Tensor]
"""T5 states and pooled vectors, [n, ...] each, and ids."""


@dataclass(eq=False)
class Branch:
    """One side of classifier-free guidance. faces: one entry a picture, or none. rows: of all steps, or None: the
    blocks make them.
    """

    name: str
    text: Text
    faces: list[LocationTokens]
    rows: list[StepModulation] | None = None
    cache: FirstBlockCache | None = None


@dataclass(frozen=True, eq=False)
class Walk:
    """What the steps of a render share. timesteps: [steps], the scheduler's. times: of each step [batch], 0 to 1, in
    the latents' number format. guidance: [batch], or None for a base that is not told. img_ids: [|X|, 3].
    """

    timesteps: Tensor
    times: list[Tensor]
    guidance: Tensor | None
    img_ids: Tensor

    @classmethod
    def of(cls, noise: Tensor, img_ids: Tensor, timesteps: Tensor, guidance: float | None) -> Walk:
        """noise: [batch, |X|, 64]."""
        batch, told = len(noise), None
        if guidance is not None:
            told = torch.full((batch,), guidance, dtype=torch.float32, device=noise.device)
        # The number format of t is diffusers' own: rounded as the latents are, so that no faces = FluxPipeline.
        times = [t.expand(batch).to(noise.dtype) / 1000 for t in timesteps]
        return cls(timesteps, times, told, img_ids)


def velocity(transformer: Any, noise: Tensor, walk: Walk, step: int, branch: Branch) -> Tensor:
    """v_theta of a branch, the shape of noise."""
    states, pooled, txt_ids = branch.text
    with transformer.cache_context(branch.name):
        said = transformer(
            hidden_states=noise, timestep=walk.times[step], guidance=walk.guidance, pooled_projections=pooled,
            encoder_hidden_states=states, txt_ids=txt_ids, img_ids=walk.img_ids, faces=branch.faces,
            hoisted=branch.rows[step] if branch.rows else None, cache=branch.cache, return_dict=False,
        )  # fmt: skip
    return cast(Tensor, said[0])


def denoised(
    pipeline: Any, noise: Tensor, walk: Walk, branches: list[Branch], scale: float, callback: StepCallback | None,
    told: Sequence[str],
) -> Tensor:  # fmt: skip
    """All steps of a diffusers pipeline. scale: of the guidance by two branches. told: names of tensors that the
    callback sees, and may change.
    """
    with pipeline.progress_bar(total=len(walk.timesteps)) as progress:
        for i, t in enumerate(walk.timesteps):
            if pipeline.interrupt:
                continue
            pipeline._current_timestep = t
            v, *others = (velocity(pipeline.transformer, noise, walk, i, branch) for branch in branches)
            for v_negative in others:
                v = v_negative + scale * (v - v_negative)
            noise = pipeline.scheduler.step(v, t, noise, return_dict=False)[0]
            if callback is not None:
                first = branches[0]
                state = {"latents": noise, "prompt_embeds": first.text[0]}
                changed = callback(pipeline, i, t, {name: state[name] for name in told})
                noise = changed.pop("latents", noise)
                first.text = (changed.pop("prompt_embeds", first.text[0]), *first.text[1:])
            progress.update()
    pipeline._current_timestep = None
    return noise
