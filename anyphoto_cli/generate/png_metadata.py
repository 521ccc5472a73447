"""What a picture says about itself: enough to render it again, and that a machine made it.

`anyphoto` (iTXt, JSON) is ours, in copies that were drawn on `anyphoto_copy`; `parameters` (iTXt) is what picture
browsers of this field read; the XMP packet says "trainedAlgorithmicMedia", IPTC's word for generated pictures.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.files.texts import storable

KEY, COPY, FORMAT = "anyphoto", "anyphoto_copy", 1
NO_RECORD = "holds no anyphoto record"
IDENTIFYING = ("layout", "references", "model", "adapter", "face_pack")
"""Of a record: what its fingerprint is over."""
_KEYS: dict[str, Any] = {
    "layout": dict, "references": dict, "model": dict, "face_pack": dict, "asked": dict, "refs": str,
    "layout_name": str, "fingerprint": str, "precision": str, "adapter": dict | None, "loras": list | None,
}  # fmt: skip
_LAYOUT_KEYS: dict[str, Any] = {"seed": int, "prompt": str, "faces": list}
"""What is told of it; who renders it again reads it as any other layout."""
_COPY_KEYS: dict[str, Any] = {"copy_of": dict, "record": dict, "pixels": dict}
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


@dataclass(frozen=True)
class Told:
    """What a PNG of ours carries. text: the JSON under its key. copy: it was drawn on, and the text is about that."""

    text: dict[str, Any]
    copy: bool = False

    @property
    def record(self) -> dict[str, Any]:
        """The picture's; of a copy, that of the picture it was made from."""
        record: dict[str, Any] = self.text["record"] if self.copy else self.text
        return record

    @property
    def copy_of(self) -> dict[str, Any] | None:
        """`picture`, the name of what a copy was made from, and its `pixels`; None for a picture."""
        return self.text["copy_of"] if self.copy else None


def write_png(image: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a picture with its record, whole or not at all; the same record and pixels give the same bytes.

    A record that tells no pixels is given those of the image.
    """
    told = {"pixels": pixels_of(image)} | {key: value for key, value in record.items() if key != "signed"}
    with committed(path) as file:
        file.write(png_of(image, Told(told)))


def png_of(image: Image.Image, told: Told) -> bytes:
    """A PNG with all that we say about it."""
    info = PngImagePlugin.PngInfo()
    text = storable(json.dumps(told.text, ensure_ascii=False, sort_keys=True))
    info.add_itxt(COPY if told.copy else KEY, text, zip=False)
    if not told.copy:
        info.add_itxt("parameters", storable(_parameters(told.record)))
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def drawn_on(image: Image.Image, record: dict[str, Any], name: str, picture: Image.Image) -> bytes:
    """The PNG of a copy that was drawn on. name, picture: what it was made from, record: what that one carries."""
    copy_of = {"picture": name, "pixels": pixels_of(picture)}
    told = {"format": FORMAT, "copy_of": copy_of, "record": record, "pixels": pixels_of(image)}
    return png_of(image, Told(told, copy=True))


def pixels_of(image: Image.Image) -> dict[str, Any]:
    """Mode, size, and the sha256 of the bytes: three a pixel, red, green, blue, row by row from the top."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    sha256 = hashlib.sha256(image.tobytes()).hexdigest()
    return {"mode": "RGB", "width": image.width, "height": image.height, "sha256": sha256}


def fingerprint_of(record: dict[str, Any]) -> str:
    """sha256 over what makes a picture this one and no other."""
    told = {key: record.get(key) for key in IDENTIFYING}
    if record.get("loras"):  # absent elsewhere, so that fingerprints of pictures made before LoRAs hold
        told["loras"] = record["loras"]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def as_recorded(text: dict[str, Any], image: Image.Image) -> bool | None:
    """Whether an image has the pixels that a record, or the text of a copy, tells; None where it tells none, as those
    of older versions.
    """
    return None if "pixels" not in text else bool(text["pixels"] == pixels_of(image))


def read_record(path: Path, whole: bool = True) -> dict[str, Any]:
    """The record of a picture that anyphoto made. whole: one whose pixels are damaged is none, though its record stands
    before them. Raises InputError for any other file, also for a copy that was drawn on.
    """
    told = read_told(path, whole)
    if told.copy:
        raise InputError("is a copy that was drawn on", file=path, remedy="Name the picture it was made from")
    return told.record


def read_told(path: Path, whole: bool = True) -> Told:
    """What a PNG of ours carries, a picture or a copy. Raises as `read_record`."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if whole or not {KEY, COPY} & image.info.keys():
                image.load()
            copy = KEY not in image.info
            text = image.info[COPY if copy else KEY]
    except MemoryError:
        raise
    except Exception as error:  # what decoders raise for bytes they do not understand is theirs to choose
        what = "no such file" if isinstance(error, FileNotFoundError) else NO_RECORD
        raise InputError(what, file=path, remedy="Give a PNG that anyphoto generate wrote") from error
    try:
        told = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError("is damaged or was edited", file=path, field="record") from error
    if copy:
        _check_version(told, path)
        _check(told, _COPY_KEYS, path, "record")
    _check_record(told["record"] if copy else told, path)
    return Told(told, copy)


def holds_record(data: bytes) -> bool:
    """Whether a PNG's bytes have a text of ours, though no decoder may come as far."""
    return any(b"iTXt" + key.encode() + b"\0" in data for key in (KEY, COPY))


def _check_version(told: Any, path: Path) -> None:
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise InputError("holds a record of another version", file=path, remedy="Run: pip install -U anyphoto")


def _check_record(record: Any, path: Path) -> None:
    _check_version(record, path)
    _check(record, _KEYS, path, "record")
    _check(record["layout"], _LAYOUT_KEYS, path, "record.layout")
    _check(record["face_pack"], {"name": str}, path, "record.face_pack")
    for number, face in enumerate(record["layout"]["faces"]):
        _check(face, {"name": str, "reference": str}, path, f"record.layout.faces[{number}]")
    for number, lora in enumerate(record.get("loras") or []):
        _check(lora, {"name": str, "sha256": str, "scale": float}, path, f"record.loras[{number}]")


def _check(told: Any, keys: dict[str, Any], path: Path, field: str) -> None:
    for key, kind in keys.items():
        if not isinstance(told, dict) or not isinstance(told.get(key), kind):
            raise InputError("is damaged or was edited", file=path, field=f"{field}.{key}")


def _parameters(record: dict[str, Any]) -> str:
    layout = record["layout"]
    negative = f"\nNegative prompt: {layout['negative_prompt']}" if layout.get("negative_prompt") else ""
    settings = (
        f"Steps: {layout['steps']}, Sampler: Euler, CFG scale: {layout['true_cfg_scale']:g}, "
        f"Distilled CFG Scale: {layout['guidance_scale']:g}, Seed: {layout['seed']}, "
        f"Size: {layout['width']}x{layout['height']}, Model: {record['model']['name']}"
    )
    return f"{layout['prompt']}{negative}\n{settings}"
