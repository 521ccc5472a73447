"""Content credentials (C2PA): a signed statement inside the PNG that a machine made it, from which references, by what.

A picture always carries its own record (`png_metadata`); a signature makes it hard to change unseen. Without a
certificate of your own a local one is made: it shows tampering, and says nothing about who signed.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyphoto_cli import __version__
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed, sha256_of
from anyphoto_cli.files.images import decode, read_bytes
from anyphoto_cli.generate.png_metadata import fingerprint_of, read_record
from anyphoto_cli.generate.signing import Credentials, open_c2pa

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ASSERTION = "org.anyphoto.record"


@dataclass(frozen=True)
class Provenance:
    """What a picture says about itself. record: as `generate` wrote it, None where there is none. intact: whether the
    record's fingerprint agrees with it. damaged: there is a record, and it cannot be read.

    signature: "none", "valid", "untrusted" (unchanged since it was signed, by a certificate that no list knows) or
    "broken". problems: the codes of what is broken. signed_by: the certificate's name. ingredients: titles and hashes
    of the references.
    """

    record: dict[str, Any] | None
    intact: bool
    signature: str
    problems: tuple[str, ...] = ()
    signed_by: str = ""
    ingredients: tuple[tuple[str, str], ...] = ()
    damaged: bool = False

    @property
    def good(self) -> bool:
        """Nothing was changed, as far as can be told."""
        return self.signature != "broken" and not self.damaged and (self.record is None or self.intact)


def sign_pictures(files: Sequence[Path], credentials: Credentials) -> int:
    """Sign pictures of `generate` in place; those that carry credentials already are left alone. Returns how many.

    Raises InputError where a reference is gone or has changed since, EnvironmentFault without the libraries.
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
    """The bytes of a picture with its statement. References go in by name and sha256, never as pictures."""
    c2pa = open_c2pa()
    record = read_record(file)
    context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    builder = c2pa.Builder(_statement(record, file) | {"ingredients": _ingredients(record, file)}, context)
    signed = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo("es256", credentials.certificate.encode(), credentials.key.encode(), None)
        builder.sign(c2pa.Signer.from_info(info), "image/png", io.BytesIO(file.read_bytes()), signed)
    except c2pa.C2paError as error:
        said = str(error).splitlines()[0][:200]
        raise InputError(f"cannot sign with this certificate ({said})", field="--c2pa-cert") from error
    return signed.getvalue()


def _statement(record: dict[str, Any], file: Path) -> dict[str, Any]:
    made = {"action": "c2pa.created", "digitalSourceType": GENERATED,
            "softwareAgent": {"name": "anyphoto", "version": __version__}}  # fmt: skip
    told = {key: record.get(key) for key in ("model", "adapter", "face_pack", "references", "fingerprint")}
    return {
        "claim_generator_info": [{"name": "anyphoto", "version": __version__}],
        "title": file.name, "format": "image/png",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [made]}},
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


def read_provenance(file: Path | str) -> Provenance:
    """Any picture's. Raises InputError for a file that cannot be read, or is none."""
    file = Path(file)
    data = read_bytes(file)
    if _mime(data) is None:
        decode(data, file)  # raises for what is no picture
    damaged = False
    try:
        record: dict[str, Any] | None = read_record(file, whole=False)
    except InputError as error:
        record, damaged = None, error.field.startswith("record")
    intact = record is not None and fingerprint_of(record) == record["fingerprint"]
    found = _manifest(file, data)
    if found is None:
        return Provenance(record, intact, "none", damaged=damaged)
    store, problems = found
    manifest = store.get("manifests", {}).get(store.get("active_manifest", ""), {})
    untrusted = [code for code in problems if code == "signingCredential.untrusted"]
    broken = tuple(code for code in problems if code not in untrusted)
    signature = "broken" if broken else "untrusted" if untrusted else "valid"
    told = manifest.get("signature_info", {})
    ingredients = tuple(
        (str(one.get("title", "")), str(one.get("instance_id", "")).removeprefix("sha256:"))
        for one in manifest.get("ingredients", [])
    )
    return Provenance(record, intact, signature, broken, str(told.get("common_name") or told.get("issuer") or ""),
                      ingredients, damaged)  # fmt: skip


def _manifest(file: Path, data: bytes) -> tuple[dict[str, Any], list[str]] | None:
    """(the store, codes of what failed), None where the picture carries no credentials."""
    mime = _mime(data)
    if mime is None or (mime == "image/png" and b"caBX" not in data):
        return None
    c2pa = open_c2pa()
    try:
        with file.open("rb") as stream, c2pa.Reader(mime, stream) as reader:
            store: dict[str, Any] = json.loads(reader.json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__ or "no JUMBF" in str(error):
            return None
        return {}, [str(error).splitlines()[0][:200]]
    failed = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    failed = [*failed, *store.get("validation_status", [])]
    return store, list(dict.fromkeys(str(one.get("code")) for one in failed))
