"""The toy base that is built on a user's machine, by whichever process comes first."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from anyphoto_cli.model import bases
from anyphoto_cli.model.fingerprint import folder_sha256


def test_a_rank_that_is_not_the_first_builds_the_whole_base(tmp_path: Path, monkeypatch) -> None:
    """Between ranks the lock decides who builds; transformers writes nothing on another rank than 0."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def built(home: str) -> Path:
        monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path / home))
        return bases.base_folder(bases.TINY_RANDOM)

    alone = built("alone")
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        as_rank_1 = built("rank_1")
    finally:
        dist.destroy_process_group()
    assert _files(as_rank_1) == _files(alone)
    assert folder_sha256(as_rank_1) == folder_sha256(alone)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
