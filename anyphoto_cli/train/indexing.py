"""Shards are hashed and indexed by all ranks together: each takes its share, and waits for no more than one shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyphoto_cli.data.shard_index import ShardIndex, TokenCount, index_shard, kept_index
from anyphoto_cli.data.shards import ShardRecord
from anyphoto_cli.errors import InputError
from anyphoto_cli.train.distributed import Ranks


@dataclass(frozen=True)
class Shard:
    """The folder that a shard lies in, what the manifest says of it, and how its tokens are counted."""

    folder: Path
    record: ShardRecord
    count: TokenCount | None = None


def index_together(
    shards: Sequence[Shard], cache: Path | None, ranks: Ranks, most: float, hashed: bool = True
) -> list[ShardIndex | InputError]:  # fmt: skip
    """Of each shard its index, or what is wrong with it.

    In rounds of one shard a rank, so that `timeout_s` bounds one shard and not all of them; what others have indexed is
    read from `cache`. hashed: as for `index_shard`. Raises InputError where more than `most` shards are bad, on all
    ranks alike and as soon as that is known.
    """
    found: dict[int, ShardIndex | InputError] = {}
    for first in range(0, len(shards), ranks.world):
        mine = first + ranks.rank
        outcome = _outcome(shards[mine], cache, hashed) if mine < len(shards) else None
        for number, error in enumerate(ranks.gather(outcome if isinstance(outcome, InputError) else None), first):
            if error is not None:
                found[number] = error
        if outcome is not None:
            found[mine] = outcome
        _refuse_more_than(most, found)
    _add_the_others(found, shards, cache, ranks, hashed)
    _refuse_more_than(most, found)
    return [found[number] for number in range(len(shards))]


def _add_the_others(
    found: dict[int, ShardIndex | InputError], shards: Sequence[Shard], cache: Path | None, ranks: Ranks, hashed: bool
) -> None:  # fmt: skip
    """What other ranks have indexed. Who does not see their cache looks for itself, in rounds again."""
    missing = []
    for number in (n for n in range(len(shards)) if n not in found):
        shard = shards[number]
        kept = kept_index(shard.folder, shard.record, cache, shard.count)
        if kept is not None:
            found[number] = kept
        else:
            missing.append(number)
    while ranks.any(bool(missing)):
        if missing:
            number = missing.pop()
            found[number] = _outcome(shards[number], cache, hashed)


def _outcome(shard: Shard, cache: Path | None, hashed: bool) -> ShardIndex | InputError:
    try:
        return index_shard(shard.folder, shard.record, cache, hashed, shard.count)
    except InputError as error:
        return error


def _refuse_more_than(most: float, found: dict[int, ShardIndex | InputError]) -> None:
    bad = [outcome for _, outcome in sorted(found.items()) if isinstance(outcome, InputError)]
    if len(bad) > most:
        raise bad[0]
