"""Seeds tried one by one in the small world: the keeper is an ordinary picture, and nothing is rendered twice."""

import json

import pytest

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.verify import VerifyConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.generate import best_of, rendering
from anyphoto_cli.generate.best_of import TRIES, Choice, render_best
from anyphoto_cli.generate.judged import render_judged
from anyphoto_cli.generate.png_metadata import read_record
from tests.conftest import ROOT, small_layout

FRIENDS = ROOT / "examples" / "two_friends.json"
CONFIG = GenerateConfig(model="mini", steps=4)


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    out = tmp_path_factory.mktemp("best")
    [kept] = render_best([FRIENDS], out, CONFIG, Choice(3), annotate=True)
    return out, kept


def test_the_best_score_is_kept_under_its_own_seed(run, best, tmp_path):
    out, kept = best
    assert [seed for seed, _, _ in kept.tries] == [7, 8, 9]
    assert kept.verified.verdict.score == max(score for _, score, _ in kept.tries)
    assert kept.verified.picture == out / f"two_friends_seed{kept.seed}.png"
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [TRIES, *(f"two_friends_seed{kept.seed}{end}" for end in (".png", ".verify.json", ".verify.png"))]
    )
    told = json.loads((out / f"two_friends_seed{kept.seed}.verify.json").read_text())
    assert told["keeper"] == kept.seed and [one["seed"] for one in told["tries"]] == [7, 8, 9]
    assert {face["name"] for face in told["faces"]} == {"Mia", "Theo"}
    code, _, err = run("generate", FRIENDS, "-o", tmp_path, "--model", "mini", "--steps", "4", "--seed", kept.seed)
    assert code == 0, err
    [plain] = tmp_path.glob("*.png")
    from PIL import Image

    with Image.open(plain) as one, Image.open(kept.verified.picture) as other:
        assert one.tobytes() == other.tobytes()
    assert read_record(plain)["fingerprint"] == read_record(kept.verified.picture)["fingerprint"]
    assert (kept.verified.picture.parent / read_record(kept.verified.picture)["refs"]).resolve() == FRIENDS.parent


def test_the_keeper_can_be_rendered_again_and_signed(run, best):
    out, kept = best
    code, said, err = run("generate", "--from", kept.verified.picture, "--model", "mini")
    assert code == 0 and "identical, pixel for pixel" in said, err
    (out / f"{kept.verified.picture.stem}_again.png").unlink()
    code, _, err = run("generate", FRIENDS, "-o", out, "--model", "mini", "--steps", "4", "--best-of", "3", "--c2pa",
                       "--annotate")  # fmt: skip
    assert code in (0, 3) and "Error" not in err, err
    warned = [line for line in err.splitlines() if line.startswith("Warning")]
    assert warned and len(warned) == len(set(warned)), "once for all seeds"
    assert run("provenance", kept.verified.picture)[1].count("made from: ") == 2
    copy = run("provenance", kept.verified.annotated)[1]
    assert f"made from: {kept.verified.picture.name} (its pixels)" in copy and "unchanged since it was signed" in copy
    again = run("generate", FRIENDS, "-o", out, "--model", "mini", "--steps", "4", "--best-of", "3", "--c2pa")
    assert again[0] == code and "Finished before" in again[2]


def test_the_same_call_renders_nothing_again(best, monkeypatch):
    out, kept = best
    monkeypatch.setattr(best_of, "render_tasks", lambda tasks, *_: pytest.fail("rendered") if tasks else [])
    [again] = render_best([FRIENDS], out, CONFIG, Choice(3), annotate=True)
    assert (again.seed, again.tries) == (kept.seed, kept.tries)


def test_cut_off_it_goes_on(tmp_path, monkeypatch):
    real, made = rendering.write_png, []

    def cut_off(image, path, record):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(path)
        real(image, path, record)

    monkeypatch.setattr(rendering, "write_png", cut_off)
    with pytest.raises(KeyboardInterrupt):
        render_best([FRIENDS], tmp_path, CONFIG, Choice(3))
    assert not list(tmp_path.glob("*.png")) and len(list((tmp_path / TRIES).glob("*.png"))) == 2
    monkeypatch.setattr(rendering, "write_png", lambda *one: (made.append(one[1]), real(*one)))
    [kept] = render_best([FRIENDS], tmp_path, CONFIG, Choice(3))
    assert len(made) == 3 and len(kept.tries) == 3


