"""The reference bank: who is known, from which photos, and the patches that training pastes on location canvases.

In: `refs/<identity>/*.jpg`, or MultiID-2M's `untar/<identity>/*` with cluster centres in `npy/<identity>.npy`.
Out: `bank/identities.json` and one `bank/<number>.npz` an identity; no pickle, the same bytes for the same photos.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.data.multiid2m import read_embeddings
from anyphoto_cli.data.sources import CAPTION_SUFFIXES, LEFTOVERS, PICTURE_SUFFIXES
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.texts import storable
from anyphoto_cli.types import Embeddings, Patch

INDEX = "identities.json"
FORMAT = 1
_UNPACK = (
    'Unpack them in that folder: mkdir -p untar npy; for t in tars/*.tar; do tar -xf "$t" -C untar; done; '
    "tar -xf cluster_centers.tar -C npy; then untar/NAME holds photos, and npy/NAME.npy centres"
)


@dataclass(frozen=True)
class ReferenceFolder:
    """The photos of one identity, by name. centre: a given embedding's file, or None. others: files that no photo's
    name have.
    """

    name: str
    photos: tuple[Path, ...]
    centre: Path | None = None
    others: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class BankIdentity:
    """One identity. patches: n of [P, P, 4] RGBA. embeddings: [n, 512], centre: [512], of unit length. sources: where
    each came from. left_out: photos that would not do, and why. remarks: of photos that are used.
    """

    name: str
    patches: tuple[Patch, ...]
    embeddings: Embeddings
    centre: Embeddings
    sources: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()


def list_references(folder: Path) -> list[ReferenceFolder]:
    """The identities of a reference folder, sorted by name. Raises InputError when there are none."""
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, field="--refs")
    root = folder / "untar" if (folder / "untar").is_dir() else folder
    if root == folder and any(folder.glob("tars/*.tar")):
        raise InputError("holds references in tars, as MultiID-2M is published", file=folder, field="--refs",
                         remedy=_UNPACK)  # fmt: skip
    centres = folder / "npy" if root != folder and (folder / "npy").is_dir() else None
    found = []
    for path in sorted(root.iterdir(), key=lambda path: os.fsencode(path.name)):
        if path.is_dir() and not path.name.startswith("."):
            photos, others = _photos_and_others(path)
            centre = centres / f"{path.name}.npy" if centres else None
            name = storable(path.name)
            found.append(ReferenceFolder(name, photos, centre if centre and centre.is_file() else None, others))
    if not any(reference.photos for reference in found):
        remedy = "It holds one folder a person, with photos in it: refs/ana/1.jpg, refs/ben/1.jpg"
        raise InputError("holds no reference photos", file=folder, field="--refs", remedy=remedy)
    return found


def loose_photos(folder: Path) -> list[Path]:
    """Pictures beside the folders of people: nobody's."""
    return sorted(file for file in folder.iterdir() if file.is_file() and _suffix(file) in PICTURE_SUFFIXES)


