"""`make mini`: train all models of the small world, in turn; each stage goes on where it stopped.

python -m anyphoto_cli.mini.pretrain [--folder .mini] [--stages vae,detector,...] [--minutes 10] [--device cuda]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyphoto_cli.errors import InputError
from anyphoto_cli.mini.command_line import ended_in_a_line, refuse_below
from anyphoto_cli.mini.pretrain.latents import latents_left
from anyphoto_cli.mini.pretrain.loop import STEPS, Unfinished, checkpoint_of, left_of, spawn
from anyphoto_cli.mini.pretrain.phases import BASE, RECOGNISER, UNGUIDED, VAE, last_begun
from anyphoto_cli.mini.shipped import FACES, WEIGHTS, write_sums
from anyphoto_cli.runtime.signals import terminate_as_exception


@dataclass(frozen=True)
class Stage:
    """run: (folder, minutes, device). parallel: whether several processes share the work. checkpoint: of its run, below
    the folder, without .pt; "": what it does is done at once, or told by itself. needs: checkpoints that it goes on
    from; one of each group will do.
    """

    run: Callable[[Path, float | None, str], None]
    parallel: bool
    checkpoint: str = ""
    unit: str = "step"
    needs: tuple[tuple[str, ...], ...] = ()

    def refuse_without(self, folder: Path) -> None:
        """Raises InputError for the first of `needs` that is not there."""
        for names in self.needs:
            checkpoint_of(folder, last_begun(folder, *names))

    def left(self, folder: Path) -> tuple[int, int] | None:
        """(done, asked for) where it was cut off."""
        if self.unit == CHUNK:
            return latents_left(folder)
        return left_of(folder / f"{self.checkpoint}.pt") if self.checkpoint else None


CHUNK = "chunk"


def main() -> None:
    """Parse, then train stage by stage."""
    parser = argparse.ArgumentParser(
        prog="make mini", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(".mini"), help="checkpoints, logs and caches")
    parser.add_argument(
        "--stages", default=",".join(STAGES), help=f"default: {','.join(STAGES)}; also: {','.join(ASKED_FOR)}"
    )
    parser.add_argument("--minutes", type=float, help="stop each stage, saved, after that long")
    parser.add_argument("--processes", type=int, default=0, help="default: one a core, or one on a GPU")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or mps; auto: what there is")
    parser.add_argument("--steps", type=int, help="of refine, base, flow, guidance and adapter, for a machine "
                        "without days: the learning rate falls to nothing towards that step")  # fmt: skip
    given = parser.parse_args()
    with ended_in_a_line():
        _run(_known(given.stages), given)


def _run(names: Sequence[str], given: argparse.Namespace) -> None:
    """Raises InputError for an option out of its range or a stage that lacks what it goes on from, Unfinished for one
    that was cut off.
    """
    from anyphoto_cli.model.memory import pick_device

    refuse_below(1, "--steps", given.steps)
    refuse_below(0, "--processes", given.processes)
    refuse_below(0, "--minutes", given.minutes)
    device = str(pick_device(given.device))
    if given.steps is not None:
        os.environ[STEPS] = str(given.steps)  # spawned processes inherit it
    processes = 1 if device != "cpu" else given.processes
    for name in names:
        print(f"-- {name}", flush=True)
        stage = (STAGES | ASKED_FOR)[name]
        stage.refuse_without(given.folder)
        spawn(stage.run, given.folder, given.minutes, device, processes=processes if stage.parallel else 1)
        if left := stage.left(given.folder):
            what = f"{stage.unit} {left[0]} of {left[1]}"
            raise Unfinished(what, field=name, remedy="Run again to go on")


def _known(text: str) -> list[str]:
    """Raises InputError for a name that is no stage's."""
    names = text.split(",")
    if unknown := [name for name in names if name not in STAGES | ASKED_FOR]:
        stages = ", ".join(STAGES | ASKED_FOR)
        raise InputError(f"{unknown[0]!r} is no stage", field="--stages", remedy=f"Stages: {stages}")
    return names


