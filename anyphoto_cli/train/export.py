"""`anyphoto export`: a trained adapter as a Hugging Face model folder, on disk or on the hub."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anyphoto_cli.config.train import folders_of
from anyphoto_cli.data.shards import read_manifest
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import sha256_of, sync
from anyphoto_cli.layout.schema import load_layout
from anyphoto_cli.model import bases
from anyphoto_cli.model.adapter import (
    CARD_FILE,
    LORA_FILE,
    LORA_PREFIX,
    PROJECTOR_FILE,
    AdapterCard,
    onto_disk,
    read_card,
    read_weights,
)
from anyphoto_cli.train.checkpoint import ADAPTER_FOLDER, AVERAGE, STATE, Checkpoint, newest_whole, read_state
from anyphoto_cli.train.interpolation import Start
from anyphoto_cli.train.model_card import Story, base_name, card_text, notice
from anyphoto_cli.train.plots import CONFIG, read_metrics
from anyphoto_cli.train.resolved import RESOLVED

PLACES = ("output_dir", "validation_layouts")
"""Keys of a configuration that tell about the machine and nothing about the weights."""
_ALONE = "Remove it, and the adapter is exported without its story"
_KEPT = re.compile(rf"{ADAPTER_FOLDER}-(\d+)$")
DTYPES = ("float32", "float16", "bfloat16")
PIPELINE = '''"""For DiffusionPipeline.from_pretrained(BASE, custom_pipeline=HERE, trust_remote_code=True)."""

from anyphoto_cli.model.pipeline import AnyPhotoPipeline

__all__ = ["AnyPhotoPipeline"]
'''


def export(
    source: Path, target: Path, name: str | None = None, dtype: str | None = None, start: Start | None = None
) -> AdapterCard:  # fmt: skip
    """Write the folder `target`, which must not be there yet. source: a run's output_dir, a checkpoint, an adapter.

    name: how the card calls it; the folder's name when None. dtype: of DTYPES; None: as trained, float32. start: take
    the weights part of the way from there. Raises InputError when there is nothing to export, it is damaged, numbers do
    not fit into `dtype`, or the two ends do not go together; EnvironmentFault where the disk does not take it.
    """
    if target.exists():
        raise InputError("exists", file=target, field="--to", remedy="Name a folder that is not there yet")
    found = _find(source)
    adapter = found.adapter
    card = read_card(adapter)
    weights = read_weights(adapter, card)  # hashes, and every number finite
    if start is not None:
        start = replace(start, folder=_find(start.folder).adapter)
        card, weights = start.card(card), start.weights(weights)
        found = replace(found, step=-1)  # what the run measured and drew is not of these weights
    pictures = _samples(found)
    story = _story(found, pictures)
    with onto_disk(target), _beside(target) as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        for file, values in zip((LORA_FILE, PROJECTOR_FILE), weights, strict=True):
            _write_weights(adapter / file, values if start else None, whole / file, dtype)
        card = card.model_copy(update={"files": {file: sha256_of(whole / file) for file in card.files}})
        (whole / CARD_FILE).write_text(_without_folder(card).model_dump_json(indent=2), encoding="utf-8")
        _write(whole, card, story, pictures, name or target.name)
        for written in whole.rglob("*"):
            if written.is_file():
                written.chmod(0o644)  # safetensors writes for its owner alone; this folder is for others
            sync(written)
        whole.replace(target)
    return card


@contextmanager
def _beside(target: Path) -> Iterator[str]:
    """A folder for what will be renamed to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp") as temporary:
        yield temporary


def _write_weights(file: Path, weights: Mapping[str, Any] | None, out: Path, dtype: str | None) -> None:
    """A safetensors file with its header. weights: by the names in `read_weights`; None: those of the file. dtype: None
    leaves their number format.
    """
    if dtype is None and weights is None:
        shutil.copyfile(file, out)
        return
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"{dtype!r} is none of {', '.join(DTYPES)}", field="--dtype")
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    values = {
        key: weights[key.removeprefix(LORA_PREFIX)] if weights else value for key, value in load_file(file).items()
    }
    kept = {key: value.to(getattr(torch, dtype) if dtype else value.dtype) for key, value in values.items()}
    if not all(torch.isfinite(value).all() for value in kept.values()):
        raise InputError(f"holds numbers too large for {dtype}", file=file, field="--dtype", remedy="Take bfloat16")
    save_file(kept, out, metadata=header)


