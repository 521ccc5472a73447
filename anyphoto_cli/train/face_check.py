"""Whether shards and a run look at faces by the same model: asked before anything large is loaded."""

from __future__ import annotations

from pathlib import Path

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.packs import installed_pack, open_faces
from anyphoto_cli.model import bases
from anyphoto_cli.registry import names
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.train.examples import Bank


def check_faces(config: TrainConfig, download: bool = True, device: str = "cpu") -> FaceAnalyzer | None:
    """The run's face pack, opened on a device. None, and faces are not compared, where it is not on this machine and
    must not be fetched: `download`.

    Raises InputError where shards were made with another face pack than the run's, or their bank has patches of another
    size than the method wants, or lacks a file.
    """
    banks = {folder: Bank(folder / "bank", config.method.patch_size) for folder in config.data.folders}
    for bank in banks.values():
        bank.check_files()
    pack = config.face_pack or bases.resolve_base(config.model).face_pack
    here = pack in names("face_packs") or Path(pack).is_dir() or installed_pack(pack) is not None
    if not (here or download):
        return None
    opened = open_faces(pack, device)
    for folder, bank in banks.items():
        if bank.faces_sha256 != opened.sha256:
            what = f"were made with another face pack than {opened.name}"
            remedy = "Embeddings of two packs do not mix: name the shards' own with face_pack"
            raise InputError(what, file=folder, field="face_pack", remedy=remedy)
    return opened
