"""Persons, the first stage. Paper A.2: YOLO11x. A .pt goes through ultralytics, an .onnx through onnxruntime."""

from __future__ import annotations

from pathlib import Path

from anyphoto_cli.errors import InputError
from anyphoto_cli.registry import find, names
from anyphoto_cli.seams import PersonDetector

DEFAULT_MODEL = "yolo11x.pt"


def open_persons(model: str | Path, device: str = "cpu", threads: int = 0) -> PersonDetector:
    """The detector of a name (mini), an .onnx or a .pt file. Raises InputError for anything else.

    threads: of it on the CPU; 0: one a core.
    """
    text = str(model)
    if text in names("person_models"):
        found = find("person_models", text)()
        if not isinstance(found, Path):
            detector: PersonDetector = found
            return detector
        file = found
    else:
        file = Path(text)
    kind = file.suffix.lower()
    if kind == ".onnx":
        from anyphoto_cli.preprocess.yolo_onnx import YoloOnnx

        if not file.is_file():
            raise InputError("no such file", file=file, field="--person-model")
        return YoloOnnx(file, device, threads)
    if kind == ".pt":
        from anyphoto_cli.preprocess.yolo_pt import YoloPt

        return YoloPt(file, device, threads)
    remedy = f"Give YOLO weights (.pt) or a YOLO .onnx, or one of: {', '.join(names('person_models'))}"
    raise InputError(f"{text!r} is no person model", field="--person-model", remedy=remedy)
