"""One run from a config file: what the kill and rank tests start."""

import sys
from pathlib import Path

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.train.loop import run

if __name__ == "__main__":
    run(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()))
