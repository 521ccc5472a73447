"""A base that does not fit on one device, in parts: every rank keeps its share and gathers the rest block by block.

What is trained (LoRA, projector) stays whole on every rank, so that gradients, clipping and checkpoints are those of a
run without sharding.
"""

from __future__ import annotations

from typing import Any

import torch

from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.optimiser import trained_parameters


def shard_frozen(transformer: Any, device: torch.device, ranks: Ranks) -> None:
    """Torch's FSDP2 on the blocks and on what is left. The transformer may lie in main memory; it ends on `device`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = set(trained_parameters(transformer).values()) | set(transformer.id_projector.parameters())
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (ranks.world,))
    for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks]:
        fully_shard(block, mesh=mesh, ignored_params=whole)
    fully_shard(transformer, mesh=mesh, ignored_params=whole)
    for buffer in transformer.buffers():
        buffer.data = buffer.data.to(device)
