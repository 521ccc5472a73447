"""Face packs: folders of ONNX files, found by name or path, named and hashed, with their terms."""

from __future__ import annotations

import os
import sys
import tempfile
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from anyphoto_cli.config.home import anyphoto_home, one_at_a_time
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.quiet import without_prints
from anyphoto_cli.registry import find, names
from anyphoto_cli.seams import FaceAnalyzer

DEFAULT_PACK = "antelopev2"
PUBLISHED = ("antelopev2", "buffalo_l", "buffalo_m", "buffalo_s", "buffalo_sc")
"""What insightface gives by name."""


def open_faces(
    pack: str | Path, device: str = "cpu", threads: int = 0, any_crop: bool = False, least: float = 0.5
) -> FaceAnalyzer:  # fmt: skip
    """The face models of a pack: a name (antelopev2, buffalo_l, mini) or a folder.

    device: "cuda" uses onnxruntime's CUDA provider where it is installed, else the CPU. threads: of each model on the
    CPU, 0: one a core. any_crop: also models that do not take ArcFace's norm-crops, for who asks for their `crop`.
    least: detection score from which a pack's detector calls something a face, insightface's own by default; who keeps
    faces of a lower score must say so here. FaceNet and AdaFace have the reference evaluator's.
    Raises InputError for a folder that is no pack, EnvironmentFault when a named pack cannot be had.
    """
    plugged = _plugged(str(pack), device) if str(pack) in names("face_packs") else None
    if plugged is not None and not isinstance(plugged, Path):
        analyzer: FaceAnalyzer = plugged
        if hasattr(analyzer, "crop") and not any_crop:
            raise InputError(f"{pack} is for `bench` alone: it takes other crops", field="--face-pack")
        return analyzer
    folder = plugged or find_pack(pack)
    kind = "insightface" if has_detector(folder) else "recogniser-only"
    opened: FaceAnalyzer = find("faces", kind)(folder, device, threads, least)
    return opened


def _plugged(name: str, device: str) -> Any:
    factory = find("face_packs", name)
    return factory(device) if signature(factory).parameters else factory()


def find_pack(pack: str | Path) -> Path:
    """The folder that holds a pack's ONNX files; a named insightface pack is downloaded when it is not there.

    Raises InputError for a name that nobody knows, EnvironmentFault where the download fails.
    """
    text = str(pack)
    if text in names("face_packs"):
        folder: Path = find("face_packs", text)()
        return folder
    if _is_a_folder(text):
        return _folder_with_models(Path(text), "--face-pack")
    if (installed := installed_pack(text)) is not None:
        return installed
    check_name(text)
    with one_at_a_time(f"face-pack-{text}"):
        installed = installed_pack(text)  # by whoever was first
        return installed if installed is not None else _download(text)


def check_name(pack: str | Path) -> None:
    """Raises InputError for a name that nobody knows, or a folder that is not there. Nothing is opened or fetched."""
    text = str(pack)
    if _is_a_folder(text):
        if not Path(text).is_dir():
            raise InputError("no such folder", file=text, field="--face-pack")
        return
    known = [*names("face_packs"), *PUBLISHED]
    if text not in known and installed_pack(text) is None:
        close = get_close_matches(text, known, 1)
        remedy = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}; or give a folder"
        raise InputError(f"{text!r} is no face pack", field="--face-pack", remedy=remedy)


def _is_a_folder(pack: str) -> bool:
    """Or is meant to be one: it is there, or written as a path."""
    return any(mark in pack for mark in (os.sep, os.altsep) if mark) or pack.startswith(".") or Path(pack).is_dir()


def installed_pack(name: str) -> Path | None:
    """Where a named pack already lies on this machine (~/.insightface/models first), or None."""
    for root in (Path("~/.insightface/models").expanduser(), anyphoto_home() / "face-packs"):
        if any((root / name).rglob("*.onnx")):
            return _folder_with_models(root / name, "--face-pack")
    return None


def _folder_with_models(folder: Path, field: str) -> Path:
    """`folder`, or the one inside it that holds ONNX files: antelopev2's zip nests one, roots hold models/NAME."""
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, field=field)
    if any(folder.glob("*.onnx")):
        return folder
    holding = sorted({file.parent for file in folder.rglob("*.onnx")})
    if len(holding) == 1:
        return holding[0]
    if not holding:
        remedy = "A pack holds a detector and a recogniser; download it anew if it was cut off"
        raise InputError("holds no .onnx files", file=folder, field=field, remedy=remedy)
    choices = ", ".join(str(path.relative_to(folder)) for path in holding[:6])
    raise InputError("holds several packs", file=folder, field=field, remedy=f"Name one of: {choices}")


def has_detector(folder: Path) -> bool:
    """Whether one of the ONNX files is an SCRFD or RetinaFace detector (five outputs or more)."""
    import onnx

    for file in sorted(folder.glob("*.onnx")):
        try:
            if len(onnx.load(file, load_external_data=False).graph.output) >= 5:
                return True
        except Exception as error:  # protobuf raises its own kinds
            raise InputError(
                f"is a broken ONNX file ({type(error).__name__})", file=file, field="--face-pack"
            ) from error
    return False


def _download(name: str) -> Path:
    """insightface's own download into ~/.insightface/models; no hash is published for these files.

    It unpacks in place and takes a folder that is there for a whole one, so it does that where nobody looks.
    """
    from insightface.utils.storage import ensure_available

    models = Path("~/.insightface/models").expanduser()
    if (models / name).is_dir():
        return _folder_with_models(models / name, "--face-pack")  # says that it holds none
    try:
        models.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=models, prefix=f".{name}-") as temporary,
            without_prints(sys.stderr),  # stdout belongs to our results
        ):
            Path(ensure_available("models", name, root=temporary)).replace(models / name)
    except Exception as error:  # requests, zipfile and insightface raise their own kinds
        raise EnvironmentFault(
            f"the face pack {name!r} is not on this machine and could not be downloaded ({type(error).__name__})",
            remedy=f"Put its .onnx files into ~/.insightface/models/{name}, or give --face-pack DIR",
        ) from error
    return _folder_with_models(models / name, "--face-pack")
