"""Memory that runs out while training, told in a line: when, and which keys need less of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.model.memory import pick_device, ran_out
from anyphoto_cli.train.changes import FREE
from anyphoto_cli.train.distributed import Ranks

LOADING = "while the base was loaded"


@contextmanager
def out_of_memory_told(config: TrainConfig, ranks: Ranks, when: str, remedy: str = "") -> Iterator[None]:
    """torch's page-long complaint as an EnvironmentFault. when: "at step 3". remedy: instead of that for a step.

    Of several ranks the others are told that one is gone: this line says which, and why.
    """
    try:
        yield
    except (RuntimeError, MemoryError, EnvironmentFault) as error:
        if not (ran_out(error) or (isinstance(error, EnvironmentFault) and ran_out(error.__cause__))):
            raise
        who = f"rank {ranks.rank} " if ranks.world > 1 else ""
        told = remedy or _less(config, ranks, loading=when == LOADING)
        raise EnvironmentFault(f"{who}ran out of memory {when}", file=Path(config.output_dir), remedy=told) from error


def _less(config: TrainConfig, ranks: Ranks, loading: bool) -> str:
    """What may be set to need less, those keys first with which a run may go on."""
    keys = {} if loading else _of_activations(config)
    keys |= _of_weights(config, ranks)
    if not loading:
        keys["data.resolution"] = f"data.resolution below {config.data.resolution}"
    free = [told for key, told in keys.items() if key in FREE]
    bound = [told for key, told in keys.items() if key not in FREE]
    told = "The last checkpoint is whole"
    told += f", and the same command goes on from it with {' or '.join(free)}" if free else ""
    return told + (f". A new output_dir needs less with {_listed(bound)}" if bound else "")


def _listed(ways: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(ways[:-1]), ways[-1]]))


def _of_activations(config: TrainConfig) -> dict[str, str]:
    """Key -> what to set it to."""
    found = {}
    if not config.gradient_checkpointing:
        found["gradient_checkpointing"] = "gradient_checkpointing: true"
    elif config.activation_memory_gb is not None:
        found["activation_memory_gb"] = f"activation_memory_gb below {config.activation_memory_gb:g}"
    if config.overlap_encoding:
        found["overlap_encoding"] = "overlap_encoding: false"
    if config.train_batch_size > 1:
        found["train_batch_size"] = f"train_batch_size below {config.train_batch_size}"
    return found


def _of_weights(config: TrainConfig, ranks: Ranks) -> dict[str, str]:
    found = {}
    if config.text_embeddings == "live":
        found["text_embeddings"] = "text_embeddings: cached"
    if config.base_storage == "full" and config.sharding == "none":
        on_cpu = pick_device(config.device).type == "cpu"
        found["base_storage"] = f"base_storage: {'fp8' if on_cpu else 'nf4'}"
        if ranks.world > 1:
            found["sharding"] = "sharding: fsdp"
    return found