def _photos_and_others(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Sorted. What other programs leave beside photos is neither: captions, json, embeddings, hidden files."""
    files = sorted(folder.iterdir())
    photos = tuple(file for file in files if _suffix(file) in PICTURE_SUFFIXES)
    stems = {photo.stem for photo in photos}
    others = tuple(
        file for file in files
        if _suffix(file) not in (*PICTURE_SUFFIXES, "npy") and file.is_file() and file.name not in LEFTOVERS
        and not file.name.startswith(".") and not (_suffix(file) in ("json", *CAPTION_SUFFIXES) and file.stem in stems)
    )  # fmt: skip
    return photos, others


def _suffix(file: Path) -> str:
    return file.suffix.lower().lstrip(".")


def read_centre(file: Path) -> Embeddings:
    """[512], unit length, of a MultiID-2M cluster. Raises InputError for another shape."""
    rows = read_embeddings(file.read_bytes(), str(file))
    if len(rows) != 1:
        raise InputError(f"holds {len(rows)} embeddings instead of one centre", file=file)
    centre: Embeddings = rows[0]
    return centre


def write_identity(folder: Path, number: int, identity: BankIdentity) -> str:
    """Write one npz; returns its name."""
    encoded = [as_png(patch) for patch in identity.patches]
    offsets = np.cumsum([0, *map(len, encoded)])
    name = identity_file(number)
    with committed(folder / name) as out:
        np.savez(
            out,
            name=_text(identity.name),
            patches=np.frombuffer(b"".join(encoded), np.uint8),
            offsets=offsets.astype(np.int64),
            embeddings=np.asarray(identity.embeddings, np.float16),
            centre=np.asarray(identity.centre, np.float32),
            sources=_text(json.dumps(list(identity.sources), ensure_ascii=False)),
            left_out=_text(json.dumps(identity.left_out, ensure_ascii=False)),
            remarks=_text(json.dumps(identity.remarks, ensure_ascii=False)),
        )
    return name


def as_png(patch: Patch) -> bytes:
    """As a bank holds it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def identity_file(number: int) -> str:
    """000012.npz."""
    return f"{number:06d}.npz"


def identity_name(file: Path) -> str:
    """Whose file it is; "" for a broken one."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return str(arrays["name"].tobytes().decode())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return ""


def _text(text: str) -> Any:
    return np.frombuffer(text.encode(), np.uint8)


def read_identity(file: Path, with_patches: bool = True) -> BankIdentity:
    """with_patches: they are nearly all that it takes; without them `patches` is empty. Raises InputError for a file of
    another form.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            offsets = arrays["offsets"].tolist()
            data = arrays["patches"].tobytes() if with_patches else b""
            patches = tuple(_from_png(data[a:b]) for a, b in pairwise(offsets) if with_patches)
            embeddings = arrays["embeddings"].astype(np.float32)
            centre = arrays["centre"]
            sources = tuple(json.loads(arrays["sources"].tobytes()))
            left_out = tuple((source, reason) for source, reason in json.loads(arrays["left_out"].tobytes()))
            told = json.loads(arrays["remarks"].tobytes()) if "remarks" in arrays.files else ()
            remarks = tuple((source, remark) for source, remark in told)
            name = arrays["name"].tobytes().decode()
    except _BROKEN as error:
        raise InputError(f"is no identity of a bank ({type(error).__name__})", file=file) from error
    if embeddings.shape != (len(offsets) - 1, 512) or centre.shape != (512,) or len(sources) != len(embeddings):
        raise InputError("is no identity of a bank: its parts do not belong together", file=file)
    return BankIdentity(name, patches, embeddings, centre, sources, left_out, remarks)


def read_patch(file: Path, place: int) -> Patch:
    """[P, P, 4] RGBA: one patch of those in a file, in the order of its embeddings, the others unread. Raises
    InputError for a file of another form, or one whose bytes are not what they were.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            offsets = arrays["offsets"].tolist()
            stored = arrays.zip.getinfo("patches.npy")
            header = stored.file_size - offsets[-1]
            with arrays.zip.open(stored) as patches:
                patches.seek(header + offsets[place])
                return _from_png(patches.read(offsets[place + 1] - offsets[place]))
    except (*_BROKEN, IndexError) as error:
        raise InputError(f"is no identity of a bank ({type(error).__name__})", file=file) from error


_BROKEN = (OSError, ValueError, KeyError, EOFError, SyntaxError, zipfile.BadZipFile)
"""SyntaxError: Pillow's, of a broken PNG."""


def _from_png(data: bytes) -> Patch:
    """Its checksums are compared: who reads one patch does not see the file's own."""
    from PIL import Image

    Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # which leaves nothing to decode
    return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)).convert("RGBA"))


def write_index(
    folder: Path, files: Mapping[str, str], references: Mapping[str, int], facts: Mapping[str, Any]
) -> None:
    """identities.json, last: name -> file and number of references; facts: patch size, face pack, version."""
    document = {
        **facts,
        "format": FORMAT,
        "identities": [
            {"name": name, "file": files[name], "references": references[name]} for name in sorted(files)
        ],
    }  # fmt: skip
    with committed(folder / INDEX) as out:
        out.write((json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode())


def read_index(folder: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """(name -> its npz, facts; among these `references`, how many each identity has).

    Raises InputError when the bank is missing or of another form.
    """
    file = folder / INDEX
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        entries = document.pop("identities")
        files = {entry["name"]: folder / Path(entry["file"]).name for entry in entries}
        document["references"] = [int(entry["references"]) for entry in entries]
    except FileNotFoundError as error:
        raise InputError("holds no reference bank", file=folder, remedy="Run preprocess with --refs") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("is no index of a reference bank", file=file) from error
    if document.get("format") != FORMAT:
        raise InputError(f"has the format {document.get('format')!r}, not {FORMAT}", file=file)
    return files, document


def mean_direction(rows: Embeddings | Sequence[Any]) -> Embeddings:
    """[n, 512] -> [512], unit length."""
    mean = np.asarray(rows, np.float64).mean(0)
    direction: Embeddings = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return direction
