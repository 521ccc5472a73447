"""Content credentials (C2PA): a signed statement inside the PNG that a machine made it, from which references, by what.

A picture always carries its own record (`png_metadata`); a signature makes it hard to change unseen. Without a
certificate of your own a local one is made: it shows tampering, and says nothing about who signed.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyphoto_cli import __version__
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed, sha256_of
from anyphoto_cli.files.images import decode, read_bytes
from anyphoto_cli.generate.png_metadata import (
    NO_RECORD,
    Told,
    as_recorded,
    fingerprint_of,
    holds_record,
    png_of,
    read_told,
)
from anyphoto_cli.generate.signing import GENERATED, UNTRUSTED, Credentials, failures, open_c2pa, with_statement

if TYPE_CHECKING:
    from PIL import Image

ASSERTION = "org.anyphoto.record"


@dataclass(frozen=True)
class Provenance:
    """What a picture says about itself. record: as `generate` wrote it, None where there is none. intact: whether the
    record's fingerprint agrees with it. damaged: there is a record, and it cannot be read.

    pixels: whether they are those of the record: "same", "other", "unknown" (no record, or one of an older version,
    which tells none) or "damaged" (they cannot be decoded). was_signed: the record says so. copy_of: `picture` and
    `pixels` of what a copy was made from that was drawn on; record is that picture's. None for a picture itself.

    signature: "none", "valid", "untrusted" (unchanged since it was signed, by a certificate that no list vouches for)
    or "broken". problems: the codes of what is broken. signed_by: the certificate's name. ingredients: titles and
    hashes of the references. trust_list: whether there was one.
    """

    record: dict[str, Any] | None
    intact: bool
    signature: str
    problems: tuple[str, ...] = ()
    signed_by: str = ""
    ingredients: tuple[tuple[str, str], ...] = ()
    damaged: bool = False
    pixels: str = "unknown"
    was_signed: bool = False
    copy_of: dict[str, Any] | None = None
    trust_list: bool = False

    @property
    def credentials_gone(self) -> bool:
        """It was signed, and is not any more."""
        return self.was_signed and self.signature == "none"

    @property
    def good(self) -> bool:
        """Nothing was changed, as far as can be told."""
        whole = not self.damaged and (self.record is None or self.intact) and self.pixels in ("same", "unknown")
        return whole and self.signature != "broken" and not self.credentials_gone


def sign_pictures(files: Sequence[Path], credentials: Credentials) -> int:
    """Sign pictures of `generate`, and copies of them that were drawn on, in place; those that carry credentials
    already are left alone. Returns how many.

    Raises InputError where record or pixels were changed, or a reference is gone or has changed, since the picture was
    made; EnvironmentFault without the libraries.
    """
    signed = 0
    for file in files:
        if read_provenance(file).signature == "none":
            data = signed_png(file, credentials)
            with committed(file) as out:
                out.write(data)
            signed += 1
    return signed


def signed_png(file: Path, credentials: Credentials) -> bytes:
    """The bytes of a picture with its statement, its record saying that it was signed. References go in by name and
    sha256, never as pictures. Raises as `sign_pictures`.
    """
    told = read_told(file)
    image = decode(read_bytes(file), file)
    if fingerprint_of(told.record) != told.record["fingerprint"]:
        raise InputError("its record was edited since", file=file, field="--c2pa")
    if _pixels(told, image) == "other":
        raise InputError("its pixels are not those of its record", file=file, field="--c2pa")
    ingredients = _ingredients(told.record, file) if told.copy_of is None else [_origin(told.copy_of)]
    png = png_of(image, Told(told.text | {"signed": True}, told.copy))
    return with_statement(png, _statement(told, file) | {"ingredients": ingredients}, credentials)


def _statement(picture: Told, file: Path) -> dict[str, Any]:
    made = {"action": "c2pa.created", "digitalSourceType": GENERATED,
            "softwareAgent": {"name": "anyphoto", "version": __version__}}  # fmt: skip
    drawn = [{"action": "c2pa.drawing"}] if picture.copy else []
    record = picture.record
    told = {key: record.get(key) for key in ("model", "adapter", "face_pack", "references", "fingerprint")}
    return {
        "claim_generator_info": [{"name": "anyphoto", "version": __version__}],
        "title": file.name, "format": "image/png",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [made, *drawn]}},
            {"label": ASSERTION, "data": told | {"seed": record["layout"].get("seed")}},
        ],
    }  # fmt: skip


def _ingredients(record: dict[str, Any], file: Path) -> list[dict[str, str]]:
    """Name and sha256 of each reference, unchanged since the picture was made.

    Said in the statement, never handed over as files: the library would copy a photo's own credentials, with its
    thumbnail, its place and its author, into the picture, and refuse formats it does not know.
    """
    root, told, seen = Path(os.path.realpath(file)).parent / record["refs"], [], set[str]()
    for face in record["layout"]["faces"]:
        named = face["reference"]
        if named in seen:
            continue
        seen.add(named)
        reference = Path(os.path.realpath(root / named))
        if not reference.is_file() or sha256_of(reference) != record["references"].get(named):
            what = "is gone" if not reference.is_file() else "has changed since"
            raise InputError(f"its reference {named!r} {what}", file=file, field="--c2pa")
        told.append({
            "title": str(face["name"]), "format": "application/octet-stream", "relationship": "inputTo",
            "instance_id": f"sha256:{record['references'][named]}",
        })  # fmt: skip
    return told


def _origin(copy_of: dict[str, Any]) -> dict[str, str]:
    """The picture that a copy was made from, by name and pixels: the file itself may be signed later."""
    return {
        "title": f"{copy_of.get('picture')} (its pixels)", "format": "application/octet-stream",
        "relationship": "inputTo", "instance_id": f"sha256:{copy_of.get('pixels', {}).get('sha256')}",
    }  # fmt: skip


def _pixels(told: Told, image: Image.Image) -> str:
    """As `Provenance.pixels`. A copy of a picture that was not as recorded any more is not as recorded, either."""
    found = as_recorded(told.text, image)
    was = told.record.get("pixels")
    if told.copy_of is not None and was is not None and told.copy_of.get("pixels") != was:
        found = False
    return {None: "unknown", True: "same", False: "other"}[found]


_SIGNABLE = (
    (0, b"\x89PNG", "image/png"), (0, b"\xff\xd8\xff", "image/jpeg"), (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"), (0, b"II*\0", "image/tiff"), (0, b"MM\0*", "image/tiff"),
    (4, b"ftypavif", "image/avif"), (4, b"ftypheic", "image/heic"), (4, b"ftypheix", "image/heic"),
    (4, b"ftypmif1", "image/heif"),
)  # fmt: skip
"""Where a format's first bytes stand, they, and its name: those that can carry credentials."""


