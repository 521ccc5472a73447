"""`anyphoto generate --from`: the picture of a PNG's record once more, from the same files, to the same pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.images import decode, read_bytes
from anyphoto_cli.generate.conditions import prepare_faces
from anyphoto_cli.generate.planning import Job
from anyphoto_cli.generate.png_metadata import as_recorded, fingerprint_of, read_record
from anyphoto_cli.generate.rendering import RenderedPicture, Task, find_models, finished, locate, render_tasks, tasks_of
from anyphoto_cli.layout.schema import Layout, parse_layout
from anyphoto_cli.runtime.progress import Listener


def render_again(
    picture: Path,
    out: Path | None = None,
    config: GenerateConfig | None = None,
    *,
    refs_root: Path | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> tuple[RenderedPicture, bool]:
    """Render the picture of a PNG's record once more, as <name>_again.png; returns it, and whether all pixels agree.

    The seeds that were rendered in one call with it are rendered again, too, where the record tells them; only this one
    is written. config: only what is set in it replaces what the record says. Raises InputError when a reference or the
    weights are not those of the record.
    """
    listener, record = listener or Listener(), read_record(picture)
    config = _recorded_config(record, config or GenerateConfig(), picture)
    layout = recorded_layout(record, picture, refs_root)
    models = find_models(config)
    weights, analyzer = models.weights, models.analyzer
    for caution in weights.cautions():
        listener.caution(caution)
    job = Job(layout, prepare_faces(layout, analyzer, weights.method))
    path = (out or picture.parent) / f"{picture.stem}_again.png"
    locate(weights, listener)
    [task] = tasks_of([job], path.parent, weights, analyzer)
    _refuse_changes(record, task.record, picture)
    if as_recorded(record, decode(read_bytes(picture), picture)) is False:
        listener.caution(f"{picture}: its pixels are not those of its record; compared is what it shows now")
    told = _seeds_together(record, task.seed, picture)
    made = {key: value for key, value in record.items() if key != "pixels"}  # those will be its own
    again = made | {"refs": task.record["refs"]}
    seeds = [one for one in told if one is not None] if _repeatable(told, config) else [task.seed]
    together = [Task(job, seed, path, again, companion=seed != task.seed) for seed in seeds]
    [written] = [one for one in together if not one.companion]
    if not finished(written, overwrite):
        render_tasks(together, models, listener)
    same = _same_pixels(picture, path)
    return RenderedPicture(path, layout.shown_name, task.seed, differs="" if same else _why(told, config)), same


def _seeds_together(record: dict[str, Any], seed: int, picture: Path) -> list[int | None]:
    """The seeds rendered in one call with it, None for other layouts' pictures; empty where the record of an older
    version does not tell them. Raises InputError for a record that was edited.
    """
    told = record.get("together")
    if told is None:
        return [seed] if record["asked"].get("batch", 1) == 1 else []
    seeds = [one for one in told if one is not None] if isinstance(told, list) else []
    if not all(type(one) is int and 0 <= one < 2**63 for one in seeds) or seeds.count(seed) != 1:
        raise InputError("is damaged or was edited", file=picture, field="record.together")
    return list(told)


def _repeatable(told: list[int | None], config: GenerateConfig) -> bool:
    """Whether the same call can be made: all of this layout, and no smaller --batch asked for."""
    return bool(told) and None not in told and len(told) <= config.batch


def _why(told: list[int | None], config: GenerateConfig) -> str:
    """The most likely cause, and what to do."""
    rounding = "and sums of a batch differ by rounding"
    alone = "For a picture that can be repeated, render with --batch 1"
    if not told:
        return f"its record does not say with which pictures it was rendered, {rounding}. {alone}"
    if None in told:
        return f"it was rendered in one call with another layout's pictures, {rounding}. {alone}"
    if len(told) > config.batch:
        return f"it was rendered in one call with {len(told) - 1} more, {rounding}. Leave --batch out"
    return "another machine, device or version of a library rounds otherwise. Render it where it was made"


def _recorded_config(record: dict[str, Any], given: GenerateConfig, picture: Path) -> GenerateConfig:
    try:
        return GenerateConfig.model_validate({**record["asked"], **given.model_dump(exclude_unset=True)})
    except ValidationError as error:
        field = f"record.asked.{error.errors()[0]['loc'][0]}"
        raise InputError("is damaged or was edited", file=picture, field=field) from None


def recorded_layout(record: dict[str, Any], picture: Path, refs_root: Path | None) -> Layout:
    """The layout that a picture was made from, references included. Raises InputError where their folder is gone."""
    root = refs_root or (Path(os.path.realpath(picture)).parent / record["refs"])
    if not root.is_dir():
        what = f"the folder of its references, {record['refs']!r}, is not there"
        raise InputError(what, file=picture, remedy="Name it with --refs-root")
    return parse_layout(record["layout"], root / Path(record["layout_name"]).name, refs_root)


def _refuse_changes(record: dict[str, Any], now: dict[str, Any], picture: Path) -> None:
    """What made the picture must still be there, unchanged. Raises InputError naming what is not."""
    for key in ("references", "model", "adapter", "loras", "face_pack", "precision"):
        if _content(record.get(key), key) != _content(now.get(key), key):
            what = "was made with other LoRAs" if key == "loras" else f"was made with another {key.replace('_', ' ')}"
            if key == "references":
                changed = [r for r in record[key] if record[key][r] != now[key].get(r)]
                what = f"was made with other references: {', '.join(changed)}"
            raise InputError(what, file=picture, remedy="The same picture needs the same files")
    if record["fingerprint"] != fingerprint_of({**now, "loras": record.get("loras")}):
        raise InputError("is damaged or was edited", file=picture, field="record.layout")


def _content(told: Any, key: str) -> Any:
    """LoRAs are their bytes and scales, wherever they lie."""
    if key != "loras" or not isinstance(told, list):
        return told
    return [{name: value for name, value in one.items() if name != "name"} for one in told]


def _same_pixels(a: Path, b: Path) -> bool:
    from PIL import Image

    with Image.open(a) as first, Image.open(b) as second:
        return first.size == second.size and first.tobytes() == second.tobytes()
