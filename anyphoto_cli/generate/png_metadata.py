"""What a picture says about itself: enough to render it again, and that a machine made it.

`anyphoto` (iTXt, JSON) is ours; `parameters` (iTXt) is what picture browsers of this field read; the XMP packet says
"trainedAlgorithmicMedia", IPTC's word for generated pictures.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed

KEY, FORMAT = "anyphoto", 1
IDENTIFYING = ("layout", "references", "model", "adapter", "face_pack")
"""Of a record: what its fingerprint is over."""
_KEYS = {"layout": dict, "references": dict, "model": dict, "face_pack": dict, "asked": dict, "refs": str,
         "layout_name": str, "fingerprint": str, "precision": str}  # fmt: skip
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def write_png(image: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a picture with its record, whole or not at all; the same record and pixels give the same bytes."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, _storable(json.dumps(record, ensure_ascii=False, sort_keys=True)), zip=False)
    info.add_itxt("parameters", _storable(_parameters(record)))
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    with committed(path) as file:
        file.write(buffer.getvalue())


def fingerprint_of(record: dict[str, Any]) -> str:
    """sha256 over what makes a picture this one and no other."""
    told = {key: record.get(key) for key in IDENTIFYING}
    if record.get("loras"):  # absent elsewhere, so that fingerprints of pictures made before LoRAs hold
        told["loras"] = record["loras"]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _storable(text: str) -> str:
    """Path names may hold bytes that are no text; UTF-8 cannot store those."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_record(path: Path, whole: bool = True) -> dict[str, Any]:
    """The record of a picture that anyphoto made. whole: one whose pixels are damaged is none, though its record stands
    before them. Raises InputError for any other file.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if whole or KEY not in image.info:
                image.load()
            text = image.info[KEY]
    except (OSError, SyntaxError, ValueError, KeyError, AttributeError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else "holds no anyphoto record"
        raise InputError(what, file=path, remedy="Give a PNG that anyphoto generate wrote") from error
    try:
        record = json.loads(text)
    except (ValueError, TypeError) as error:
        raise InputError("is damaged or was edited", file=path, field="record") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError("holds a record of another version", file=path, remedy="Run: pip install -U anyphoto")
    for key, kind in _KEYS.items():
        if not isinstance(record.get(key), kind):
            raise InputError("is damaged or was edited", file=path, field=f"record.{key}")
    return record


def _parameters(record: dict[str, Any]) -> str:
    layout = record["layout"]
    negative = f"\nNegative prompt: {layout['negative_prompt']}" if layout.get("negative_prompt") else ""
    settings = (
        f"Steps: {layout['steps']}, Sampler: Euler, CFG scale: {layout['true_cfg_scale']:g}, "
        f"Distilled CFG Scale: {layout['guidance_scale']:g}, Seed: {layout['seed']}, "
        f"Size: {layout['width']}x{layout['height']}, Model: {record['model']['name']}"
    )
    return f"{layout['prompt']}{negative}\n{settings}"