def _mime(data: bytes) -> str | None:
    """By its content; None for formats that carry no credentials."""
    return next((name for at, magic, name in _SIGNABLE if data[at : at + len(magic)] == magic), None)


def read_provenance(file: Path | str, trust_anchors: str | None = None) -> Provenance:
    """Any picture's. trust_anchors: PEM certificates (`signing.read_trust_anchors`); whom those vouch for is trusted.

    Raises InputError for a file that cannot be read, or is none.
    """
    file = Path(file)
    data = read_bytes(file)
    if _mime(data) is None:
        decode(data, file)  # raises for what is no picture
    own = _own(file, data)
    found = _manifest(file, data, trust_anchors)
    if found is None:
        return own
    store, problems = found
    manifest = store.get("manifests", {}).get(store.get("active_manifest", ""), {})
    broken = tuple(code for code in problems if code != UNTRUSTED)
    told = manifest.get("signature_info", {})
    ingredients = tuple(
        (str(one.get("title", "")), str(one.get("instance_id", "")).removeprefix("sha256:"))
        for one in manifest.get("ingredients", [])
    )
    return replace(
        own, signature="broken" if broken else "untrusted" if problems else "valid", problems=broken,
        signed_by=str(told.get("common_name") or told.get("issuer") or ""), ingredients=ingredients,
        trust_list=trust_anchors is not None,
    )  # fmt: skip


def _own(file: Path, data: bytes) -> Provenance:
    """What our own record says, without credentials."""
    try:
        told = read_told(file, whole=False)
    except InputError as error:
        unreached = error.what == NO_RECORD and holds_record(data)
        return Provenance(None, False, "none", damaged=unreached or error.field.startswith("record"))
    try:
        pixels = _pixels(told, decode(data, file))
    except InputError:
        pixels = "damaged"
    intact = fingerprint_of(told.record) == told.record["fingerprint"]
    return Provenance(
        told.record, intact, "none", pixels=pixels, was_signed=told.text.get("signed") is True, copy_of=told.copy_of
    )


def _manifest(file: Path, data: bytes, trust_anchors: str | None) -> tuple[dict[str, Any], list[str]] | None:
    """(the store, codes of what failed), None where the picture carries no credentials."""
    mime = _mime(data)
    if mime is None or (mime == "image/png" and b"caBX" not in data):
        return None
    c2pa = open_c2pa()
    try:
        trust = {} if trust_anchors is None else {"trust": {"trust_anchors": trust_anchors}}
        with c2pa.Reader(mime, io.BytesIO(data), context=c2pa.Context.from_dict(trust)) as reader:
            store: dict[str, Any] = json.loads(reader.json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__ or "no JUMBF" in str(error):
            return None
        return {}, [str(error).splitlines()[0][:200]]
    return store, failures(store)
