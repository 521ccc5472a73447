"""Names to objects: built-in ones here, others through entry points named `anyphoto.<seam>`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from anyphoto_cli.errors import InputError

BUILT_IN: dict[str, dict[str, str]] = {
    "bases": {
        "mini": "anyphoto_cli.mini.shipped:MINI",
        "tiny-random": "anyphoto_cli.model.bases:TINY_RANDOM",
        "flux-dev": "anyphoto_cli.model.bases:FLUX_DEV",
        "flux-schnell": "anyphoto_cli.model.bases:FLUX_SCHNELL",
    },
    # The pipeline class that a folder's model_index.json names -> ours.
    "backbones": {
        "FluxPipeline": "anyphoto_cli.model.pipeline:AnyPhotoPipeline",
        "AnyPhotoPipeline": "anyphoto_cli.model.pipeline:AnyPhotoPipeline",
    },
    # Face packs by name -> a function that gives their folder, or a `FaceAnalyzer`.
    "face_packs": {
        "mini": "anyphoto_cli.mini.shipped:face_pack_folder",
        "tiny-random": "anyphoto_cli.faces.tiny_pack:tiny_pack_folder",
        "facenet": "anyphoto_cli.faces.facenet:open_facenet",
        "adaface": "anyphoto_cli.faces.adaface:open_adaface",
    },
    # Person detectors by name -> a function that gives their .onnx, or a `PersonDetector`.
    "person_models": {
        "mini": "anyphoto_cli.mini.shipped:person_detector",
    },
    # Names for --captioner -> a function of (PreprocessConfig) that gives a Captioner.
    "captioners": {
        "vllm": "anyphoto_cli.preprocess.captioners.vllm:open_captioner",
        "openai": "anyphoto_cli.preprocess.captioners.openai:open_captioner",
        "template": "anyphoto_cli.preprocess.captioners.template:open_captioner",
        "file": "anyphoto_cli.preprocess.captioners.file:open_captioner",
        "none": "anyphoto_cli.preprocess.captioners.none:open_captioner",
    },
    # Names for `bench run --system` -> a function of (RunConfig, worker) that gives a System.
    "systems": {
        "anyphoto": "anyphoto_cli.bench.systems.anyphoto:AnyPhoto",
        "flux": "anyphoto_cli.bench.systems.flux:Flux",
        "flux-kontext": "anyphoto_cli.bench.systems.flux_kontext:FluxKontext",
        "qwen-image-edit": "anyphoto_cli.bench.systems.qwen_image_edit:QwenImageEdit",
        "omnigen": "anyphoto_cli.bench.systems.omnigen:OmniGen",
    },
    # What kind of face pack a folder holds -> the class that reads it.
    "faces": {
        "insightface": "anyphoto_cli.faces.insightface_pack:InsightFacePack",
        "recogniser-only": "anyphoto_cli.faces.recogniser_only:RecogniserOnly",
    },
}
DEFAULT_BASE = "mini"


def names(seam: str) -> list[str]:
    """Every name known for a seam, built-in ones first."""
    plugged = [point.name for point in entry_points(group=f"anyphoto.{seam}")]
    return list(dict.fromkeys([*BUILT_IN[seam], *plugged]))


def find(seam: str, name: str) -> Any:
    """The object behind a name. Raises InputError, listing the names there are."""
    if name in BUILT_IN[seam]:
        module, _, attribute = BUILT_IN[seam][name].partition(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group=f"anyphoto.{seam}", name=name):
        return point.load()
    raise InputError(f"{name!r} is not a known name", field=seam, remedy=f"Known: {', '.join(names(seam))}")
