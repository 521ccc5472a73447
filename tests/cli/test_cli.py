"""The command line: exit codes, one-line errors, JSON, start-up, signals."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from PIL import Image

from anyphoto_cli import __version__
from anyphoto_cli.cli import console
from anyphoto_cli.cli.default_group import default_group
from anyphoto_cli.cli.exits import exit_code_of
from anyphoto_cli.errors import one_line
from tests.conftest import ROOT, small_layout

HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "onnxruntime",
    "insightface",
    "onnx",
    "cv2",
    "scipy",
}


def modules_after(*arguments: str, cwd=None) -> tuple[set[str], subprocess.CompletedProcess]:
    """Top-level modules that a command line imports, in a process of its own."""
    program = (
        "import sys, atexit; atexit.register(lambda: print('\\n@', *sys.modules, file=sys.stderr));"
        "from anyphoto_cli.cli.app import main; main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=cwd)
    listed = done.stderr.rsplit("\n@", 1)[1].split()
    return {name.split(".")[0] for name in listed}, done


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"], ["layout", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    loaded, done = modules_after(*arguments)
    assert done.returncode == 0
    assert not loaded & (HEAVY | {"numpy", "PIL"})
    if len(arguments) == 1:
        assert not loaded & {"pydantic", "ruamel", "platformdirs", "huggingface_hub"}


def test_layout_check_imports_no_torch_and_says_it_did_not_look(layout_file):
    loaded, done = modules_after("layout", "check", str(layout_file))
    assert done.returncode == 0 and not loaded & HEAVY
    assert done.stdout.endswith("trip.json: good, 2 people, 128x128\n")


def test_bad_layout_is_refused_before_torch(tmp_path):
    loaded, done = modules_after("generate", str(small_layout(tmp_path, width=100)), "-o", str(tmp_path / "out"))
    assert done.returncode == 2 and not loaded & HEAVY
    assert done.stderr.startswith("Error: trip.json: width: must be a multiple of 16\n")
    assert not (tmp_path / "out").exists()


def test_version_and_help(run):
    assert run("--version")[:2] == (0, f"anyphoto {__version__}\n")
    code, out, _ = run("--help")
    assert code == 0 and all(name in out for name in ("generate", "layout", "doctor"))
    code, out, _ = run("generate", "--help")
    assert code == 0 and "--adapter" in out and "anyphoto generate examples/three_friends.json" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["generat"], "Did you mean 'generate'"),
        (["generate", "x.json", "--seeed", "1"], "--seed"),
        (["generate", "x.json", "--seed", "-1"], "Error: --seed: -1: input should be greater than or equal to 0"),
        (["generate", "x.json", "--memory", "huge"], "Error: --memory: 'huge'"),
        (["generate", "x.json", "--seed", "one"], "--seed"),
        (["generate", "nowhere.json"], "Error: nowhere.json: no such file"),
        (["generate", "-o", "out"], "Error: LAYOUT: name a layout file or a folder"),
        (["layout", "chek", "x.json"], "Did you mean 'check'?"),
        (["layout", "check"], "LAYOUT.json"),
        (["layout", "nowhere.json"], "Error: nowhere.json: no such file"),
        (["generate", "--from", "nowhere.png"], "Error: nowhere.png: no such file"),
        (["generate", "--from", "x.png", "--seed", "3"], "Error: --from: takes no --seed beside it"),
        (["generate", "x.json", "--adapter", ""], "Error: --adapter"),
        (["layout", "preview", "nowhere.json", "-o", "x.png"], "Error: nowhere.json: no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, arguments, words):
    code, out, err = run(*arguments)
    assert code == 2 and words in err and out == ""
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_errors_as_json(run, tmp_path):
    code, out, err = run("layout", "check", small_layout(tmp_path, width=100), "--json")
    assert code == 2 and err == ""
    assert json.loads(out)["error"] == {
        "code": 2,
        "message": "trip.json: width: must be a multiple of 16",
        "file": "trip.json",
        "field": "width",
    }
    assert json.loads(run("generate", "--nonsense", "--json")[1])["error"]["code"] == 2


def test_model_and_device_mistakes(run, layout_file, tmp_path):
    for option, value, words in (
        ("--model", "flux-prod", "is no model. Known: mini, tiny-random, flux-dev"),
        ("--device", "cuda:7", "this machine has no cuda:7"),
        ("--adapter", "./nothing", "no such folder"),
        ("--face-pack", "./nothing", "no such folder"),
        ("--memory", "offload", "offload needs a GPU"),
        ("--refs-root", tmp_path / "none", "no such folder"),
    ):
        code, _, err = run("generate", layout_file, "-o", tmp_path / "out", option, value, "-q")
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err
        assert run("generate", layout_file, "-o", tmp_path / "out", option, value, "-q", "--dry-run")[0] == 2
    code, _, err = run("generate", layout_file, "-o", tmp_path / "out", "--retry-until", 5)
    assert code == 2 and "--retry-until: 5.0: input should be less" in err
    code, _, err = run("generate", layout_file, "--model", "flux-dev", "--face-pack", "tiny-random", "-q")
    assert code == 1 and "not on this machine and could not be downloaded" in err


def test_check_preview_schema(run, layout_file, tmp_path):
    code, out, err = run("layout", layout_file)  # `check` is the default
    assert code == 0 and "ana: patch 0,32 - 64,96, 16 tokens" in out and err == ""
    document = json.loads(run("layout", "check", layout_file, "--json")[1])
    assert [face["tokens"] for face in document["faces"]] == [16, 16] and not document["looked_for_faces"]
    code, out, _ = run("layout", "preview", layout_file, "-o", tmp_path / "p.png")
    assert code == 0 and out.strip() == str(tmp_path / "p.png") and (tmp_path / "p.png").stat().st_size > 1000
    before = (layout_file.read_bytes(), (tmp_path / "ana.png").read_bytes())
    for target in (layout_file, tmp_path / "ana.png", tmp_path, "/dev/null"):
        code, _, err = run("layout", "preview", layout_file, "-o", target)
        assert code == 2 and "--out" in err
    assert before == (layout_file.read_bytes(), (tmp_path / "ana.png").read_bytes())
    assert json.loads(run("layout", "schema")[1])["title"] == "anyphoto layout"


def test_check_looks_for_faces_where_a_pack_is_named(run, photos, face_pack_folder, tmp_path):
    file = small_layout(tmp_path)
    value = json.loads(file.read_text())
    for face in value["faces"]:
        del face["reference_landmarks"]
    file.write_text(json.dumps(value))
    assert "Did not look for faces" in run("layout", "check", file)[2]
    shutil.copy(photos / "refs" / "obama" / "obama.jpg", tmp_path / "ana.png")
    code, _, err = run("layout", "check", file, "--face-pack", face_pack_folder)
    assert code == 2 and err.startswith("Error: trip.json: faces[1].reference: ben.png: mbf512_scrfd2.5g found no face")
    shutil.copy(photos / "refs" / "biden" / "biden.jpg", tmp_path / "ben.png")
    assert run("layout", "check", file, "--face-pack", face_pack_folder)[0] == 0
    shutil.copy(photos / "groups" / "obama_and_biden.jpg", tmp_path / "ben.png")
    code, _, err = run("layout", "check", file, "--face-pack", face_pack_folder)
    assert code == 0 and "trip.json: faces[1].reference: ben.png: face at" in err and "the largest of" in err
    told = json.loads(run("layout", "check", file, "--face-pack", face_pack_folder, "--json")[1])["warnings"]
    assert [one["field"] for one in told] == ["faces[1].reference"]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["generate", "", "-o", "x"], "arguments"), (["preprocess", "photos", "--refs", "", "-o", "x"], "--refs"),
        (["layout", "arrange", "a.png", "-o", ""], "-o"), (["generate", "a.json", "--out="], "--out"),
    ],
)  # fmt: skip
def test_an_empty_word_is_no_path(run, tmp_path, monkeypatch, words, where):
    """$OUT without a value: as a path it would be the current folder."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert (code, out) == (
        2,
        "",
    ) and err == f"Error: {where}: an empty word is no value. Has a shell variable no value?\n"
    assert not list(tmp_path.iterdir())


