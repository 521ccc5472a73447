"""`anyphoto doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from anyphoto_cli import __version__
from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.registry import find, names

Status = Literal["ok", "note", "missing", "broken"]
CORE = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "insightface",
    "onnxruntime",
    "pillow",
)
EXTRAS = {
    "gpu": (("onnxruntime-gpu", "bitsandbytes"), "face models on the GPU, --memory nf4"),
    "heif": (("pi-heif",), "HEIC photos"),
    "preprocess": (("webdataset", "imagehash", "pycocotools"), "anyphoto preprocess"),
    "yolo": (("ultralytics",), "its default person model, yolo11x.pt; AGPL-3.0"),
    "vllm": (("vllm",), "its default captioner, in an environment of its own"),
    "caption": (("openai", "stamina"), "captions by a server"),
    "ray": (("ray",), "preprocess on many machines"),
    "train": (("tensorboard", "matplotlib"), "curves of anyphoto train"),
    "bench": (("pyarrow", "tabulate", "matplotlib"), "anyphoto bench"),
    "edit": (("starlette", "uvicorn", "python-multipart"), "anyphoto layout edit"),
    "c2pa": (("c2pa-python", "cryptography"), "content credentials"),
}
MAIN_MEMORY_GB = 34.0
"""Weights are read there before they go to the card: transformer 23.8, T5 9.5, CLIP and VAE .4."""
FACE_PACKS = ("antelopev2", "buffalo_l")
FACE_TERMS = (
    "insightface packs (antelopev2, buffalo_l): non-commercial research only; fal/AuraFace-v1 (Apache-2.0) fits too",
    "Qwen2.5-VL (captions): 72B under the Qwen licence, 7B Apache-2.0, 3B for research only",
    "YOLO weights and ultralytics: AGPL-3.0. MultiID-2M / -Bench: non-commercial research, removal requests bind you",
    "Faces are personal data: have each person's consent; many places want generated pictures to be marked",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report. remedy: a command or a sentence, or ""."""

    section: str
    status: Status
    text: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at packages, devices, providers, weights, terms and memory. Never raises, never downloads."""
    findings: list[Finding] = []
    for section, look in _SECTIONS.items():
        try:
            findings += [Finding(section, *line) for line in look()]
        except Exception as error:  # a report must come out of a broken machine, too
            findings.append(Finding(section, "broken", f"{type(error).__name__}: {str(error)[:200]}"))
    return findings


Line = tuple[Status, str, str]


def _packages() -> list[Line]:
    lines: list[Line] = [
        ("ok", f"anyphoto {__version__}, Python {platform.python_version()}, {platform.platform()}", "")
    ]
    for name in CORE:
        version = _version(name)
        remedy = "" if version else "pip install anyphoto"
        lines.append(("ok" if version else "broken", f"{name} {version or 'is not installed'}", remedy))
    for extra, (packages, purpose) in EXTRAS.items():
        if extra == "gpu" and sys.platform == "darwin":  # brings nothing there
            continue
        lacking = [name for name in packages if not _version(name)]
        text = f"extra {extra} ({purpose}): {'not installed' if lacking else 'installed'}"
        lines.append(("note" if lacking else "ok", text, f'pip install "anyphoto[{extra}]"' if lacking else ""))
    if _version("torchvision") and "+cpu" in (_version("torch") or ""):
        lines.append(
            (
                "broken",
                "torchvision beside a CPU torch: transformers and diffusers break",
                "pip uninstall torchvision",
            )
        )
    lines.append(_opencv())
    return lines


def _opencv() -> Line:
    try:
        import cv2
    except ImportError as error:
        return "broken", f"cv2 does not import ({error})", "apt-get install libgl1 libglib2.0-0"
    return "ok", f"cv2 {cv2.__version__} imports", ""


def _devices() -> list[Line]:
    import torch

    memory = _total_memory_gb()
    lines: list[Line] = [("ok", f"CPU: {os.cpu_count()} cores, {memory:.0f} GB of memory", "")]
    for i in range(torch.cuda.device_count()):
        free, total = (n / 1e9 for n in torch.cuda.mem_get_info(i))
        lines.append(("ok", f"cuda:{i}: {torch.cuda.get_device_name(i)}, {free:.0f} of {total:.0f} GB free", ""))
    if not torch.cuda.is_available() and sys.platform != "darwin":
        built = torch.version.cuda
        text = f"no CUDA device ({'driver or card not found' if built else 'this torch is built without CUDA'})"
        lines.append(("note", text, "" if built else "with an NVIDIA card: uv pip install torch --torch-backend=auto"))
    if torch.backends.mps.is_available():
        room = torch.mps.recommended_max_memory() / 1e9
        lines.append(("ok", f"mps: Apple GPU, {room:.0f} GB for it; nobody has run anyphoto on one", ""))
    return lines


def _total_memory_gb() -> float:
    import psutil

    return float(psutil.virtual_memory().total / 1e9)


def _face_models() -> list[Line]:
    """The provider a session really gets, not the ones onnxruntime was built with."""
    import onnxruntime
    import torch

    from anyphoto_cli.faces.insightface_pack import onnx_providers
    from anyphoto_cli.faces.packs import find_pack, installed_pack

    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    pack = find_pack("tiny-random")
    session = onnxruntime.InferenceSession(str(pack / "recogniser.onnx"), providers=onnx_providers(wanted))
    used = session.get_providers()[0]
    lines: list[Line] = [_provider(wanted, used)]
    if _version("onnxruntime-gpu") and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        # Both packages own one module, and insightface drags in the CPU one.
        repair = "pip install --force-reinstall --no-deps onnxruntime-gpu"
        lines.append(
            (
                "broken",
                "onnxruntime-gpu is installed, but its files were overwritten by the CPU package",
                repair,
            )
        )
    for name in FACE_PACKS:
        folder = installed_pack(name)
        lines.append(
            ("ok", f"face pack {name}: {_home(folder)}", "")
            if folder
            else ("note", f"face pack {name}: not here; insightface downloads it on first use", "")
        )
    return lines


def _provider(wanted: str, used: str) -> Line:
    text = f"onnxruntime runs face models with {used}"
    if wanted == "cpu" or used == "CUDAExecutionProvider":
        return "ok", text, ""
    if not _version("onnxruntime-gpu"):
        return "note", f"{text}: slower than this machine's GPU", 'pip install "anyphoto[gpu]"'
    remedy = "Its CUDA and cuDNN must be those of this onnxruntime-gpu: pip install --upgrade onnxruntime-gpu"
    return "broken", f"{text}, although a GPU and onnxruntime-gpu are there", remedy


def _models() -> list[Line]:
    from huggingface_hub import try_to_load_from_cache

    from anyphoto_cli.config.home import anyphoto_home

    lines: list[Line] = []
    for name in names("bases"):
        base = find("bases", name)
        if base.shipped is not None:
            lines.append(_came_along(name, base.shipped))
            continue
        if base.build is not None:
            there = (anyphoto_home() / "models" / base.source / "model_index.json").is_file()
            lines.append(("ok", f"{name}: {'built' if there else 'built on first use'}", ""))
            continue
        cached = try_to_load_from_cache(base.source, "model_index.json")
        gate = f"accept the licence at https://huggingface.co/{base.source}, then: hf auth login; "
        # Its repository holds the transformer once more, in one file that diffusers does not read.
        remedy = f"""{gate if base.gated else ""}hf download {base.source} --exclude "flux1-*\""""
        if not isinstance(cached, str):
            lines.append(("missing", f"{name}: not in the hub cache (about {base.download_gb:.0f} GB)", remedy))
        elif lacking := lacking_weights(Path(cached).parent):
            text = f"{name}: {_home(Path(cached).parent)} lacks {', '.join(lacking)}: the download broke off"
            lines.append(("broken", text, remedy))
        else:
            lines.append(("ok", f"{name}: {_home(Path(cached).parent)}", ""))
    return lines


