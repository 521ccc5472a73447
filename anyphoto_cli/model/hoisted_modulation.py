"""All modulation rows of a render at once: they depend on schedule, pooled text, guidance and identity, on no token.

FLUX.1's modulation layers hold 3.2 of its 11.9 billion parameters (6.5 GB in bfloat16), and each is wanted for a few
rows a step. Computed beforehand for all steps, they can wait in main memory while the picture is made, and the pictures
of one layout share the rows. Exact to the bit: each row comes out of the same call on the same rows. With people on a
GPU, where thousands of small calls took a ninth of a render (on an H200), all steps are one call, and the rows the
same up to rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from anyphoto_cli.model.identity_modulation import Rows
from anyphoto_cli.model.token_pruning import LocationTokens

Bring = Callable[[Sequence[nn.Module]], AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class StepModulation:
    """One step. y: [B, dim], for the last norm. blocks: what each block's `modulation` gives, double blocks first."""

    y: Tensor
    blocks: tuple[tuple[Rows, ...], ...]


def left_alone(modules: Sequence[nn.Module]) -> AbstractContextManager[Any]:
    """The modules are where they can be called."""
    return nullcontext()


@torch.no_grad()
def hoist_modulation(
    transformer: Any,
    timesteps: Sequence[Tensor],
    guidance: Tensor | None,
    pooled: Tensor,
    faces: Sequence[LocationTokens] = (),
    bring: Bring = left_alone,
    at_once: bool | None = None,
) -> list[StepModulation]:
    """One entry per timestep [B]; guidance [B], pooled [B, 768], faces: as in `AnyPhotoTransformer.forward`.

    at_once: all steps in one call; None: on a GPU, with faces. Its literal twin makes a call for each step.
    bring: holds a block's modulation layers where they can be called. At FLUX.1's size: 2.1 MB a step and row in
    bfloat16, 290 MB for 28 steps of 4 people, and so much for each picture of a batch.
    """
    inputs = [transformer.modulation_inputs(t, guidance, pooled, faces, pooled.dtype) for t in timesteps]
    steps: list[list[tuple[Rows, ...]]] = [[] for _ in inputs]
    if at_once is None:  # without faces every number stays stock FLUX's own
        at_once = bool(faces) and pooled.device.type == "cuda"
    make = _made_at_once if at_once else _made_by_step
    for block in blocks_of(transformer):
        with bring(modulation_layers(block)):
            for step, made in zip(steps, make(block, inputs), strict=True):
                step.append(made)
    return [StepModulation(rows.y, tuple(step)) for rows, step in zip(inputs, steps, strict=True)]


def _made_by_step(block: Any, inputs: Sequence[Rows]) -> list[tuple[Rows, ...]]:
    """A block's modulation of each step."""
    return [block.modulation(rows) for rows in inputs]


def _made_at_once(block: Any, inputs: Sequence[Rows]) -> list[tuple[Rows, ...]]:
    """The same in one call. inputs: as many rows each."""
    made = block.modulation(Rows(torch.cat([rows.y for rows in inputs]), torch.cat([rows.own for rows in inputs])))
    count = len(inputs)
    by_layer = [zip(rows.y.tensor_split(count), rows.own.tensor_split(count), strict=True) for rows in made]
    return [tuple(Rows(y, own) for y, own in step) for step in zip(*by_layer, strict=True)]


def blocks_of(transformer: Any) -> list[Any]:
    """Double blocks, then single ones."""
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def modulation_layers(block: Any) -> list[nn.Module]:
    """The layers that `block.modulation` calls."""
    names = ("norm1", "norm1_context", "norm")
    return [getattr(block, name).linear for name in names if hasattr(getattr(block, name, None), "linear")]


def can_hoist(transformer: Any) -> bool:
    """Whether modulation layers can be called outside their blocks: not where group offloading brings weights in the
    order of a whole forward pass, nor where a hook, or FSDP, waits for the block itself to be called.
    """
    for block in blocks_of(transformer):
        parts = [block, *(part for layer in modulation_layers(block) for part in layer.modules())]
        if hasattr(block, "_hf_hook") or hasattr(block, "unshard") or any(map(_is_offloaded_in_groups, parts)):
            return False
    return True


def _is_offloaded_in_groups(module: nn.Module) -> bool:
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None


class ModulationCache:
    """The rows of the last renders, given again where nothing they depend on has changed: pictures of one layout.

    Weights that are written to past autograd (`parameter.data.copy_`) are not noticed.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list[Tensor], _State, list[StepModulation]]] = {}

    def of(
        self,
        branch: str,
        transformer: Any,
        timesteps: Sequence[Tensor],
        guidance: Tensor | None,
        pooled: Tensor,
        faces: Sequence[LocationTokens],
        bring: Bring = left_alone,
    ) -> list[StepModulation]:
        """As `hoist_modulation`. branch: of classifier-free guidance; each has its own last render."""
        given = [*timesteps, pooled, *(face.embeddings for face in faces), *([] if guidance is None else [guidance])]
        state = _State(transformer, [face.lengths for face in faces])
        if branch in self._kept:
            tensors, then, rows = self._kept[branch]
            if then.is_still(state) and len(tensors) == len(given) and all(map(_same, tensors, given)):
                return rows
            del self._kept[branch], tensors, rows  # before the new ones need their memory
        rows = hoist_modulation(transformer, timesteps, guidance, pooled, faces, bring)
        self._kept[branch] = [tensor.clone() for tensor in given], state, rows  # the caller may write into theirs
        return rows

    def forget(self, branch: str) -> None:
        """Of a branch that the present render does not have."""
        self._kept.pop(branch, None)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class _State:
    """Which weights the rows are made of. References are weak: a cache must not keep an adapter, and an id alone may
    be another one's tomorrow.
    """

    def __init__(self, transformer: Any, lengths: object) -> None:
        layers = [layer for block in blocks_of(transformer) for layer in modulation_layers(block)]
        modules = [transformer.time_text_embed, *layers, *filter(None, [transformer.id_projector])]
        self._weights = [(weakref.ref(p), p._version) for module in modules for p in module.parameters()]
        loras = [
            (tuple(layer.active_adapters), layer.disable_adapters, dict(layer.scaling))
            for layer in layers
            if isinstance(layer, LoraLayer)
        ]
        self._settings = (lengths, loras, transformer.method)

    def is_still(self, now: _State) -> bool:
        """Whether these are the very weights and settings of `now`."""
        pairs = zip(self._weights, now._weights, strict=False)
        return (
            self._settings == now._settings
            and len(self._weights) == len(now._weights)
            and all(a() is b() and version == version_now for (a, version), (b, version_now) in pairs)
        )
