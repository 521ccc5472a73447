"""`make mini`, a piece at a time: what was cut off is said and gone on with, and nothing half-trained is shipped."""

import sys

import pytest
import torch
from torch import nn

from anyphoto_cli.errors import InputError
from anyphoto_cli.mini import commands
from anyphoto_cli.mini.pretrain import adapter, face_steady, stages
from anyphoto_cli.mini.pretrain.face_detector import FaceDetector
from anyphoto_cli.mini.pretrain.latents import chunk_file, latents_left, prepare_latents
from anyphoto_cli.mini.pretrain.loop import Schedule, Unfinished, begin_with, fit, left_of, progress_of


def train(folder, minutes=None, device="cpu", name="base", steps=5):
    def loss(model, numbers, step):
        return {"loss": model(torch.ones(1, 2)).square().mean()}

    return fit(name, nn.Linear(2, 1), loss, Schedule(steps=steps, batch=1, lr=0.01), folder, minutes=minutes)


def make_mini(monkeypatch, *words):
    """Exit code of the command."""
    monkeypatch.setattr("sys.argv", ["x", "--processes", "1", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        stages.main()
        sys.exit(0)
    return ended.value.code


def test_a_stage_that_is_cut_off_ends_it_with_one_line_and_goes_on_the_next_time(tmp_path, monkeypatch, capsys):
    exported = []
    monkeypatch.setitem(stages.STAGES, "base", stages.Stage(train, True, "base"))
    monkeypatch.setitem(stages.STAGES, "export", stages.Stage(lambda *given: exported.append(given), False))
    asked = ("--folder", tmp_path, "--stages", "base,export")
    assert make_mini(monkeypatch, *asked, "--minutes", "0") == 3
    assert capsys.readouterr().err == "base: step 1 of 5. Run again to go on\n" and not exported
    assert make_mini(monkeypatch, *asked) == 0 and len(exported) == 1 and progress_of(tmp_path, "base") == 5


def test_export_refuses_what_was_cut_off_before_it_writes_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(stages, "FACES", tmp_path / "weights" / "faces")
    begin_with(tmp_path, "base", nn.Linear(2, 1))
    train(tmp_path, name="guided", minutes=0)
    assert make_mini(monkeypatch, "--folder", tmp_path, "--stages", "export") == 2
    assert capsys.readouterr().err == (
        f"Error: {tmp_path}/guided.pt: was cut off at step 1 of 5. Finish its stage first\n"
    )
    assert not (tmp_path / "weights").exists()
    train(tmp_path, name="guided", steps=1)  # fewer steps asked for: it is through where it is
    assert left_of(tmp_path / "guided.pt") is None and progress_of(tmp_path, "guided") == 1


def test_checkpoints_of_before_steps_were_written_down_count_as_through(tmp_path):
    torch.save({"step": 3, "model": {}, "optimiser": [], "average": []}, tmp_path / "old.pt")
    assert left_of(tmp_path / "old.pt") is None and left_of(tmp_path / "none.pt") is None


def test_a_stage_that_is_none_is_refused_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(stages.STAGES, "vae", stages.Stage(lambda folder, *_: folder.mkdir(), False))
    assert make_mini(monkeypatch, "--folder", tmp_path / "f", "--stages", "vae,bass") == 2
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("Error: --stages: 'bass' is no stage. Stages: vae, detector") and "heed" in said
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--stages", "guidance"), "Error: f/base.pt: is not there. Run the stage first that makes it"),
        (("--stages", "settle"), "Error: f/vae.pt: is not there. Run the stage first that makes it"),
        (("--stages", "export-adapter"), "Error: f/adapter: no adapter was trained here. First: --stages adapter"),
        (("--steps", 0), "Error: --steps: 0 is not 1 or more"),
        (("--minutes", -1), "Error: --minutes: -1.0 is not 0 or more"),
        (("--device", "gpu"), "Error: --device: 'gpu' is no device. Known: auto, cpu, cuda, cuda:1, mps"),
        (("--device", "cuda:99"), "Error: --device: this machine has no cuda:99. See: anyphoto doctor"),
        (("--processes", -1), "Error: --processes: -1 is not 0 or more"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_any_process_starts(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    assert make_mini(monkeypatch, "--processes", "2", "--folder", "f", *words) == 2
    assert capsys.readouterr().err == f"{line}\n" and not list(tmp_path.iterdir())


def test_ctrl_c_ends_it_with_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(stages.STAGES, "vae", stages.Stage(interrupted, False))
    assert make_mini(monkeypatch, "--folder", tmp_path, "--stages", "vae") == 130
    assert capsys.readouterr().err == "Interrupted. What is finished is kept; run the same command to go on\n"


def test_a_face_pack_of_which_a_half_is_missing_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "FACES", tmp_path / "faces_that_ship")
    begin_with(tmp_path / "faces", "face-detector", FaceDetector())
    assert make_mini(monkeypatch, "--folder", tmp_path, "--stages", "export") == 2
    assert "faces/face-recogniser.pt: is not there" in capsys.readouterr().err
    assert not (tmp_path / "faces_that_ship").exists()


def test_latents_stop_in_time_and_say_what_is_left(tmp_path):
    prepare_latents(tmp_path, nn.Identity(), minutes=-1, chunks=3)
    assert latents_left(tmp_path, 3) == (0, 3)
    for chunk in range(3):
        assert latents_left(tmp_path, 3) == (chunk, 3)
        chunk_file(tmp_path, chunk).touch()
    assert latents_left(tmp_path, 3) is None and stages.STAGES["latents"].left(tmp_path) == (3, 32)


def test_latents_of_another_vae_are_not_mixed_with_those_of_this_one(tmp_path, capsys):
    vae, other = nn.Linear(2, 2), nn.Linear(2, 2)
    for vae_now, kept in ((vae, False), (vae, True), (other, False), (vae, False)):
        prepare_latents(tmp_path, vae_now, minutes=-1, chunks=3)
        assert chunk_file(tmp_path, 1).is_file() == kept
        chunk_file(tmp_path, 1).touch()
    said = capsys.readouterr().out.splitlines()
    assert said == ["Latents of another VAE or renderer are removed (1 of their files)"] * 2


def test_the_adapter_s_commands_end_in_time_and_it_is_not_exported_so(tmp_path, monkeypatch):
    real = commands.Popen
    monkeypatch.setattr(commands, "Popen", lambda words, **more: real(["sleep", "60"], **more))
    with pytest.raises(Unfinished, match=r"adapter: cut off in `anyphoto mini`. Run again to go on"):
        adapter.train_adapter(tmp_path, processes=1, minutes=0.001)
    with pytest.raises(InputError, match="its training was cut off. Finish it first: --stages adapter"):
        adapter.export_adapter(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recogniser_that_is_not_steady_yet_stays_out_of_its_file(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(face_steady, "drawn_pictures", lambda *_: None)
    monkeypatch.setattr(face_steady, "decoded_pictures", lambda *_: None)
    monkeypatch.setattr(face_steady, "_Pairs", lambda *_: None)
    monkeypatch.setattr(face_steady, "load_recogniser", lambda file: nn.Identity())
    monkeypatch.setattr(face_steady, "Trainable", lambda net: net)
    monkeypatch.setattr(face_steady, "fit", lambda *_, **__: None)
    monkeypatch.setattr(face_steady, "write_back", lambda *_: written.append(1))
    monkeypatch.setattr(face_steady, "progress_of", lambda *_: face_steady.SCHEDULE.steps - 1)
    face_steady.steady_recogniser(tmp_path, tmp_path / "w.onnx", None)
    assert not written
    monkeypatch.setattr(face_steady, "progress_of", lambda *_: face_steady.SCHEDULE.steps)
    face_steady.steady_recogniser(tmp_path, tmp_path / "w.onnx", None)
    assert written
