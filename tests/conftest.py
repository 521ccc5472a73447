"""Fixtures. Numbers come from one thread: sums then have one order on every machine."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ["NO_COLOR"] = "1"
# Unit tests render with the toy of random numbers; tests/mini renders with the embedded default.
os.environ["ANYPHOTO_GENERATE_MODEL"] = "tiny-random"
if not os.path.exists("/dev/nvidiactl"):  # noqa: PTH110 - before anything else is imported
    # Read where a kernel is defined, Triton's own ones too.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from pathlib import Path

import hypothesis
import pytest

# A busy machine is no failure: examples have no deadline.
hypothesis.settings.register_profile("anyphoto", deadline=None)
hypothesis.settings.load_profile("anyphoto")

ROOT = Path(__file__).resolve().parents[1]


def _shared_testdata() -> Path | None:
    named = os.environ.get("ANYPHOTO_TESTDATA")
    candidates = [Path(named)] if named else [ROOT.parent / "shared" / "testdata", ROOT / "shared" / "testdata"]
    return next((path for path in candidates if path.is_dir()), None)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control has what it starts with & ignore Ctrl-C, and whatever that starts in turn.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def testdata() -> Path:
    """Real photos and small real weights, read in place; their licences keep them out of this repository."""
    folder = _shared_testdata()
    if folder is None:
        pytest.skip("no shared test data: set ANYPHOTO_TESTDATA, or put it into ../shared/testdata")
    return folder


@pytest.fixture(scope="session")
def photos(testdata: Path) -> Path:
    """refs/<person>/*.jpg and groups/*.jpg."""
    return testdata / "photos"


@pytest.fixture(scope="session")
def face_pack_folder(testdata: Path) -> Path:
    return testdata / "models" / "insightface" / "models" / "mbf512_scrfd2.5g"


@pytest.fixture(scope="session")
def face_pack(face_pack_folder: Path):
    from anyphoto_cli.faces.packs import open_faces

    return open_faces(face_pack_folder)


@pytest.fixture(scope="session", autouse=True)
def anyphoto_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models are built once, in a folder of the test run's own."""
    home = tmp_path_factory.mktemp("anyphoto_home")
    os.environ["ANYPHOTO_HOME"] = str(home)
    return home


@pytest.fixture
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture
def run(capsys: pytest.CaptureFixture):
    """A command line in this process -> (exit code, stdout, stderr)."""
    from anyphoto_cli.cli.app import main

    def run_command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run_command


def small_layout(folder: Path, name: str = "trip.json", **changes) -> Path:
    """A 128 px layout of two drawn pictures, 2 steps, landmarks given: renders in a moment without a face pack."""
    import json

    from PIL import Image, ImageDraw

    points = [[40, 45], [75, 45], [57, 66], [43, 88], [72, 88]]
    for person, colour in (("ana", "peru"), ("ben", "tan")):
        image = Image.new("RGB", (112, 112), "navy")
        ImageDraw.Draw(image).ellipse((20, 10, 92, 108), fill=colour)
        image.save(folder / f"{person}.png")
    faces = [
        {"name": n, "reference": f"{n}.png", "bbox": box, "reference_landmarks": points}
        for n, box in (("ana", [0, 32, 64, 96]), ("ben", [64, 32, 128, 96]))
    ]
    value = {"version": 1, "prompt": "two friends", "width": 128, "height": 128, "steps": 2, "faces": faces}
    (folder / name).write_text(json.dumps(value | changes))
    return folder / name


@pytest.fixture
def layout_file(tmp_path: Path) -> Path:
    return small_layout(tmp_path)
