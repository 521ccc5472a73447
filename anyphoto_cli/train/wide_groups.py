"""How many people a square crop must leave out: in a wide group photo not everybody fits into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyphoto_cli.data.samples import PictureRecord
from anyphoto_cli.data.shard_index import ShardIndex
from anyphoto_cli.errors import InputError
from anyphoto_cli.train.crops import most_together
from anyphoto_cli.train.examples import MOSTLY

LOOKED_AT = 2000
"""Samples of several people whose records are read, at most; of more, as many evenly from all shards."""


@dataclass(frozen=True)
class WideGroups:
    """Of samples with several identified people. groups: how many there are; looked_at: of these; apart: of these, how
    many have people that no square holds together. faces: of those; lost: of these, at the least.
    """

    groups: int
    looked_at: int
    apart: int
    faces: int
    lost: int

    def line(self) -> str:
        """For people; "" where everybody fits."""
        if not self.apart:
            return ""
        of_all = "" if self.looked_at == self.groups else f", evenly taken from {self.groups},"
        return (
            f"{self.apart} of {self.looked_at} samples of several people{of_all} have people that no square holds "
            f"together: at least {self.lost} of their {self.faces} faces are left out"
        )


def wide_groups(indices: Sequence[ShardIndex], most: int = LOOKED_AT) -> WideGroups:
    """Raises InputError for a record that is none."""
    groups = [(index, int(place)) for index in indices for place in np.flatnonzero(index.faces > 1)]
    taken = groups
    if len(groups) > most:
        taken = [groups[k] for k in np.linspace(0, len(groups) - 1, most).round().astype(int)]
    apart, faces, lost = 0, 0, 0
    for index, place in taken:
        record = _record(index, place)
        boxes = [person.face_box for person in record.people if person.identity]
        together, possible = most_together(record.width, record.height, boxes, MOSTLY)
        if together < possible:
            apart, faces, lost = apart + 1, faces + possible, lost + possible - together
    return WideGroups(len(groups), len(taken), apart, faces, lost)


def _record(index: ShardIndex, place: int) -> PictureRecord:
    try:
        return PictureRecord.from_json(json.loads(index.read_json(place)))
    except (KeyError, ValueError, TypeError) as error:
        where = f"{index.file.name}/{index.keys[place]}"
        raise InputError(f"is not an entry of anyphoto's shards ({type(error).__name__})", file=where) from error
