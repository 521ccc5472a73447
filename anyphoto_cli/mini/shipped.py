"""The trained models that come with the package: where they lie, and that they are whole."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.seams import Base

WEIGHTS = Path(__file__).parent / "weights"
FACES = WEIGHTS / "faces" / "mini"
"""The face pack: a pack is called what its folder is called."""
SUMS = "SHA256SUMS"


def base_folder() -> Path:
    """The diffusers folder of the base; stock `FluxPipeline.from_pretrained` opens it, too."""
    return whole("base")


def adapter_folder() -> Path | None:
    """The AnyPhoto adapter that came with the base; None where none did."""
    return whole("adapter", WEIGHTS) if any(name.startswith("adapter/") for name, _ in _listed(WEIGHTS)) else None


def face_pack_folder() -> Path:
    """The insightface pack: detector and recogniser of drawn faces."""
    whole("faces")
    return FACES


def person_detector() -> Path:
    """The YOLO-format ONNX file that finds drawn people."""
    return whole("persons") / "yolo_mini.onnx"


def probe_file() -> Path:
    """The ONNX file that reads scene and style off a picture."""
    return whole("probe") / "probe.onnx"


def fingerprint(weights: Path = WEIGHTS) -> str:
    """12 hex digits of all models but the adapter: what scores of another adapter on this base rest on."""
    kept = [f"{digest}  {name}\n" for name, digest in _listed(weights) if not name.startswith("adapter/")]
    return sha256("".join(kept).encode()).hexdigest()[:12]


@lru_cache(maxsize=8)
def whole(part: str, weights: Path = WEIGHTS) -> Path:
    """`weights`/`part` after every file in it has been compared with SHA256SUMS.

    Raises EnvironmentFault for a missing or changed file.
    """
    own = [(weights / name, digest) for name, digest in _listed(weights) if name.startswith(f"{part}/")]
    if not own:
        raise _spoilt("is damaged", weights / SUMS)
    for file, digest in own:
        if not file.is_file():
            raise _spoilt("is missing", file)
        if sha256_of(file) != digest:
            raise _spoilt("is damaged", file)
    return weights / part


def _listed(weights: Path) -> list[tuple[str, str]]:
    """(name, its sha256) of every file that came with the package. Raises EnvironmentFault where the list did not."""
    file = weights / SUMS
    if not file.is_file():
        raise _spoilt("is missing", file)
    rows = [line.partition("  ") for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [(name, digest) for digest, _, name in rows]


def _spoilt(what: str, file: Path) -> EnvironmentFault:
    return EnvironmentFault(f"{what}: it came with the package", file=file, remedy="Install anyphoto again")


def write_sums(folder: Path = WEIGHTS) -> None:
    """SHA256SUMS over all weights and configs, in the form that `sha256sum -c` reads."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.parent != folder)
    lines = [f"{sha256_of(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / SUMS).write_text("".join(lines))


MINI = Base(
    name="mini",
    source="anyphoto-mini",
    shipped=base_folder,
    face_pack="mini",
    steps=20,
    sides=(128, 192),
    tallest=128,
    guidance=(1.0, 7.0),
    adapter=adapter_folder,
    licence="anyphoto-mini: Apache-2.0, trained on drawn pictures only; it comes with anyphoto",
    note="anyphoto-mini draws people that a program invented, 128 px high. For photos of real people: "
    "--model black-forest-labs/FLUX.1-dev on a GPU.",
)