def lacking_weights(folder: Path) -> list[str]:
    """Components of a pipeline's folder whose weights are not whole: no file, or not all that an index names."""
    told = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    components = [
        name for name, (_, kind) in ((k, v) for k, v in told.items() if isinstance(v, list) and len(v) == 2)
        if kind and kind.endswith(("Model", "Transformer2DModel", "AutoencoderKL"))
    ]  # fmt: skip
    return [name for name in components if not _is_whole(folder / name)]


def _is_whole(component: Path) -> bool:
    indices = list(component.glob("*.safetensors.index.json"))
    named = {file for index in indices for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    return all((component / file).is_file() for file in named) if named else any(component.glob("*.safetensors"))


def _came_along(name: str, shipped: Callable[[], Path]) -> Line:
    try:
        return ("ok", f"{name}: came with anyphoto, {_home(shipped())}", "")
    except EnvironmentFault as fault:
        return ("broken", f"{name}: {fault}", "Install anyphoto again")


def _terms() -> list[Line]:
    lines: list[Line] = [
        (
            "note",
            "There is no public AnyPhoto checkpoint: without one you trained, pictures carry no trained identity",
            "",
        )
    ]
    lines += [("note", f"{name}: {find('bases', name).licence}", "") for name in names("bases")]
    return lines + [("note", text, "") for text in FACE_TERMS]


def _memory() -> list[Line]:
    import torch

    from anyphoto_cli.model.memory import EXPLAINED, FLUX_NEEDS_GB

    there = _total_memory_gb()
    text = f"main memory: {MAIN_MEMORY_GB:.0f} GB for its weights in bfloat16, in every mode but nf4"
    main: Line = ("note", f"{text}; {there:.0f} GB here", "") if there < MAIN_MEMORY_GB else ("ok", text, "")
    free = max((torch.cuda.mem_get_info(i)[0] / 1e9 for i in range(torch.cuda.device_count())), default=None)
    lines: list[Line] = [
        ("note", "FLUX.1 at 1024x1024 on a GPU; computed from parameter counts, not measured", ""),
        main,
    ]
    for mode, need in FLUX_NEEDS_GB.items():
        verdict = "" if free is None else (", fits here" if need <= free else ", does not fit here")
        lines.append(("ok" if free is not None and need <= free else "note",
                      f"--memory {mode}: about {need:.0f} GB{verdict}; {EXPLAINED[mode]}", ""))  # fmt: skip
    return lines


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _home(path: Path) -> str:
    """A path without the user's name in it."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)


_SECTIONS: dict[str, Callable[[], list[Any]]] = {
    "Packages": _packages,
    "Devices": _devices,
    "Face models": _face_models,
    "Base models": _models,
    "Memory": _memory,
    "Terms (not legal advice)": _terms,
}