def test_a_prompt_may_be_empty(run, tmp_path):
    shutil.copy(ROOT / "examples" / "drawn_people" / "mia.png", tmp_path / "mia.png")
    for prompt in (["--prompt", ""], ["--prompt="]):
        code, _, err = run(
            "layout", "arrange", tmp_path / "mia.png", *prompt, "-o", tmp_path / "new.json", "--overwrite"
        )
        assert (code, err) == (0, "")


def test_check_looks_for_faces_where_antelopev2_is_installed(run, face_pack_folder, tmp_path, monkeypatch):
    """insightface keeps packs in ~/.insightface/models, and antelopev2's zip nests a folder in its folder."""
    nested = tmp_path / "home" / ".insightface" / "models" / "antelopev2" / "antelopev2"
    nested.mkdir(parents=True)
    for file in face_pack_folder.glob("*.onnx"):
        (nested / file.name).symlink_to(file)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = small_layout(tmp_path)
    assert run("layout", "check", file)[0] == 0  # every landmark is given: nothing to look for
    value = json.loads(file.read_text())
    del value["faces"][1]["reference_landmarks"]
    file.write_text(json.dumps(value))
    code, _, err = run("layout", "check", file)
    assert code == 2 and "faces[1].reference: ben.png: antelopev2 found no face" in err


