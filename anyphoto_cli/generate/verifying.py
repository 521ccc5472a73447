"""`anyphoto verify`, `generate --verify`: pictures looked at one by one, the verdict written beside each."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.config.verify import VerifyConfig
from anyphoto_cli.data.bank import loose_photos
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.generate.again import recorded_layout
from anyphoto_cli.generate.annotate import annotated
from anyphoto_cli.generate.conditions import Conditions, prepare_faces
from anyphoto_cli.generate.png_metadata import drawn_on, fingerprint_of, read_record, read_told
from anyphoto_cli.generate.verification import Verdict, verify_picture
from anyphoto_cli.layout.schema import Layout, load_layout
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.seams import FaceAnalyzer

if TYPE_CHECKING:
    from PIL import Image

    from anyphoto_cli.types import Picture

BESIDE, DRAWN = ".verify.json", ".verify.png"


@dataclass(frozen=True)
class Verified:
    """A picture and the verdict on it. annotated: the copy with boxes, where it was asked for."""

    picture: Path
    verdict: Verdict
    annotated: Path | None = None


def verify_files(
    pictures: Sequence[Path | str],
    layout: Path | None = None,
    *,
    face_pack: str | None = None,
    config: VerifyConfig | None = None,
    annotate: bool = False,
    out: Path | None = None,
    refs_root: Path | None = None,
    listener: Listener | None = None,
    on_verified: Callable[[Verified], None] = lambda one: None,
) -> list[Verified]:
    """Look at pictures from anywhere; of a folder, at those that lie in it.

    layout: of all of them; None: each picture's own, as `generate` wrote it in. face_pack: None: the one a picture was
    made with, else mini's, which is told. Writes <picture>.verify.json, and .verify.png where asked to, beside the
    picture or into `out`; such copies among `pictures` are left out. Raises InputError for files that are no pictures,
    or say nothing of a layout, and for two pictures whose verdicts would be one file. on_verified: hears each verdict
    as soon as it is written, also those before a file that is no picture.
    """
    listener, config = listener or Listener(), config or VerifyConfig()
    given = load_layout(layout, refs_root) if layout is not None else None
    looker, done = Looker(face_pack, config), list[Verified]()
    files = _to_look_at([Path(file) for file in pictures], out)
    listener.work("Verifying", len(files))
    for file in files:
        asked, pack = (given, _own_pack(file)) if given is not None else _own_layout(file, refs_root, listener)
        if not (face_pack or pack):
            listener.caution(_DRAWN_ONLY)
        done.append(looker.look(file, asked, pack, annotate, out))
        on_verified(done[-1])
        listener.done(1)
    listener.end()
    return done


def _to_look_at(files: Sequence[Path], out: Path | None) -> list[Path]:
    """Without the copies that an earlier run drew, which `out/*.png` names too. Raises InputError as `verify_files`."""
    files = [file for named in files for file in (_pictures_in(named) if named.is_dir() else [named])]
    kept = [file for file in files if not file.name.endswith(DRAWN)]
    if files and not kept:
        raise InputError("is a copy that was drawn on", file=files[0], remedy="Name the picture it was made from")
    for file in kept:  # before the first of many is looked at
        if not file.is_file():
            raise InputError("no such file", file=file, remedy="Give pictures that are there")
    written: dict[Path, Path] = {}
    for file in kept:
        other = written.setdefault((out or file.parent).resolve() / (file.stem + BESIDE), file)
        if other.resolve() != file.resolve():
            what = f"would have its verdict in the same file as {other}, {file.stem + BESIDE}"
            raise InputError(what, file=file, remedy="Rename one, or look at them one by one with another --out")
    return kept


def _pictures_in(folder: Path) -> list[Path]:
    """By name, without the copies that were drawn on. Raises InputError for a folder without any."""
    found = [file for file in loose_photos(folder) if not file.name.endswith(DRAWN)]
    if not found:
        raise InputError(
            "is a folder without pictures", file=folder, remedy="Name pictures, or a folder that holds some"
        )
    return found


_DRAWN_ONLY = (
    "no face pack was named: the one that came with anyphoto looks, which knows drawn faces only. For photos: "
    "--face-pack antelopev2"
)


def _own_pack(file: Path) -> str | None:
    """The face pack of a picture's record; None for pictures from elsewhere."""
    try:
        return str(read_record(file)["face_pack"]["name"])
    except InputError:
        return None


def _own_layout(file: Path, refs_root: Path | None, listener: Listener) -> tuple[Layout, str]:
    try:
        record = read_record(file)
    except InputError as error:
        remedy = "Give the layout it was made from with --layout"
        raise InputError("says nothing of a layout", file=file, remedy=remedy) from error
    if fingerprint_of(record) != record["fingerprint"]:
        listener.caution(f"{file}: its record was edited since, and it is held to what the record says now")
    return recorded_layout(record, file, refs_root), str(record["face_pack"]["name"])


class Looker:
    """Face models and the people of the last layout, kept from one picture to the next."""

    def __init__(self, face_pack: str | None, config: VerifyConfig, analyzer: FaceAnalyzer | None = None) -> None:
        self._named, self._config = face_pack, config
        self._opened: dict[str, FaceAnalyzer] = {} if analyzer is None else {"": analyzer}
        self._people: tuple[str, Conditions] | None = None

    def look(self, file: Path, layout: Layout, pack: str | None = None, annotate: bool = False,
             out: Path | None = None) -> Verified:  # fmt: skip
        """Judge one picture and write it down. pack: used where none was named. out: another folder than its own."""
        analyzer, picture = self._analyzer(pack), read_picture(file)
        verdict = verify_picture(picture, layout, self._conditions(layout, analyzer), analyzer, self._config)
        told = {
            "picture": file.name,
            "pixels_sha256": hashlib.sha256(picture.tobytes()).hexdigest(),
            **verdict.to_json(),
        }
        beside = (out or file.parent) / file.name
        with committed(beside.with_name(file.stem + BESIDE)) as written:
            written.write((json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        drawn = None
        if annotate:
            drawn = beside.with_name(file.stem + DRAWN)
            copy = _copy(file, picture, annotated(picture, layout, verdict))
            with committed(drawn) as written:
                written.write(copy)
        return Verified(file, verdict, drawn)

    def _analyzer(self, pack: str | None) -> FaceAnalyzer:
        if "" in self._opened:
            return self._opened[""]
        name = self._named or pack or "mini"
        if name not in self._opened:
            self._opened[name] = open_faces(name, least=self._config.least_score)
        if not self._opened[name].detects:
            raise InputError(f"{name} cannot find faces", field="--face-pack", remedy="Name a pack with a detector")
        return self._opened[name]

    def _conditions(self, layout: Layout, analyzer: FaceAnalyzer) -> Conditions:
        key = layout.model_dump_json(include={"faces", "width", "height"}) + str(layout.refs_root) + analyzer.sha256
        if self._people is None or self._people[0] != key:
            self._people = (key, prepare_faces(layout, analyzer, _ANYWHERE))
        return self._people[1]


def _copy(file: Path, picture: Picture, image: Image.Image) -> bytes:
    """The PNG of a copy that was drawn on. Of a picture that we made it says so; of others we know nothing."""
    from PIL import Image

    try:
        return drawn_on(image, read_told(file).record, file.name, Image.fromarray(picture))
    except InputError:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


_ANYWHERE = MethodConfig()
"""Only who the people are is asked for; canvases are not."""
