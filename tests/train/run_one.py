"""One run from a config file: what the kill and rank tests start. Prints what the run told.

With RANK STEP nan|die, that rank's loss is not a number at that step, or the rank is killed there.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import AnyPhotoError
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.train import loop


class Aloud(Listener):
    """Cautions and notices on stderr."""

    def caution(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    notice = caution


def misfortune(rank: int, at: int, kind: str) -> None:
    whole = loop.objective

    def objective(*args, **more):
        if (more["rank"], more["step"]) == (rank, at):
            if kind == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            terms = whole(*args, **more)
            return replace(terms, loss=terms.loss * float("nan"))
        return whole(*args, **more)

    loop.objective = objective


if __name__ == "__main__":
    if sys.argv[2:]:
        misfortune(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    try:
        loop.run(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()), listener=Aloud())
    except AnyPhotoError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code if hasattr(error, "exit_code") else 2)