def test_generate_json_and_skips(run, tmp_path, monkeypatch):
    small_layout(tmp_path, "a.json")
    small_layout(tmp_path, "b.json", prompt=7)
    out = tmp_path / "out"
    code, printed, err = run("generate", tmp_path, "-o", out, "--keep-going", "--json")
    document = json.loads(printed)
    assert code == 3 and document["refused"] == ["b.json: prompt: must be text"]
    assert [p["path"] for p in document["pictures"]] == [str(out / "a_seed0.png")]
    assert "left out: b.json" in err
    [told] = document["warnings"]
    assert document["adapter"] is None and "no trained identity" in told and f"Warning: {told}" in err
    monkeypatch.setenv("ANYPHOTO_GENERATE_STEPS", "9")  # a default for layouts: the record knows better
    monkeypatch.setenv("ANYPHOTO_GENERATE_MODEL", "flux-dev")  # a default; what the picture says of itself comes first
    monkeypatch.setenv("ANYPHOTO_FACE_PACK", "./nowhere")
    code, printed, _ = run("generate", "--from", out / "a_seed0.png", "--json")
    assert code == 0 and json.loads(printed)["identical"] is True
    monkeypatch.delenv("ANYPHOTO_GENERATE_MODEL")
    monkeypatch.delenv("ANYPHOTO_FACE_PACK")
    code, printed, _ = run("generate", tmp_path / "a.json", "-o", tmp_path / "dry", "--dry-run")
    assert code == 0 and "not rendered: dry run" in printed and not (tmp_path / "dry").exists()


def test_doctor_reports_and_is_healthy(run):
    code, out, _ = run("doctor", "--json")
    document = json.loads(out)
    assert code == 0 and document["healthy"]
    text = json.dumps(document)
    for words in ("CPUExecutionProvider", "non-commercial research only", "Non-Commercial License", "--memory nf4",
                  "no public AnyPhoto checkpoint", "hf auth login"):  # fmt: skip
        assert words in text
    assert {f["section"] for f in document["findings"]} >= {
        "Packages",
        "Devices",
        "Face models",
        "Base models",
        "Memory",
    }
    assert "\x1b[" not in run("doctor")[1]


def test_doctor_sees_half_a_download_and_a_gpu_that_is_not_used(tmp_path, monkeypatch):
    from anyphoto_cli import doctor

    kinds = {"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL", "tokenizer": "CLIPTokenizer"}
    index = {"_class_name": "FluxPipeline"} | {name: ["diffusers", kind] for name, kind in kinds.items()}
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}))
    assert doctor.lacking_weights(tmp_path) == ["transformer", "vae"]
    for name in ("transformer", "vae"):
        (tmp_path / name).mkdir()
    parts = [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    told = {"weight_map": {"a": parts[0], "b": parts[1]}}
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(told))
    (tmp_path / "transformer" / parts[0]).touch()
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").touch()
    assert doctor.lacking_weights(tmp_path) == ["transformer"]
    (tmp_path / "transformer" / parts[1]).touch()
    assert doctor.lacking_weights(tmp_path) == []
    monkeypatch.setattr(doctor, "_version", lambda name: "1.22" if name == "onnxruntime-gpu" else None)
    assert doctor._provider("cuda", "CPUExecutionProvider")[0] == "broken"
    assert doctor._provider("cuda", "CUDAExecutionProvider")[0] == doctor._provider("cpu", "CPU")[0] == "ok"


def test_a_group_has_a_default_and_sub_commands(capsys):
    """`anyphoto train run.yaml` and `anyphoto train init` must both work, once there is a train."""
    import typer

    app = default_group("run", "Train.")
    done = []

    @app.command()
    def run(config: str, overrides: list[str] = typer.Argument(None)) -> None:  # noqa: B008
        done.append(("run", config, tuple(overrides or ())))

    @app.command()
    def init(out: str = "train.yaml") -> None:
        done.append(("init", out))

    for arguments in (["run.yaml", "seed=3"], ["init"], ["run", "init.yaml"], ["init", "--out", "x.yaml"]):
        app(arguments, standalone_mode=False)
    assert done == [
        ("run", "run.yaml", ("seed=3",)),
        ("init", "train.yaml"),
        ("run", "init.yaml", ()),
        ("init", "x.yaml"),
    ]
    assert exit_code_of(lambda: app(["--help"], standalone_mode=False), []) == 0
    assert "init" in capsys.readouterr().out


