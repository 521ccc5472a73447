"""A job whose item 2 of piece 1 ends the process that touches it, and one whose item 1 of piece 2 stops it for long."""

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DeadlyJob:
    folder: Path
    stands: bool = False

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
            if self.stands and (number, place) == (2, 1):
                time.sleep(600)
            done.append(place)
        return done
