"""What a run is given, looked through before hours of work: options, packages, and the list of the photos."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from anyphoto_cli.config.preprocess import STAGES, PreprocessConfig, RunOptions
from anyphoto_cli.data.bank import list_references
from anyphoto_cli.data.shards import MANIFEST
from anyphoto_cli.data.sources import PhotoInput, list_photos
from anyphoto_cli.errors import AnyPhotoError, EnvironmentFault, InputError
from anyphoto_cli.files.texts import storable
from anyphoto_cli.preprocess.captioning import open_captioner
from anyphoto_cli.preprocess.exclusions import Exclusions, read_exclusions
from anyphoto_cli.preprocess.loading import read_photo
from anyphoto_cli.preprocess.work import PhotoList, Work, open_photo_list, write_photo_list
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.runtime.run_record import keep_options, read_record

LIST = "photos.jsonl"
_OWN = "Give a folder of its own with -o"


def check_call(
    sources: Sequence[Path], out: Path, refs: Path | None, config: PreprocessConfig, options: RunOptions,
    stages: Sequence[str], exclude: Path | None,
) -> Exclusions:  # fmt: skip
    """What a run and its dry run refuse before they look at a photo. -> what must not be in the data.

    Raises as `check_input`, `read_exclusions` and the captioner do.
    """
    check_input(sources, out, refs, config, stages)
    exclusions = read_exclusions(exclude) if exclude else Exclusions()
    if "caption" in stages:
        _open_the_captioner(config, options, out)
    return exclusions


def _open_the_captioner(config: PreprocessConfig, options: RunOptions, out: Path) -> None:
    """Raises as `open_captioner`, and InputError where the run in `out` began with another one: who goes on with it and
    leaves --captioner out has not lost a package.
    """
    try:
        open_captioner(config, options)
    except AnyPhotoError as error:
        was = read_record(out).get("caption", {}).get("captioner", config.captioner)
        if was == config.captioner:
            raise
        remedy = f"Give --captioner {was}, or a new folder with -o"
        raise InputError(
            f"this run began with {was!r}; {error.what}", file=out, field="--captioner", remedy=remedy
        ) from error


def check_input(
    sources: Sequence[Path], out: Path, refs: Path | None, config: PreprocessConfig, stages: Sequence[str]
) -> None:
    """Raises InputError for what does not go together, EnvironmentFault for a package that a stage would miss."""
    _need_packages(config)
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise InputError(f"{unknown[0]!r} is no stage", field="--stages", remedy=f"Stages: {', '.join(STAGES)}")
    if not sources:
        raise InputError("name a folder of photos, a tar, or a list", field="SOURCE")
    _need_different_names(sources)
    for source in [*sources, *([refs] if refs else [])]:
        if not source.exists():
            raise InputError("no such file or folder", file=source)
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise InputError("lies inside the photos", file=out, field="--out", remedy="Choose a folder beside them")
        if source.resolve().is_relative_to(out.resolve()):
            raise InputError(f"holds {source}, which it is made from", file=out, field="--out", remedy=_OWN)
    if refs and config.discover:
        raise InputError("takes no --refs beside it", field="--discover")
    if not refs and not config.discover and config.min_identified and "match" in stages:
        remedy = "Give --refs DIR (refs/NAME/*.jpg) or --discover"
        raise InputError("nobody is known", field="--refs", remedy=remedy)
    # What a later stage would refuse is refused before hours of work.
    if refs and "match" in stages:
        list_references(refs)


def _need_different_names(sources: Sequence[Path]) -> None:
    """Raises InputError where photos of two sources would have the same ids."""
    seen: dict[str, Path] = {}
    for source in sources:
        if other := seen.get(_name(source)):
            remedy = "Photos are told apart by it: rename one of them, or give the folder above both"
            raise InputError(f"has the same name as {other}", file=source, field="SOURCE", remedy=remedy)
        seen[_name(source)] = source


def _name(source: Path) -> str:
    return storable(source.absolute().name)


def _need_packages(config: PreprocessConfig) -> None:
    """Raises EnvironmentFault for a package that only a later stage would miss."""
    wanted = ["imagehash", "jinja2", *(["pycocotools"] if config.masks else [])]
    if missing := [name for name in wanted if find_spec(name) is None]:
        raise EnvironmentFault(f"preprocess needs {missing[0]}", remedy='Run: pip install "anyphoto[preprocess]"')


def photo_list(sources: Sequence[Path], out: Path, refs: Path | None, listener: Listener) -> PhotoList:
    """Listed anew each time: a run must go on with the photos it began with, wherever they lie now. Raises InputError
    where they changed, or where there are none.
    """
    listener.stage("Listing photos")
    record = {"sources": [str(source.resolve()) for source in sources], "refs": str(refs.resolve()) if refs else ""}
    begun = (out / "work" / "detect").is_dir()
    if not begun and any((out / left).exists() for left in (MANIFEST, "bank")):
        # Its bank's numbers and its last shards would be taken for this run's.
        remedy = "Give a new folder with -o, or delete what is in it"
        raise InputError("holds what another run has made, whose work/ is gone", file=out, remedy=remedy)
    file = out / "work" / LIST
    if not (begun and file.is_file()):
        photos = write_photo_list(file, _all_photos(sources))
    else:
        photos = _listed_again(file, sources, out)
        if read_record(out).get("input") != record:
            _must_be_those_read(photos, Work(out / "work"))
    keep_options(out, "input", record, begun=False)
    if not photos.count:
        file.unlink()
        raise InputError("holds no files", file=sources[0])
    return photos


def _listed_again(file: Path, sources: Sequence[Path], out: Path) -> PhotoList:
    """Names and places in tars as before; files as they are now. Raises InputError where other photos are there."""
    photos, again = open_photo_list(file), write_photo_list(file.with_name("again.jsonl"), _all_photos(sources))
    if again.sha256 != photos.sha256:
        again.file.unlink()
        what = f"the photos are no longer those it began with ({photos.count} then, {again.count} now)"
        raise InputError(what, file=out, remedy="Give a new folder with -o")
    again.file.replace(file)
    return replace(again, file=file)


def _must_be_those_read(photos: PhotoList, work: Work, most: int = 8) -> None:
    """In another place the names may be the same and the photos not: some of those that were read are compared."""
    done = [chunk for chunk in range(len(photos)) if work.has("detect", chunk)]
    for chunk in done[:: max(1, len(done) // most)]:
        seen = zip(photos.photos(chunk), work.read("detect", chunk)[0], strict=True)
        for photo, row in [(photo, row) for photo, row in seen if not row["problem"]][:1]:
            if hashlib.sha256(read_photo(photo)).hexdigest() != row["sha256"]:
                remedy = "Give the photos that this run began with, or a new folder with -o"
                raise InputError("is another photo than the one that was read", file=photo.file, remedy=remedy)


def _all_photos(sources: Sequence[Path]) -> Iterator[PhotoInput]:
    """Of several sources the ids begin with the source's name."""
    for source in sources:
        for photo in list_photos(source):
            if len(sources) == 1:
                yield photo
            else:
                yield PhotoInput.from_json({**photo.to_json(), "id": f"{_name(source)}/{photo.id}"})