def test_what_the_machine_refuses_is_told_where_a_program_reads(capsys, monkeypatch):
    """On stderr where it is stdout itself that the machine refuses."""

    def refused():
        raise OSError(28, "No space left on device")

    assert exit_code_of(refused, ["--json"]) == 1
    told = json.loads(capsys.readouterr().out)["error"]
    assert told["code"] == 1 and "the machine refused: [Errno 28] No space left on device" in told["message"]
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=lambda text: refused(), flush=refused))
    assert exit_code_of(refused, ["--json"]) == 1
    assert capsys.readouterr().err == "Error: the machine refused: [Errno 28] No space left on device\n"


def test_options_may_stand_in_the_environment(run, layout_file, tmp_path, monkeypatch):
    monkeypatch.setenv("ANYPHOTO_GENERATE_SEED", "9")
    assert "trip_seed9.png" in run("generate", layout_file, "-o", tmp_path / "out", "--dry-run")[1]
    assert "trip_seed1.png" in run("generate", layout_file, "-o", tmp_path / "out", "--dry-run", "--seed", "1")[1]
    monkeypatch.setenv("ANYPHOTO_FACE_PACK", "./nowhere")
    assert "--face-pack: no such folder" in run("layout", "check", layout_file)[2]


def test_names_from_files_are_shown_not_obeyed():
    assert one_line("a\x1b[31mb\nc\u202ed") == "a\\x1b[31mb\\nc\\u202ed"
    assert one_line("Zoë 李 [red]") == "Zoë 李 [red]"


def one_after_another(*lines):
    """A process that runs these command lines, prints the exit code of each, and ends with that of the last."""
    program = """
import json, sys
from anyphoto_cli.cli.app import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        print("exit code", ended.code, flush=True)
        code = ended.code
sys.exit(code)
"""
    words = json.dumps([[str(word) for word in line] for line in lines])
    return [sys.executable, "-c", program, words]


