"""A folder of drawn photos and a bank of reference faces, like any user's own."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.geometry import TOKEN_PX
from anyphoto_cli.mini.identity import YOUNGER, sibling_of
from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.picture import TRAINING_IDENTITIES, draw_picture, draw_portrait
from anyphoto_cli.mini.types import HELD_OUT, MAX_PEOPLE, DrawnPicture
from anyphoto_cli.mini.wear import worn
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.runtime.run_record import LOCK, only_one
from anyphoto_cli.types import Picture

_NAMES = [
    "ada", "bea", "cem", "dora", "elif", "finn", "gia", "hugo", "ines", "jun", "kai", "lena", "milo", "nora",
    "omar", "pia", "quin", "rosa", "sami", "tara", "uma", "vito", "wanda", "xena", "yuri", "zoe", "abel", "bina",
    "carl", "dina", "enzo", "fay", "gus", "hana", "ivo", "jade", "kofi", "lara", "mona", "nils", "olga", "paul",
    "rita", "said", "tess", "ugo", "vera", "wim", "yara", "zack",
]  # fmt: skip

ANY = "any"
CLAIM = "mini.json"
"""Which settings a folder's photos are of."""
FEWEST_SIBLINGS, SIDE_BY_SIDE = 4, 0.7
"""Of so many people two are siblings. And how often somebody with a sibling is drawn beside that one, where there is
room.
"""
_SETTINGS = """\
# For: anyphoto preprocess HERE/photos.jsonl --refs HERE/refs --config HERE/preprocess.yaml -o data
person_model: mini
face_pack: mini
# Captions as photos.jsonl has them; of a folder, "A photo of two people."
captioner: template
# Drawn people are small: a head has 25-50 px, and flat colours look blurred.
min_side: 64
min_face: 10
reference_min: 10
min_sharpness: 0
match_threshold: 0.3
near_duplicates: 0
train_size: 128
patch_size: 112
"""


@dataclass(frozen=True)
class PhotosConfig:
    """What to draw. people, groups >= 1: identities and group photos. references: photos a person in the bank.

    width, height: px of the group photos. style: of the group photos, one of STYLES; any: half of them photos, the
    others in all styles. held_out: people that no shipped model has seen. layouts: also a layout for each photo. worn:
    references as bad photos (`wear`). siblings: half of the people look like another, whom they often stand beside.
    Raises InputError.
    """

    people: int = 40
    groups: int = 500
    references: int = 3
    width: int = 128
    height: int = 128
    style: str = "photo"
    held_out: bool = False
    seed: int = 0
    layouts: bool = False
    worn: bool = False
    siblings: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("people", 1, 10_000), ("groups", 0, 1_000_000), ("references", 0, 100), ("width", 64, 1024),
            ("height", 64, 1024),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{getattr(self, name)} is not between {low} and {high}", field=f"--{name}")
        for name in ("width", "height") if self.layouts else ():
            if getattr(self, name) % TOKEN_PX:
                what = f"with --layouts it is a multiple of {TOKEN_PX}, as what is rendered is"
                raise InputError(what, field=f"--{name}")
        if self.siblings and self.people < FEWEST_SIBLINGS:
            raise InputError(f"with --siblings it is {FEWEST_SIBLINGS} at least", field="--people")


@dataclass(frozen=True)
class Photos:
    """What lies in the folder now. drawn: files of this run; kept: files that were there."""

    folder: Path
    photos: int
    references: int
    drawn: int
    kept: int


def draw_photos(out: Path, config: PhotosConfig, listener: Listener | None = None) -> Photos:
    """Write photos/000001.png ..., refs/NAME/01.png ..., truth.jsonl, photos.jsonl (a list with captions, as
    `anyphoto preprocess` takes it), and preprocess.yaml with fitting settings.

    With `layouts`, layouts/000001.json ... ask for the same people at the same places, by a portrait of each, and
    cases.jsonl holds the same as cases of `anyphoto bench`, with the photos as originals.

    The same settings give the same bytes; a run that was cut off goes on, and layouts that were edited meanwhile stay
    so. References differ from the group photos in pose, expression, light and clothes. Raises InputError where the
    folder holds a set of other settings, or another run draws there.
    """
    _refuse_others(out, config)
    with only_one(out):
        _claim(out, config)
        return _draw_all(out, config, listener or Listener())


