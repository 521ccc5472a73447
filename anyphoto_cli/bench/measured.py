"""By what a run was measured. A face model's cosines are its own, as are those of a CLIP and an aesthetic predictor's
numbers: what two of them saw is not more or less than each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast

from anyphoto_cli.config.bench import PROTOCOLS

WAYS = {
    "faces": ("sim_gt", "sim_ref", "copy_paste", "blending"), "clip": ("clip_i", "clip_t"), "aesthetic": ("aesthetic",),
}  # fmt: skip
"""Part of `Measured` -> columns that rest on it."""
OWN_ENCODERS = {"v2.5": "siglip-so400m-patch14-384", "laion": "clip-vit-large-patch14"}
"""Of an aesthetic predictor that was given no other, without the hub's organisation."""
_PADDED = {"always": "all references padded", "needed": "references padded where needed"}


@dataclass(frozen=True)
class Measured:
    """faces: name -> sha256 of each face model. padding: of references, needed or always. clip: hub id or folder.
    aesthetic: kind, head's file and encoder. Empty: not measured, or of an older version that did not write it down.
    """

    faces: Mapping[str, str]
    padding: str = ""
    clip: str = ""
    aesthetic: tuple[str, ...] = ()

    def way(self, column: str) -> tuple[str, ...]:
        """Equal for what may be compared. Models that have no hash here go by the last part of their names, so that a
        folder of a copy is what the hub has.
        """
        if column in WAYS["faces"]:
            return (*(f"{name} {sha256}" for name, sha256 in sorted(self.faces.items())), self.padding)
        return (_name(self.clip),) if column in WAYS["clip"] else tuple(map(_name, self.aesthetic))

    def fields(self) -> dict[str, str]:
        """For programs, hashes in full."""
        faces = "; ".join(f"{name} {sha256}" for name, sha256 in self.faces.items())
        return {"faces": faces, "padding": self.padding, "clip": self.clip, "aesthetic": self.told("aesthetic")}

    def told(self, part: str) -> str:
        """One of `WAYS` in words; "" where it was not measured."""
        if part == "faces":
            models = ", ".join(f"{name} ({sha256[:12]})" for name, sha256 in self.faces.items())
            return ", ".join(filter(None, [models, _PADDED.get(self.padding, self.padding)]))
        return self.clip if part == "clip" else ", ".join(filter(None, self.aesthetic))


def measured_by(
    face_models: Mapping[str, str], not_available: Mapping[str, str], record: Mapping[str, Any]
) -> Measured:
    """From a summary, and from the settings of its folder."""
    kind = "" if "aesthetic" in not_available else record.get("aesthetic") or ""
    encoder = record.get("aesthetic_encoder") or OWN_ENCODERS.get(kind, "")
    return Measured(
        face_models, record.get("pad_references") or "", "" if "clip_t" in not_available else record.get("clip") or "",
        (kind, record.get("aesthetic_head") or "", encoder) if kind else (),
    )  # fmt: skip


def unlike_published(measured: Measured | None, column: str) -> str:
    """Why a column's numbers cannot be ranked among published ones, or "". None: nothing is known against it."""
    protocol = PROTOCOLS["withanyone"]
    if measured is None:
        return ""
    if column in WAYS["faces"]:
        theirs = cast(tuple[str, ...], protocol["face_packs"])
        if set(measured.faces) != set(theirs):
            return f"judged by {', '.join(measured.faces)}, published rows by {', '.join(theirs)}"
        told = _PADDED.get(measured.padding, "padding of references not known")
        return "" if measured.padding == protocol["pad_references"] else f"{told}, published rows with all padded"
    if column in WAYS["clip"]:
        own = str(protocol["clip"])
        alike = _name(measured.clip) == _name(own)
        return "" if alike else f"CLIP is {measured.clip or 'not known'}, of published rows {own}"
    kind, _, encoder = measured.aesthetic or ("", "", "")
    if kind == protocol["aesthetic"] and _name(encoder) == OWN_ENCODERS[kind]:
        return ""
    return f"Aes by {' on '.join(filter(None, (kind, encoder))) or 'what is not known'}, of published rows by v2.5"


def _name(source: str) -> str:
    """The last part of a hub id or path."""
    return PurePath(source).name
