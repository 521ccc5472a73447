"""Other people's LoRAs beside AnyPhoto weights: theirs act on all tokens, ours on location tokens only.

Styles, and step-distilled "turbo" LoRAs. What AnyPhoto weights do beside them nobody trained: experimental.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.files.quiet import unheard
from anyphoto_cli.model.adapter import CARD_FILE, PROJECTOR_FILE
from anyphoto_cli.model.hub import hub_folder

FIELD = "--lora"


@dataclass(frozen=True)
class StyleLora:
    """One .safetensors file, and how strongly it acts (1: as trained)."""

    name: str
    file: Path
    scale: float

    @cached_property
    def record(self) -> dict[str, Any]:
        """For a picture's record; the file is read once."""
        return {"name": self.name, "sha256": sha256_of(self.file), "scale": self.scale}


def find_style_lora(named: str) -> StyleLora:
    """ "FILE|DIR|org/name[/folder/file.safetensors][@scale]" -> the file, downloaded where it is a hub's.

    Raises InputError for what is none, EnvironmentFault when the hub cannot give it.
    """
    source, at, told = named.rpartition("@")
    if not at or Path(named).exists():
        source, told = named, "1"
    try:
        scale = float(told)
    except ValueError:
        raise InputError(f"{told!r} is no scale", field=FIELD, remedy="Write FILE@0.8") from None
    if not -10 <= scale <= 10:
        raise InputError(f"{scale:g} is no scale", field=FIELD, remedy="Between -10 and 10; 1 is as trained")
    path = Path(source)
    if path.is_file() or path.is_dir():
        return StyleLora(source, _the_one_in(path), scale)
    parts = source.split("/")
    local = source.startswith((".", "/", "~")) or ".." in parts or path.is_absolute()
    if local or len(parts) < 2 or (len(parts) > 3 and path.suffix != ".safetensors"):
        raise InputError("no such file", file=source, field=FIELD, remedy="Give a .safetensors file, or org/name")
    folder = hub_folder("the LoRA", "/".join(parts[:2]), ["/".join(parts[2:]) or "*.safetensors"])
    return StyleLora(source, _the_one_in(folder.joinpath(*parts[2:])), scale)


def _the_one_in(path: Path) -> Path:
    found = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    named = [file for file in found if file.name == "pytorch_lora_weights.safetensors"]
    if len(named or found) != 1:
        told = "holds no .safetensors" if not found else f"holds {len(found)} .safetensors"
        raise InputError(told, file=path, field=FIELD, remedy="Name the file itself")
    [file] = named or found
    if file.suffix != ".safetensors":
        raise InputError("is no .safetensors", file=file, field=FIELD, remedy="Pickled weights are not loaded")
    if any((file.parent / name).is_file() for name in (CARD_FILE, PROJECTOR_FILE)):  # it would act on all tokens
        what = "is part of an AnyPhoto adapter, which is no style"
        raise InputError(what, file=file, field=FIELD, remedy=f"Give it with --adapter {file.parent}")
    return file


def load_style_loras(pipeline: Any, loras: Sequence[StyleLora]) -> None:
    """Put them into a pipeline, each at its scale. Raises InputError for one that does not fit."""
    names = [f"style_{k}" for k in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        try:
            # Beside AnyPhoto weights it is never the first: that is what is meant here.
            unheard("Already found a `peft_config`")
            pipeline.load_lora_weights(str(lora.file.parent), weight_name=lora.file.name, adapter_name=name)
        except (ValueError, RuntimeError, KeyError, IndexError, AttributeError, OSError) as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise InputError(f"does not fit this base model ({line})", file=lora.file, field=FIELD) from error
        if name not in getattr(pipeline.transformer, "peft_config", {}):
            raise InputError("holds no LoRA for a FLUX transformer", file=lora.file, field=FIELD)
    if names:
        pipeline.set_adapters(names, [lora.scale for lora in loras])