def _draw_all(out: Path, config: PhotosConfig, listener: Listener) -> Photos:
    numbers = bank_identities(config)
    names = {number: name_of(rank) for rank, number in enumerate(numbers)}
    drawn, total = 0, len(numbers) * config.references + config.groups
    truths: list[dict[str, Any]] = []
    cases: list[dict[str, Any]] = []
    listener.work("Drawing", total)
    for file, number, k in _references(out, config, names):
        drawn += _write_portrait(file, config, number, k)
        listener.done(1)
    for k in range(config.groups):
        picture = group_photo(config, numbers, k)
        name = f"photos/{k + 1:06d}.png"
        drawn += _write(out / name, picture)
        truths.append(_truth(name, picture, names))
        if config.layouts:
            cases.append(_write_layout(out / "layouts", k, config, picture, names))
        listener.done(1)
    with committed(out / "preprocess.yaml") as written:
        written.write(_SETTINGS.encode())
    listed = [{"path": truth["file"], "caption": truth["caption"]} for truth in truths]
    for file, rows in ((out / "truth.jsonl", truths), (out / "photos.jsonl", listed), (out / "cases.jsonl", cases)):
        if rows or file.name != "cases.jsonl":
            with committed(file) as written:
                written.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    listener.end()
    return Photos(out, config.groups, len(numbers) * config.references, drawn, total - drawn)