def export_to_hub(
    source: Path, repository: str, *, private: bool = True, token: str | None = None, dtype: str | None = None,
    start: Start | None = None,
) -> str:  # fmt: skip
    """Upload what `export` writes as one commit; returns its address. repository: org/name, made where it is not there.

    Raises InputError as `export`, EnvironmentFault when the hub refuses or is not there.
    """
    from huggingface_hub import HfApi

    if repository.count("/") != 1 or repository.startswith(("/", ".")):
        raise InputError(f"{repository!r} is no repository", field="--to", remedy="Give hub:org/name")
    with tempfile.TemporaryDirectory(prefix="anyphoto-export-") as temporary:
        folder = Path(temporary) / repository.partition("/")[2]
        export(source, folder, repository, dtype, start)
        try:
            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="AnyPhoto weights, written by anyphoto export"
            )
        except Exception as error:  # the hub raises requests', httpx' and its own kinds
            remedy = "Run: hf auth login, with a token that may write; or give a folder"
            what = f"{repository} could not be written ({type(error).__name__})"
            raise EnvironmentFault(what, field="--to", remedy=remedy) from error
    return str(done.commit_url) if hasattr(done, "commit_url") else f"https://huggingface.co/{repository}"


def _without_folder(card: AdapterCard) -> AdapterCard:
    """A base in a folder of this machine is called by its last part alone."""
    local = Path(card.base_model).is_absolute()
    return card.model_copy(update={"base_model": base_name(card)}) if local else card


@dataclass(frozen=True)
class _Found:
    """adapter: its folder. run: that of its run, where there is one. step: of the run, when the weights were such."""

    adapter: Path
    run: Path | None
    step: float = math.inf


def _find(source: Path) -> _Found:
    """Raises InputError where there is no adapter, or a checkpoint says nothing of itself."""
    if (source / STATE).is_file():
        return _of_checkpoint(read_state(source))
    if (source / CARD_FILE).is_file():
        run = source.parent if (source.parent / CONFIG).is_file() else None
        kept = _KEPT.match(source.name) if run else None
        return _Found(source, run, int(kept[1]) if kept else math.inf)
    if (source / ADAPTER_FOLDER / CARD_FILE).is_file():
        return _Found(source / ADAPTER_FOLDER, source)
    if (found := newest_whole(source)[0]) is not None:
        return _of_checkpoint(found)
    raise InputError("holds no trained adapter", file=source, remedy="Name a run's output_dir, or an adapter folder")


def _of_checkpoint(checkpoint: Checkpoint) -> _Found:
    """With the averaged weights where the run averages them. Raises InputError where an older version left them out."""
    folder = checkpoint.folder
    run = folder.parent if (folder.parent / CONFIG).is_file() else None
    if checkpoint.facts.get("ema_decay") is None:
        return _Found(folder, run, checkpoint.step)
    if not (folder / AVERAGE / CARD_FILE).is_file():
        remedy = "Let the run go on: its next checkpoint has one"
        raise InputError("holds no averaged adapter, as an earlier version wrote it", file=folder, remedy=remedy)
    return _Found(folder / AVERAGE, run, checkpoint.step)


