"""One run from a config file: what the kill and rank tests start. Prints what the run told.

With RANK STEP nan|die, that rank's loss is not a number at that step, or the rank is killed there. With FORKED_RANKS in
the environment it is so many ranks, which torchrun would each have import everything again.
"""

import os
import signal
import socket
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


def forked(ranks: int) -> None:
    """Comes back in each of them; the process that forked them ends when all have ended, with the worst exit code."""
    import peft  # noqa: F401 - imported once for all
    from diffusers import FluxPipeline  # noqa: F401

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for rank in range(ranks):
        if os.fork() == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return
    os._exit(max(abs(os.waitstatus_to_exitcode(os.wait()[1])) for _ in range(ranks)))


if __name__ == "__main__":
    if "FORKED_RANKS" in os.environ:
        forked(int(os.environ["FORKED_RANKS"]))
    if sys.argv[2:]:
        misfortune(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    try:
        loop.run(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")), listener=Aloud())
    except AnyPhotoError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code if hasattr(error, "exit_code") else 2)
