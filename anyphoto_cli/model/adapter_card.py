"""anyphoto.json, the card of an adapter, and where an adapter lies. No torch here: the editor reads it as it starts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anyphoto_cli import __version__
from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.model.hub import hub_folder
from anyphoto_cli.seams import Base

LORA_FILE, PROJECTOR_FILE, CARD_FILE = (
    "pytorch_lora_weights.safetensors",
    "id_projector.safetensors",
    "anyphoto.json",
)
FORMAT_VERSION = 1


class FacePackCard(BaseModel):
    """Which recogniser's embeddings the adapter understands."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    sha256: str


class StartCard(BaseModel):
    """That the weights lie part of the way from another adapter's to a run's. sha256: of that adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    share: float = Field(gt=0, lt=1, description="Of the way from it to the run.")


class AdapterCard(BaseModel):
    """anyphoto.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # later versions may say more

    format_version: int = Field(default=FORMAT_VERSION, ge=1)
    anyphoto_version: str = __version__
    base_model: str = Field(description="Hub id or name of the base it was trained on.")
    base_revision: str = Field(default="", description="Commit or content hash of that base.")
    face_pack: FacePackCard
    embedding: int = Field(default=512, ge=1, le=65536, description="Width of the recogniser's vectors.")
    train_step: int = Field(default=0, description="Optimiser steps; 0: untrained.")
    method: MethodConfig = MethodConfig()
    start: StartCard | None = Field(
        default=None, description="Where export took the weights part of the way between two."
    )
    files: dict[str, str] = Field(default_factory=dict, description="File name -> sha256.")

    @property
    def sha256(self) -> str:
        """One hash for the whole adapter: weights and choices."""
        content = json.dumps([sorted(self.files.items()), self.method.model_dump()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_card(folder: Path) -> AdapterCard:
    """anyphoto.json of an adapter folder. Raises InputError when it is none, or from a later format."""
    file = folder / CARD_FILE
    if not file.is_file():
        raise InputError(f"holds no {CARD_FILE}", file=folder, field="--adapter", remedy="Is this an AnyPhoto adapter?")
    try:
        _refuse_later(file)
        card = AdapterCard.model_validate_json(file.read_bytes())
    except (ValidationError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        raise InputError(f"is damaged ({first['msg']})", file=file, field=".".join(map(str, first["loc"]))) from error
    return card


def _refuse_later(file: Path) -> None:
    """Before the rest is looked at: a later format may have choices that are unknown here."""
    told = json.loads(file.read_bytes())
    version = told.get("format_version") if isinstance(told, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(f"has format {version}", file=file, remedy="Run: pip install -U anyphoto")


def check_files(folder: Path, card: AdapterCard) -> None:
    """Raises InputError for weights that are missing, or not those whose sha256 the card has."""
    for name in (LORA_FILE, PROJECTOR_FILE):
        file = folder / name
        if not file.is_file():
            raise InputError("is missing", file=file, remedy="Copy the whole adapter folder")
        if card.files.get(name) != sha256_of(file):
            raise InputError("does not match its sha256 in anyphoto.json", file=file, remedy="Download or save it anew")


def find_adapter(
    source: str | Path, subfolder: str | None = None, revision: str | None = None, token: str | None = None
) -> Path:
    """The local folder of an adapter: a path, or a hub id, downloaded (only the three files) or taken from the cache.

    Raises InputError for a path that does not exist, EnvironmentFault when the hub cannot give it.
    """
    if Path(source).is_dir():
        return Path(source, subfolder) if subfolder else Path(source)
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise InputError("no such folder", file=text, field="--adapter", remedy="Give a folder, or a hub id: org/name")
    prefix = f"{subfolder}/" if subfolder else ""
    wanted = [prefix + name for name in (LORA_FILE, PROJECTOR_FILE, CARD_FILE)]
    folder = hub_folder("the adapter", text, wanted, revision=revision, token=token)
    return folder / subfolder if subfolder else folder


def left_out(card: AdapterCard | None, named: str | None, base: Base, pack: str, sha256: str) -> str:
    """A sentence where the adapter that came with a base goes with other face models than this pack, so that pictures
    are made without it; else "". Raises InputError where the adapter was named: its embeddings are not this pack's.
    """
    if card is None or card.face_pack.sha256 == sha256:
        return ""
    wanted = card.face_pack
    if named is not None:
        raise InputError(
            f"{pack!r} is not the face pack of this adapter ({wanted.name!r}, {wanted.sha256[:12]})",
            field="--face-pack", remedy="Leave --face-pack out, or --adapter none",
        )  # fmt: skip
    return (
        f"The adapter that came with {base.name} is left out: it goes with the face pack {wanted.name!r}, not with "
        f"{pack!r}. The picture carries no trained identity"
    )


def adapter_folder(named: str | None, base: Base) -> Path | None:
    """The adapter that is named, none for "none", or the base's own. Raises as `find_adapter`."""
    if named is None:
        return base.adapter() if base.adapter is not None else None
    return None if named == "none" else find_adapter(named)
