"""The base models that `--model` knows, and how any FLUX.1 folder or hub id becomes an `AnyPhotoPipeline`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyphoto_cli.config.home import anyphoto_home, one_at_a_time
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.registry import find, names
from anyphoto_cli.seams import Base


def _build_tiny(folder: Path) -> None:
    from anyphoto_cli.model.tiny_random import build_tiny_random

    build_tiny_random(folder)


TINY_RANDOM = Base(
    name="tiny-random",
    source="tiny-random-2",  # the folder's name: folders of the first could lack their text encoders' weights
    build=_build_tiny,
    face_pack="tiny-random",
    sides=(16, 4096),
    licence="random numbers made on this machine: no terms",
    note="tiny-random is an untrained toy of random numbers: it proves the path and paints noise. "
    "For pictures: --model black-forest-labs/FLUX.1-dev on a GPU.",
)
FLUX_DEV = Base(
    name="flux-dev",
    source="black-forest-labs/FLUX.1-dev",
    licence="FLUX.1-dev Non-Commercial License v1.1.1: no production use, no 'biometric processing', no breach of "
    "publicity rights; review or filter before you share; https://huggingface.co/black-forest-labs/FLUX.1-dev",
    download_gb=34.0,
    gated=True,
)
FLUX_SCHNELL = Base(
    name="flux-schnell",
    source="black-forest-labs/FLUX.1-schnell",
    licence="FLUX.1-schnell: Apache-2.0; https://huggingface.co/black-forest-labs/FLUX.1-schnell",
    steps=4,
    note="FLUX.1-schnell with AnyPhoto weights is experimental: they are trained on FLUX.1-dev.",
    download_gb=34.0,
    gated=True,
)


def resolve_base(model: str) -> Base:
    """The record of a `--model`: a registered name, a folder, or a hub id.

    Raises InputError for anything else. A folder or an unknown id gets a record that says its terms are its own.
    """
    if model in names("bases"):
        found: Base = find("bases", model)
        return found
    if (Path(model) / "model_index.json").is_file():
        # A copy of a known base keeps what is known about it, by its folder's name.
        return Base(name=Path(model).name, source=str(Path(model).resolve()), licence="see the model's own card")
    if Path(model).is_dir():
        remedy = "Save it with save_pretrained, or give the hub id of a diffusers model"
        raise InputError("holds no model_index.json", file=model, field="--model", remedy=remedy)
    for name in names("bases"):
        if (base := find("bases", name)).source == model:
            known: Base = base
            return known
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return Base(name=model, source=model, licence=f"see https://huggingface.co/{model}")
    remedy = f"Known: {', '.join(names('bases'))}; or give a diffusers folder, or a hub id (org/name)"
    raise InputError(f"{model!r} is no model", field="--model", remedy=remedy)


def base_folder(base: Base) -> Path:
    """The local diffusers folder of a base: built, found, or downloaded to the hub cache.

    Raises EnvironmentFault with the licence page for gated models, and when the hub cannot be reached.
    """
    if base.shipped is not None:
        return base.shipped()
    if base.build is not None:
        return _built(base)
    if Path(base.source).is_dir():
        return Path(base.source)
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(base.source, use_safetensors=True))
    except Exception as error:  # the hub raises requests', httpx' and its own kinds
        raise _not_downloaded(base, error) from error


def folder_here(base: Base) -> Path | None:
    """The same where it lies on this machine; None where it would be built or downloaded."""
    if base.shipped is not None or Path(base.source).is_dir():
        return base_folder(base)
    if base.build is not None:
        return _built_folder(base) if (_built_folder(base) / "model_index.json").is_file() else None
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(base.source, use_safetensors=True, local_files_only=True))
    except Exception:  # the hub raises requests', httpx' and its own kinds
        return None


def _built_folder(base: Base) -> Path:
    return anyphoto_home() / "models" / base.source


def _built(base: Base) -> Path:
    """Build into a temporary folder and rename; two processes at once build it once."""
    import shutil
    import tempfile

    if base.build is None:
        raise ValueError(f"{base.name} is not a model that is built")
    folder = _built_folder(base)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.name):
        if not (folder / "model_index.json").is_file():
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
            try:
                base.build(temporary)
                shutil.rmtree(folder, ignore_errors=True)
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _not_downloaded(base: Base, error: Exception) -> EnvironmentFault:
    kind = type(error).__name__
    if "Gated" in kind or "401" in str(error) or "403" in str(error):
        remedy = f"Accept the licence at https://huggingface.co/{base.source}, then run: hf auth login"
        return EnvironmentFault(
            f"{base.source} is gated and this machine has no access", field="--model", remedy=remedy
        )
    size = f" (about {base.download_gb:.0f} GB)" if base.download_gb else ""
    remedy = f"Connect to the hub{size}, or give --model the folder of a copy"
    return EnvironmentFault(
        f"{base.source} is not on this machine and could not be downloaded ({kind})",
        field="--model",
        remedy=remedy,
    )


def pipeline_class(folder: Path) -> Any:
    """Our pipeline for the one that model_index.json names. Raises InputError for a backbone nobody has plugged in."""
    try:
        name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("is not a diffusers folder", file=folder, field="--model") from error
    if name not in names("backbones"):
        remedy = f"Known: {', '.join(names('backbones'))}"
        raise InputError(f"is a {name}, for which there is no AnyPhoto backbone", file=folder, remedy=remedy)
    return find("backbones", name)


def revision_of(folder: Path) -> str:
    """What identifies the weights: the commit of a hub snapshot, else the sha256 of the folder's weight files."""
    if folder.parent.name == "snapshots":
        return folder.name
    from anyphoto_cli.model.fingerprint import folder_sha256

    return folder_sha256(folder)


def local_revision(base: Base) -> str | None:
    """The same of a base that lies on this machine, shipped or as a folder. None: one that goes by its name."""
    if base.shipped is not None:
        return revision_of(base.shipped())
    return revision_of(Path(base.source)) if Path(base.source).is_dir() else None


def relative_size(folder: Path, bytes_each: int = 2) -> float:
    """Weights of the transformer, in units of FLUX.1's 23.8 GB in bfloat16. bytes_each: of a number where it is loaded;
    on disk it has two.
    """
    stored = sum(file.stat().st_size for file in (folder / "transformer").glob("*.safetensors"))
    return stored / 23.8e9 * bytes_each / 2


def known_terms(base: Base, folder: Path) -> Base:
    """A local copy of FLUX.1-dev is recognised by what its transformer says, so that its terms are still shown."""
    try:
        config = json.loads((folder / "transformer" / "config.json").read_text())
    except (OSError, ValueError):
        return base
    if (config.get("num_layers"), config.get("num_single_layers")) != (19, 38):
        return base
    flux = FLUX_DEV if config.get("guidance_embeds") else FLUX_SCHNELL
    return replace(base, licence=flux.licence, steps=flux.steps, note=flux.note)