def test_signals_keep_what_is_finished(tmp_path):
    """Ctrl-C, and what a scheduler sends. One process, as its start takes seconds."""
    file = small_layout(tmp_path, num_images=500)
    folders = [tmp_path / "one", tmp_path / "two"]
    command = one_after_another(*(["generate", file, "-o", out] for out in folders))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"LC_ALL": "C"})  # fmt: skip
    deadline = time.monotonic() + 90
    for out, number in zip(folders, (signal.SIGINT, signal.SIGTERM), strict=True):
        while len(list(out.glob("trip_seed*.png"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
    said, err = process.communicate(timeout=30)
    told = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(told) == 2 and "Interrupted" in told[0] and "Terminated" in told[1] and "Traceback" not in err
    assert "exit code 130" in said and process.returncode == 143 and told[1] == err.splitlines()[-1]
    for out in folders:
        pictures = list(out.iterdir())
        assert 2 <= len(pictures) < 500 and all(p.suffix == ".png" and not p.name.startswith(".") for p in pictures)


@pytest.mark.parametrize("words", ["doctor", "generate --help", "layout schema"])
def test_who_reads_only_the_first_line_is_no_failure(words):
    command = f"set -o pipefail; {sys.executable} -m anyphoto_cli {words} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and not done.stderr and len(done.stdout.splitlines()) == 1


def test_a_closed_stderr_is_no_failure(tmp_path):
    file = small_layout(tmp_path)
    for words in ("doctor", f"generate {file} -o {tmp_path}/out"):
        command = f"{sys.executable} -m anyphoto_cli {words} 2>&-"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0 and done.stdout, words


def test_a_folder_that_is_gone_is_one_line(tmp_path, run, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, said, err = run("doctor")
    assert (code, said) == (1, "") and err == "Error: the current folder is gone. Change into one that is there\n"


def test_names_that_are_no_utf_8_are_written_down_or_told(tmp_path, run):
    """Verdicts are JSON, where such a name is escaped; a layout cannot hold one."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    file = small_layout(folder).rename(folder / os.fsdecode(b"caf\xe9.json"))
    code, _, err = run("generate", file, "-o", tmp_path / "out", "--steps", "1", "--model", "mini", "--verify")
    [verdict] = (tmp_path / "out").glob("*.verify.json")
    assert code in (0, 3) and "Traceback" not in err
    assert json.loads(verdict.read_text(encoding="utf-8"))["picture"].startswith("caf\udce9")
    (folder / "ana.png").rename(folder / os.fsdecode(b"an\xe9.png"))
    reference = folder / os.fsdecode(b"an\xe9.png")
    code, _, err = run("layout", "arrange", reference, "--size", "128x128", "-o", folder / "two.json")
    assert code == 2 and "has a name that is no text. Rename it" in err and not (folder / "two.json").exists()


def test_shell_completion_knows_commands_and_options():
    environment = os.environ | {"_ANYPHOTO_COMPLETE": "complete_bash", "COMP_WORDS": "anyphoto gen", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "anyphoto_cli"], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert "generate" in done.stdout


def on_a_terminal(*arguments, end_with=None, when=b"\x1b[?25l"):
    """(exit code, stdout, all that a terminal on stderr was sent); a signal once `when` was sent."""
    terminal, end = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "anyphoto_cli", *map(str, arguments)]
    sent = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, env=environment) as process:
        os.close(end)
        while True:
            try:
                sent += os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if end_with is not None and when in sent:
                process.send_signal(end_with)
                end_with = None
        said = process.stdout.read().decode()
    os.close(terminal)
    return process.returncode, said, sent


@pytest.mark.parametrize("ended", [None, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_ends_under_a_bar_gives_the_cursor_back_and_stdout_its_lines(tmp_path, ended):
    Image.new("RGB", (128, 128)).save(tmp_path / "x.png")
    (tmp_path / "y.png").write_text("no picture")
    layout = small_layout(tmp_path)
    pictures = [tmp_path / "x.png", tmp_path / "y.png"]
    code, said, sent = on_a_terminal("verify", *pictures, "--layout", layout, "--face-pack", "mini", end_with=ended)
    assert sent.count(b"\x1b[?25l") == sent.count(b"\x1b[?25h") == 1
    assert sent.rstrip().splitlines()[-1].split(b"\x1b[2K")[-1].startswith((b"Error: ", b"Interrupted", b"Terminated"))
    if ended is None:
        assert code == 2 and b"y.png: is not a picture" in sent and "x.png: did not pass" in said
    else:
        assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[ended]


@pytest.mark.parametrize("words", [
    "generate", "verify", "provenance", "preprocess", "export", "bench score", "bench run", "bench table", "bench chart",
    "layout check", "layout preview", "layout arrange", "layout from-photo", "layout edit", "train init", "train preview",
    "train plot", "train sweep", "faces calibrate", "mini photos", "mini demo", "mini examples",
])  # fmt: skip
def test_an_option_is_called_in_the_environment_as_on_the_command_line(run, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    rows = re.findall(r"--([a-z0-9-]+) .*env var: ANYPHOTO_([A-Z0-9_]+)", run(*words.split(), "--help")[1])
    assert rows
    for option, name in rows:  # by the command's name, or for all commands
        assert name in {told.upper().translate(str.maketrans(" -", "__")) for told in (option, f"{words} {option}")}


def test_json_is_json_whatever_stdout_can_encode(monkeypatch):
    """As under LC_ALL=C, where what it cannot is shown as \\xeb."""
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        console.document({"name": "Zoë 李"})
    stdout.seek(0)
    assert json.load(stdout) == {"name": "Zoë 李"}


def test_json_may_be_asked_for_in_the_environment_also_for_errors(run, monkeypatch, examples):
    monkeypatch.setenv("ANYPHOTO_JSON", "1")
    code, said, _ = run("layout", "check", examples / "two_people.json")
    assert code == 0 and json.loads(said)
    code, said, _ = run("layout", "check", "nowhere.json")
    assert code == 2 and json.loads(said)["error"]["code"] == 2


def test_what_torch_says_on_windows_and_macs_whenever_it_is_imported_is_not_heard():
    import logging

    logger = logging.getLogger("torch.distributed.elastic.multiprocessing.redirects")
    before = logger.level
    try:
        logger.setLevel(logging.NOTSET)
        console.hush_libraries(verbose=True)
        assert logger.isEnabledFor(logging.WARNING)
        console.hush_libraries(verbose=False)
        assert not logger.isEnabledFor(logging.WARNING)
    finally:
        logger.setLevel(before)