def _write(whole: Path, card: AdapterCard, story: Story, pictures: Sequence[Path], name: str) -> None:
    (whole / "README.md").write_text(card_text(card, story, name), encoding="utf-8")
    (whole / "NOTICE").write_text(notice(card), encoding="utf-8")
    (whole / "pipeline.py").write_text(PIPELINE, encoding="utf-8")
    licence = _licence(card)
    if licence is not None:
        shutil.copyfile(licence, whole / "LICENSE.md")
    for picture, (file, _) in zip(pictures, story.pictures, strict=True):
        (whole / "samples").mkdir(exist_ok=True)
        shutil.copyfile(picture, whole / "samples" / file)
    if story.config:
        from ruamel.yaml import YAML

        with (whole / "training.yaml").open("w", encoding="utf-8") as out:
            YAML().dump(dict(story.config), out)
    if story.scores:
        (whole / "metrics.json").write_text(json.dumps(dict(story.scores), indent=2) + "\n", encoding="utf-8")


def _licence(card: AdapterCard) -> Path | None:
    """The base's own licence file where a copy of the base lies on this machine: a derivative carries it."""
    try:
        base = bases.resolve_base(card.base_model)
        local = Path(base.source) if Path(base.source).is_dir() else _snapshot(base.source)
    except InputError:
        return None
    names = ("LICENSE.md", "LICENSE", "LICENSE.txt")
    return next((local / name for name in names if local and (local / name).is_file()), None)


def _snapshot(source: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if source.count("/") != 1:
        return None
    found = try_to_load_from_cache(source, "LICENSE.md")
    return Path(found).parent if isinstance(found, str) else None


def _samples(found: _Found) -> list[Path]:
    """The pictures of the last validation up to its step."""
    folders = (found.run / "validation").glob("step-*") if found.run else ()
    steps = {int(folder.name[5:]): folder for folder in folders if folder.name[5:].isdecimal()}
    last = max((step for step in steps if step <= found.step), default=None)
    return sorted(steps[last].glob("*.png")) if last is not None else []


def _story(found: _Found, pictures: Sequence[Path]) -> Story:
    run = found.run
    if run is None:
        return Story({}, 0, {}, [])
    config, resolved = _told_in(run / CONFIG), _told_in(run / RESOLVED)
    prompts = {Path(file).stem: _prompt(Path(file)) for file in config.get("validation_layouts", ())}
    shown = [(picture.name, prompts.get(picture.stem, "")) for picture in pictures]
    return Story(_without_places(config), _samples_of(config), _last_scores(run, found.step), shown, resolved)


def _told_in(file: Path) -> dict[str, Any]:
    """What the run was told, or what that came to; {} where it is gone, or an earlier version did not write it."""
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file, remedy=_ALONE) from error
    if not isinstance(told, dict):
        raise InputError("is no configuration", file=file, remedy=_ALONE)
    return told


def _samples_of(config: Mapping[str, Any]) -> int:
    try:
        return sum(read_manifest(folder).samples for folder in folders_of(config["data"]["shards"]))
    except (InputError, KeyError):  # gone, or somewhere else
        return 0


def _prompt(file: Path) -> str:
    try:
        return load_layout(file).prompt
    except (InputError, OSError):  # moved since
        return ""


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Folders become names: where somebody keeps their data is nobody's affair."""
    kept = {key: value for key, value in config.items() if key not in PLACES}
    for key in ("model", "face_pack", "adapter"):
        if isinstance(kept.get(key), str) and (Path(kept[key]).exists() or Path(kept[key]).is_absolute()):
            kept[key] = Path(kept[key]).name
    if "data" in kept:
        names = [folder.name for folder in folders_of(kept["data"].get("shards", ""))]
        kept["data"] = {**kept["data"], "shards": names[0] if len(names) == 1 else names}
    if isinstance(kept.get("loss"), dict) and kept["loss"].get("face_vae"):
        kept["loss"] = {**kept["loss"], "face_vae": Path(kept["loss"]["face_vae"]).name}
    return kept


def _last_scores(run: Path, step: float) -> dict[str, float]:
    """The last value of each measure up to a step."""
    try:
        rows = [row for row in read_metrics(run) if row["step"] <= step]
    except InputError:
        return {}
    wanted = ("flow", "face", "cosine", "validation_found", "validation_cosine", "validation_error")
    latest: dict[str, float] = {}
    for row in rows:
        latest |= {key: float(row[key]) for key in wanted if isinstance(row.get(key), int | float)}
    return latest