def _vae(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.vae import train_vae

    train_vae(folder, minutes, device)


def _refine(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.refine import refine_vae

    refine_vae(folder, FACES / "w_mini.onnx", minutes, device)


def _latents(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.export import trained_vae
    from anyphoto_cli.mini.pretrain.latents import prepare_latents

    prepare_latents(folder, trained_vae(folder), device, minutes=minutes)


def _base(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.base import train_base

    train_base(folder, minutes, device)


def _text(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.reading import train_reading

    train_reading(folder, minutes, device)


def _adopt(folder: Path, minutes: float | None, device: str) -> None:
    """The shipped VAE and base as checkpoints, so that their training goes on where somebody else's ended."""
    from anyphoto_cli.mini.pretrain.adopt import adopt_shipped

    adopt_shipped(folder)


def _steady(folder: Path, minutes: float | None, device: str) -> None:
    """The shipped recogniser, trained on to know faces that the VAE has encoded and decoded."""
    from anyphoto_cli.mini.pretrain.face_steady import steady_recogniser
    from anyphoto_cli.mini.pretrain.refine import trained_vae_parts

    steady_recogniser(folder / "steady", FACES / "w_mini.onnx", trained_vae_parts(folder), minutes, device)
    write_sums()


def _point(folder: Path, minutes: float | None, device: str) -> None:
    """The shipped face detector, trained on: its landmarks."""
    from anyphoto_cli.mini.pretrain.face_point import point_detector

    point_detector(folder / "point", FACES / "det_mini.onnx", minutes, device)
    write_sums()


def _polish(folder: Path, minutes: float | None, device: str) -> None:
    """The VAE's decoder, trained on with the recogniser looking on."""
    from anyphoto_cli.mini.pretrain.refine import polish_vae

    polish_vae(folder, FACES / "w_mini.onnx", minutes, device)


def _guidance(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.base import distil_guidance

    distil_guidance(folder, minutes, device)


def _flow(folder: Path, minutes: float | None, device: str) -> None:
    """Flow matching, for a base that guidance was distilled into."""
    from anyphoto_cli.mini.pretrain.base import train_flow

    train_flow(folder, minutes, device)


def _heed(folder: Path, minutes: float | None, device: str) -> None:
    """Guidance as it was distilled, acted on more for the number told."""
    from anyphoto_cli.mini.pretrain.heed import heed_more

    heed_more(folder)


def _detector(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.face_detector import train_detector

    train_detector(folder / "faces", minutes, device)


def _recogniser(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.face_recogniser import train_recogniser

    train_recogniser(folder / "faces", minutes, device)


def _settle(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.face_settle import settle_recogniser
    from anyphoto_cli.mini.pretrain.refine import trained_vae_parts

    settle_recogniser(folder / "faces", trained_vae_parts(folder), minutes, device)


def _persons(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.persons import train_persons

    train_persons(folder, minutes, device)


def _probe(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.probe import train_probe

    train_probe(folder, minutes, device)


def _adapter(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.adapter import train_adapter

    with terminate_as_exception():  # the command under way would go on alone
        train_adapter(folder, device, minutes=minutes)


def _export(folder: Path, minutes: float | None, device: str) -> None:
    """Everything that was trained in `folder` -> anyphoto_cli/mini/weights, with its checksums.

    Raises InputError, before anything is written, where something of it was cut off.
    """
    from anyphoto_cli.mini.pretrain.export import export_base
    from anyphoto_cli.mini.pretrain.faces import export_face_pack
    from anyphoto_cli.mini.pretrain.persons import export_persons
    from anyphoto_cli.mini.pretrain.probe import export_probe

    for names in EXPORTED:
        file = folder / f"{last_begun(folder, *names)}.pt"
        if left := left_of(file):
            raise InputError(f"was cut off at step {left[0]} of {left[1]}", file=file, remedy="Finish its stage first")
    if (folder / "faces").is_dir():
        export_face_pack(folder / "faces", FACES)
    if (folder / "persons.pt").is_file():
        export_persons(folder, WEIGHTS / "persons" / "yolo_mini.onnx")
    if (folder / "probe.pt").is_file():
        export_probe(folder, WEIGHTS / "probe" / "probe.onnx")
    if (folder / "base.pt").is_file():
        export_base(folder, WEIGHTS / "base")
    write_sums()


def _export_adapter(folder: Path, minutes: float | None, device: str) -> None:
    from anyphoto_cli.mini.pretrain.adapter import export_adapter

    export_adapter(folder, WEIGHTS / "adapter")
    write_sums()


_RECOGNISER = tuple(f"faces/{name}" for name in RECOGNISER)
EXPORTED = (VAE, BASE, ("faces/face-detector",), _RECOGNISER, ("persons",), ("probe",))
"""Checkpoints that `export` goes by, of each model the last phase that was begun."""
STAGES = {
    "vae": Stage(_vae, True, "vae"),
    "detector": Stage(_detector, False, "faces/face-detector"),
    "recogniser": Stage(_recogniser, False, "faces/face-recogniser"),
    "persons": Stage(_persons, False, "persons"),
    "refine": Stage(_refine, True, "refined", needs=(("vae",),)),
    "probe": Stage(_probe, False, "probe", needs=(VAE,)),
    "settle": Stage(_settle, True, "faces/face-settled", needs=(VAE, _RECOGNISER[-1:])),
    "text": Stage(_text, True, "text"),
    "latents": Stage(_latents, True, unit=CHUNK, needs=(VAE,)),
    "base": Stage(_base, True, "base"),
    "guidance": Stage(_guidance, True, "guided", needs=(UNGUIDED,)),
    "export": Stage(_export, False),
    "adapter": Stage(_adapter, False),
    "export-adapter": Stage(_export_adapter, False),
}
"""What `make mini` runs, in this order. The adapter is trained on what was exported before, by commands that look for
it there.
"""
ASKED_FOR = {
    "adopt": Stage(_adopt, False),
    "steady": Stage(_steady, False, "steady/face-steady", needs=(VAE,)),
    "point": Stage(_point, False, "point/face-point"),
    "polish": Stage(_polish, False, "polished", needs=(VAE,)),
    "flow": Stage(_flow, True, "flow", needs=(("base",),)),
    "heed": Stage(_heed, False, needs=(("guided",),)),
}
"""Only where named: `--stages adopt,latents,flow,guidance,heed,export` trains the shipped base on,
`--stages adopt,steady,polish,export` the shipped recogniser and the VAE's decoder.
"""