def bank_identities(config: PhotosConfig) -> list[int]:
    """Different people; held-out ones and those for training come from two ranges that never meet."""
    chance = Chance("bank", config.seed)
    start = HELD_OUT if config.held_out else 0
    numbers: dict[int, None] = {}
    if config.siblings:
        while len(numbers) < 2 * (config.people // FEWEST_SIBLINGS):
            elder = start + 10 * chance.below(TRAINING_IDENTITIES // 10) + YOUNGER - 1
            numbers |= {elder: None, elder + 1: None}
    while len(numbers) < config.people:
        numbers[start + chance.below(TRAINING_IDENTITIES)] = None
    return list(numbers)


def group_photo(config: PhotosConfig, bank: list[int], k: int) -> DrawnPicture:
    """Photo k: one to four people of the bank."""
    chance = Chance("group", config.seed, config.held_out, k)
    wanted = min(chance.pick((1, 2, 2, 3, 3, 4)), len(bank), MAX_PEOPLE)
    who: dict[int, None] = {}
    while len(who) < wanted:
        who[number := chance.pick(bank)] = None
        if (
            config.siblings and len(who) < wanted and (other := sibling_of(number)) in bank
            and chance.happens(SIDE_BY_SIDE)
        ):  # fmt: skip
            who[other] = None
    style, size = None if config.style == ANY else config.style, (config.width, config.height)
    return draw_picture(chance.below(2**48), identities=list(who), style=style, size=size)


def name_of(rank: int) -> str:
    """ada, bea, ... zack, ada-2, bea-2, ..."""
    name, round_ = _NAMES[rank % len(_NAMES)], rank // len(_NAMES)
    return f"{name}-{round_ + 1}" if round_ else name


def _references(out: Path, config: PhotosConfig, names: dict[int, str]) -> Iterator[tuple[Path, int, int]]:
    """(file, person, which portrait of that person)."""
    for number, name in names.items():
        for k in range(config.references):
            yield out / "refs" / name / f"{k + 1:02d}.png", number, k


def _write_portrait(file: Path, config: PhotosConfig, number: int, k: int) -> bool:
    """False when it is there already: then it is not drawn, either."""
    return not file.is_file() and _write(file, _portrait(config, number, k))


def _portrait(config: PhotosConfig, number: int, k: int) -> DrawnPicture:
    """Reference k of a person."""
    drawn = draw_portrait(number, Chance(config.seed, k).below(2**31))
    if not config.worn:
        return drawn
    return replace(drawn, pixels=worn(drawn.pixels, Chance("worn", config.seed, number, k)))


def _write_layout(
    folder: Path, k: int, config: PhotosConfig, picture: DrawnPicture, names: dict[int, str]
) -> dict[str, Any]:  # fmt: skip
    """layouts/<k>.json; returns the case of it."""
    faces: list[dict[str, Any]] = []
    for person in picture.people:
        name = names[person.identity]
        _write_portrait(folder / "refs" / f"{name}.png", config, person.identity, 0)
        landmarks = [[round(float(value), 2) for value in point] for point in person.landmarks]
        faces.append({"name": name, "reference": f"refs/{name}.png", "landmarks": landmarks})
    document = {
        "version": 1, "prompt": picture.caption, "width": config.width, "height": config.height, "seed": k,
        "faces": faces,
    }  # fmt: skip
    file = folder / f"{k + 1:06d}.json"
    if not file.is_file():
        with committed(file) as out:
            out.write((json.dumps(document, indent=1) + "\n").encode())
    return {
        "id": f"{k + 1:06d}", "prompt": picture.caption, "num_persons": len(faces),
        "references": [f"{folder.name}/{face['reference']}" for face in faces], "gt": f"photos/{k + 1:06d}.png",
        "landmarks": [face["landmarks"] for face in faces], "width": config.width, "height": config.height,
    }  # fmt: skip


def _refuse_others(out: Path, config: PhotosConfig) -> None:
    """Raises InputError for a folder that holds something else: nothing is written there, not even a lock."""
    settings = _settings(config)
    file = out / CLAIM
    if file.is_file():
        if file.read_bytes() != _record(settings):
            raise InputError(f"holds photos of other settings{_differing(file, settings)}", file=out, field="--out",
                             remedy="Name another folder")  # fmt: skip
    elif out.exists() and (not out.is_dir() or any(not path.name.startswith(LOCK) for path in out.iterdir())):
        raise InputError("is not an empty folder", file=out, field="--out", remedy="Name a new folder")


def _claim(out: Path, config: PhotosConfig) -> None:
    """The folder is ours alone: its settings are in mini.json. Another run may have come first since we looked."""
    _refuse_others(out, config)
    if not (out / CLAIM).is_file():
        with committed(out / CLAIM) as written:
            written.write(_record(_settings(config)))


def _settings(config: PhotosConfig) -> dict[str, Any]:
    settings = asdict(config)
    for later in ("worn", "siblings"):
        if not settings[later]:
            del settings[later]  # folders of before there was such a thing go on
    return settings


def _record(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, indent=2).encode() + b"\n"


def _differing(file: Path, settings: Mapping[str, Any]) -> str:
    """The first that differs from those in a mini.json; nothing where that is damaged."""
    try:
        began = dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError):
        return ""
    names = [name for name in {**settings, **began} if began.get(name) != settings.get(name)]
    told = [
        f" (--{name.replace('_', '-')} {began.get(name, False)}, now {settings.get(name, False)})" for name in names
    ]
    return next(iter(told), "")


def _write(file: Path, picture: DrawnPicture) -> bool:
    """False when it is there already."""
    if file.is_file():
        return False
    with committed(file) as out:
        out.write(as_png(picture.pixels))
    return True


def as_png(pixels: Picture) -> bytes:
    """PNG: a lossy format would not give the same bytes everywhere."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _truth(name: str, picture: DrawnPicture, names: dict[int, str]) -> dict[str, Any]:
    """One line of truth.jsonl."""
    return {
        "file": name,
        "caption": picture.caption,
        "paraphrases": list(picture.paraphrases),
        "scene": picture.scene,
        "style": picture.style,
        "people": [
            {
                "name": names[person.identity],
                "identity": person.identity,
                "person_box": [round(value, 3) for value in person.person_box],
                "face_box": [round(value, 3) for value in person.face_box],
                "landmarks": [[round(float(v), 3) for v in point] for point in person.landmarks],
                "visible": round(person.visible, 3),
            }
            for person in picture.people
        ],
    }
