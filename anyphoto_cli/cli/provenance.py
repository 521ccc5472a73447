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
    "valid": "content credentials: valid, signed by {by}",
    "untrusted": "content credentials: unchanged since it was signed; the certificate is on no trust list ({by})",
    "broken": "content credentials: BROKEN, it was changed since it was signed ({problems})",
}


@app.command(epilog=f"Example: anyphoto provenance out/trip_seed7.png\n\n{DOCS}")
def provenance(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="The picture to ask.")], as_json: Json = False
) -> int:
    """Say what a picture knows of how it was made: layout, seed, weights, references; and whether it was changed.

    Exit code 3 where it was changed since.
    """
    from anyphoto_cli.generate.provenance import read_provenance

    found = read_provenance(picture)
    if as_json:
        console.document({
            "picture": str(picture), "record": found.record, "record_intact": found.intact,
            "record_damaged": found.damaged,
            "signature": found.signature, "problems": list(found.problems), "signed_by": found.signed_by,
            "ingredients": [{"title": title, "sha256": sha256} for title, sha256 in found.ingredients],
        })  # fmt: skip
        return 0 if found.good else 3
    for line in _record(found):
        console.result(line)
    console.result(_SIGNATURE[found.signature].format(by=found.signed_by or "?", problems=", ".join(found.problems)))
    for title, sha256 in found.ingredients:
        console.result(f"  made from: {title}, sha256 {sha256}")
    return 0 if found.good else 3


def _record(found: Any) -> list[str]:
    if found.damaged:
        return ["an anyphoto record that is DAMAGED: it was changed since it was written"]
    if found.record is None:
        return ["no anyphoto record"]
    record, layout = found.record, found.record["layout"]
    adapter = record.get("adapter")
    return [
        f"made by anyphoto {record.get('anyphoto_version', '')} from {record['layout_name']}, seed {layout['seed']}",
        f"  prompt: {layout['prompt']}",
        *(f"  {face['name']}: {face['reference']}, sha256 {record['references'].get(face['reference'], '?')}"
          for face in layout["faces"]),
        f"  model: {record['model'].get('name')}, {record['model'].get('revision', '')}",
        f"  adapter: {adapter.get('sha256', '') if adapter else 'none'}",
        *(f"  LoRA: {lora['name']} at {lora['scale']:g}, {lora['sha256']}" for lora in record.get("loras", [])),
        f"  face pack: {record['face_pack'].get('name')}, {record['face_pack'].get('sha256')}",
        f"  the record {'agrees with' if found.intact else 'was EDITED: it differs from'} its fingerprint",
    ]  # fmt: skip
