"""Who makes the pictures: our own model, or another system. One small file each; one line in `registry.py`.

A system is opened once a worker, `open_system(config, worker)`, and makes one case after another. Any system that is
not here takes part through the folder contract: `pictures/<id>.png`, see docs/bench.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from anyphoto_cli.bench.cases import Case
from anyphoto_cli.config.bench import RunConfig
from anyphoto_cli.seams import Base


class System(Protocol):
    """Makes pictures of cases."""

    def make(self, case: Case, out: Path) -> None:
        """Write `out`/pictures/<id>.png, whole or not at all, unless it is there.

        Raises InputError for a case that cannot be made; EnvironmentFault for what the machine lacks.
        """
        ...


def open_system(config: RunConfig, worker: int = 0) -> System:
    """Raises InputError for an unknown name, EnvironmentFault where its weights cannot be had."""
    from anyphoto_cli.registry import find

    opened: Any = find("systems", config.system)(config, worker)
    made: System = opened
    return made


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What a system's pictures depend on beside its config, found without a model: side_used, px, and weights: the
    sha256 of the adapter and of a base that lies on this machine. Of a system that has no `settings`: nothing.
    """
    from anyphoto_cli.registry import find

    told = getattr(find("systems", config.system), "settings", None)
    return dict(told(config)) if told is not None else {}


def side_on(base: Base) -> int:
    """The side of pictures when none is named, px: 512, as the benchmark's authors have it, or what the base can do."""
    return 512 if base.sides[1] >= 512 else base.sides[0]


def device_of(config: RunConfig, worker: int) -> str:
    """Workers of one machine take its cards in turn; Ray shows each worker one card only."""
    if config.device != "auto":
        return config.device
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{worker % count}" if count else "auto"
