"""A job whose item 2 of piece 1 ends the process that touches it."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DeadlyJob:
    folder: Path

    def open(self, worker):
        return None

    def run(self, opened, number, starting, skip=frozenset()):
        done = []
        for place in range(4):
            if place in skip:
                continue
            starting(place)
            if (number, place) == (1, 2):
                os._exit(9)
            done.append(place)
        return done