def test_it_stops_at_the_first_that_passes_and_gives_up_after_the_last(run, tmp_path):
    easy = VerifyConfig(threshold=-1, off_by=1)
    passing = None
    for seed in range(7, 11):  # a young base does not draw two faces with every seed
        [kept] = render_best(
            [FRIENDS], tmp_path / str(seed), CONFIG.model_copy(update={"seed": seed}), Choice(1, True), easy
        )
        if kept.verified.verdict.passed:
            passing = seed
            break
    if passing is not None:
        [kept] = render_best([FRIENDS], tmp_path / "easy", CONFIG, Choice(6, True), easy)
        assert kept.seed == passing and [seed for seed, _, _ in kept.tries] == [*range(7, passing + 1)]
    code, said, err = run("generate", FRIENDS, "-o", tmp_path / "hard", "--model", "mini", "--steps", "2",
                          "--retry-until", "0.999", "--max-tries", "2")  # fmt: skip
    assert code == 3 and "did not pass" in said, err
    assert (
        len(list((tmp_path / "hard" / TRIES).glob("*.png"))) == 2 and len(list((tmp_path / "hard").glob("*.png"))) == 1
    )


def test_what_can_be_refused_is_refused_before_the_first_seed(run, tmp_path, monkeypatch):
    """A later layout's reference without a face, a keeper's name that is taken, a pack that finds no faces."""
    monkeypatch.setattr(rendering, "write_png", lambda *_: pytest.fail("rendered"))
    blank = small_layout(tmp_path, faces=[{"name": "ana", "reference": "ana.png", "bbox": [32, 32, 96, 96]}])
    with pytest.raises(InputError, match="found no face in the reference"):
        render_best([FRIENDS, blank], tmp_path / "out", CONFIG, Choice(2))
    assert not (tmp_path / "out").exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "two_friends_seed9.png").write_bytes(b"a stranger's file")
    with pytest.raises(InputError, match="two_friends_seed9.png: exists and was made from something else"):
        render_best([FRIENDS], tmp_path / "taken", CONFIG, Choice(3))
    for looking in (["--best-of", "2"], ["--verify"], ["--annotate", "--dry-run"]):
        code, _, err = run(
            "generate", small_layout(tmp_path), "-o", tmp_path / "out", "--face-pack", "tiny-random", *looking
        )
        assert code == 2 and "--face-pack: tiny-random cannot find faces" in err, err


def test_a_run_that_is_cut_off_has_the_verdicts_of_what_it_finished(tmp_path, monkeypatch):
    real, told = rendering.write_png, []

    def cut_off(image, path, record):
        if told:
            raise KeyboardInterrupt
        real(image, path, record)

    monkeypatch.setattr(rendering, "write_png", cut_off)
    config = CONFIG.model_copy(update={"num_images": 2, "steps": 1})
    with pytest.raises(KeyboardInterrupt):
        render_judged([FRIENDS], tmp_path, config, on_verified=lambda one: told.append(one.picture.name))
    assert told == ["two_friends_seed7.png"] and (tmp_path / "two_friends_seed7.verify.json").is_file()


def test_verify_beside_generate(run, tmp_path):
    layout = tmp_path / "two_friends.json"
    layout.write_text(json.dumps(json.loads(FRIENDS.read_text()) | {"guidance_scale": 9}))  # more than mini knows
    words = (layout, "--refs-root", FRIENDS.parent, "-o", tmp_path, "--model", "mini", "--steps", "2")
    code, said, err = run("generate", *words, "--verify", "--json")
    assert code in (0, 3), err
    document = json.loads(said)
    [told] = document["pictures"]
    assert document["adapter"]["train_step"] > 0 and any("guidance_scale 9" in line for line in document["warnings"])
    assert told["verdict"]["threshold_from"].startswith("calibration of mini")
    assert (tmp_path / "two_friends_seed7.verify.json").is_file()
    code, said, _ = run("verify", tmp_path / "two_friends_seed7.png")
    assert "Mia" in said and "Theo" in said


@pytest.mark.parametrize(("options", "told"), [
    (["--best-of", "2", "--retry-until", "0.3"], "either that or --best-of"),
    (["--best-of", "0"], "0 is not between 1 and 1000"),
    (["--max-tries", "3"], "belongs to --retry-until"),
    (["--retry-until", "3"], "less than or equal to 1"),
    (["--best-of", "2", "--dry-run"], "takes no --dry-run"),
])  # fmt: skip
def test_refusals(run, tmp_path, options, told):
    code, _, err = run("generate", FRIENDS, "-o", tmp_path / "out", *options)
    assert code == 2 and told in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
