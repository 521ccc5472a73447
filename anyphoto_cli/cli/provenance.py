"""`anyphoto provenance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.options import Json

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
_SIGNATURE = {
    "none": "no content credentials",
    "gone": "content credentials: GONE, it was signed, and whatever was done to it since removed them",
    "valid": "content credentials: valid, signed by {by}, whom the trust list vouches for",
    "untrusted": "content credentials: unchanged since it was signed; its certificate is not on the trust list ({by})",
    "unjudged": "content credentials: unchanged since it was signed; no trust list was given ({by})",
    "broken": "content credentials: BROKEN, it was changed since it was signed ({problems})",
}
_PIXELS = {
    "same": "the pixels are those of the record",
    "other": "the pixels are NOT those of the record: painted over, cut, resized or saved with losses since",
    "unknown": "whether the pixels are those of the record is unknown: an earlier version did not write that down",
    "damaged": "the pixels are DAMAGED: they cannot be read",
}


@app.command(epilog=f"Example: anyphoto provenance out/trip_seed7.png\n\n{DOCS}")
def provenance(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="The picture to ask.")],
    trust_anchors: Annotated[
        Path | None,
        typer.Option(
            "--trust-anchors", metavar="PEM", help="Certificates of the authorities whose signatures you trust."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Say what a picture knows of how it was made: layout, seed, weights, references; and whether it was changed.

    Exit code 3 where it was changed since, or its content credentials were removed.
    """
    from anyphoto_cli.generate.provenance import read_provenance
    from anyphoto_cli.generate.signing import read_trust_anchors

    found = read_provenance(picture, None if trust_anchors is None else read_trust_anchors(trust_anchors))
    if as_json:
        console.document({
            "picture": str(picture), "record": found.record, "record_intact": found.intact,
            "record_damaged": found.damaged, "pixels": found.pixels, "copy_of": found.copy_of,
            "credentials_gone": found.credentials_gone, "trust_list": found.trust_list,
            "signature": found.signature, "problems": list(found.problems), "signed_by": found.signed_by,
            "ingredients": [{"title": title, "sha256": sha256} for title, sha256 in found.ingredients],
        })  # fmt: skip
        return 0 if found.good else 3
    for line in _record(found):
        console.result(line)
    console.result(
        _SIGNATURE[_credentials(found)].format(by=found.signed_by or "?", problems=", ".join(found.problems))
    )
    for title, sha256 in found.ingredients:
        console.result(f"  made from: {title}, sha256 {sha256}")
    return 0 if found.good else 3


def _credentials(found: Any) -> str:
    if found.credentials_gone:
        return "gone"
    return "unjudged" if found.signature == "untrusted" and not found.trust_list else str(found.signature)


def _record(found: Any) -> list[str]:
    if found.damaged:
        return ["an anyphoto record that is DAMAGED: it was changed since it was written"]
    if found.record is None:
        return ["no anyphoto record"]
    record, layout = found.record, found.record["layout"]
    adapter = record.get("adapter")
    return [
        *([] if found.copy_of is None else [f"a copy of {found.copy_of.get('picture')}, drawn on; of that picture:"]),
        f"made by anyphoto {record.get('anyphoto_version', '')} from {record['layout_name']}, seed {layout['seed']}",
        f"  prompt: {layout['prompt']}",
        *(f"  {face['name']}: {face['reference']}, sha256 {record['references'].get(face['reference'], '?')}"
          for face in layout["faces"]),
        f"  model: {record['model'].get('name')}, {record['model'].get('revision', '')}",
        f"  adapter: {adapter.get('sha256', '') if adapter else 'none'}",
        *(f"  LoRA: {lora['name']} at {lora['scale']:g}, {lora['sha256']}" for lora in record.get("loras") or []),
        f"  face pack: {record['face_pack'].get('name')}, {record['face_pack'].get('sha256')}",
        f"  the record {'agrees with' if found.intact else 'was EDITED: it differs from'} its fingerprint",
        f"  {_PIXELS[found.pixels]}",
    ]  # fmt: skip
