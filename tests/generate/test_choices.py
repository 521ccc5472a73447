"""Which picture counts as made, is kept or is judged: nothing else than what was asked for takes its place."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from anyphoto_cli.config.verify import VerifyConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.generate import best_of, render
from anyphoto_cli.generate.best_of import Choice, render_best
from anyphoto_cli.generate.png_metadata import fingerprint_of
from anyphoto_cli.generate.signing import make_test_certificate, read_credentials
from anyphoto_cli.generate.verification import ExtraFace, FaceVerdict, Verdict, score_of
from anyphoto_cli.generate.verifying import BESIDE, Looker, Verified, verify_files
from anyphoto_cli.generate.weights import Renderer
from anyphoto_cli.layout.schema import load_layout
from anyphoto_cli.mini.photos import as_png
from anyphoto_cli.mini.picture import draw_portrait
from anyphoto_cli.mini.types import HELD_OUT
from anyphoto_cli.types import Box
from tests.conftest import small_layout
from tests.generate.test_generate import adapter, toy  # noqa: F401 - a fixture

QUICK = toy(steps=1)


def test_a_picture_of_another_face_adapter_or_pack_is_not_taken_for_this_one(layout_file, adapter, tmp_path):  # noqa: F811
    out, told = tmp_path / "out", "exists and was made from something else"
    render([layout_file], out, QUICK)
    for name, other in {"adapter": {"adapter": str(adapter)}, "face pack": {"face_pack": "mini"}}.items():
        with pytest.raises(InputError, match=f"{told}: other {name}\\. "):
            render([layout_file], out, toy(steps=1, **other))
    (tmp_path / "ana.png").write_bytes((tmp_path / "ben.png").read_bytes())
    with pytest.raises(InputError, match=told):
        render([layout_file], out, QUICK)


def test_all_that_makes_a_picture_is_in_its_fingerprint():
    record = {key: {"sha256": "0"} for key in ("layout", "references", "model", "adapter", "face_pack", "loras")}
    others = [fingerprint_of(record | {key: {"sha256": "1"}}) for key in record]
    assert len({fingerprint_of(record), *others}) == 7


def test_a_picture_of_another_number_format_is_kept_only_where_none_was_asked_for(layout_file, tmp_path):
    render([layout_file], tmp_path / "out", toy(steps=1, dtype="bfloat16"))
    with pytest.raises(InputError, match="exists and was made from something else: other precision"):
        render([layout_file], tmp_path / "out", toy(steps=1, dtype="float32"))
    assert render([layout_file], tmp_path / "out", QUICK).pictures[0].skipped


def test_two_folders_with_references_of_one_name_are_two_groups_of_people(tmp_path):
    portrait = draw_portrait(HELD_OUT + 17, 5)
    (tmp_path / "photo.png").write_bytes(as_png(portrait.pixels))
    points = portrait.people[0].landmarks.tolist()
    looker, verdicts = Looker("mini", VerifyConfig()), []
    for name, person in (("own", HELD_OUT + 17), ("other", HELD_OUT + 25)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ref.png").write_bytes(as_png(draw_portrait(person, 9).pixels))
        layout = small_layout(tmp_path / name, faces=[{"name": "ana", "reference": "ref.png", "landmarks": points}])
        verdicts.append(looker.look(tmp_path / "photo.png", load_layout(layout)).verdict)
    assert [one.faces[0].state for one in verdicts] == ["good", "unlike"]


def test_a_lower_detection_score_finds_more_faces_to_judge(photos, face_pack_folder, tmp_path):
    with Image.open(photos / "groups" / "obama_and_biden.jpg") as whole:
        whole.resize((round(0.08 * whole.width), round(0.08 * whole.height))).save(tmp_path / "small.png")
    layout, found = small_layout(tmp_path), []
    for least in (0.5, 0.45):
        config = VerifyConfig(least_score=least)
        [one] = verify_files([tmp_path / "small.png"], layout, face_pack=str(face_pack_folder), config=config)
        found.append(sum(face.box is not None for face in one.verdict.faces) + len(one.verdict.extra))
    assert found == [2, 3]


def test_a_score_falls_with_faces_off_swapped_missing_and_unasked():
    box = Box(0, 0, 9, 9)

    def face(cosine, off, state="good"):
        return FaceVerdict("ana", state, cosine, off, box)

    good, missing = face(0.8, 0.0), FaceVerdict("ben", "missing")
    assert score_of([good], []) == pytest.approx(0.8)
    assert score_of([face(0.8, 0.2)], []) == pytest.approx(0.7)
    assert score_of([face(0.8, 0.2, "swapped")], []) == pytest.approx(0.2)
    assert score_of([good, missing], []) == pytest.approx(-0.1)
    assert score_of([good], [ExtraFace(box), ExtraFace(box, "ana")]) == pytest.approx(0.3)
    assert score_of([], [ExtraFace(box)]) == -0.25


def test_who_passed_is_kept_before_who_scored_higher_and_two_pictures_share_no_seed(layout_file, tmp_path, monkeypatch):
    judged = iter([(False, 0.9), (True, 0.5), (True, 0.4), (False, 0.1), (None, 0.3), (False, 0.2)])

    class Judge:
        def __init__(self, *told):
            pass

        def look(self, file, layout, annotate):
            file.with_name(file.stem + BESIDE).write_text("{}")
            passed, score = next(judged)
            return Verified(file, Verdict((), (), None, "", "", "", score, passed))

    monkeypatch.setattr(best_of, "Looker", Judge)
    calls, real = {"encode": 0, "sizes": []}, (Renderer._encode, Renderer.pictures)

    def encode(self, one):
        calls["encode"] += 1
        return real[0](self, one)

    def counted(self, wanted, listener):
        calls["sizes"].append(len(wanted))
        return real[1](self, wanted, listener)

    monkeypatch.setattr(Renderer, "_encode", encode)
    monkeypatch.setattr(Renderer, "pictures", counted)
    asked = toy(steps=1, seed=7, num_images=2, face_pack="mini", batch=2)
    kept = render_best([layout_file], tmp_path / "out", asked, Choice(3))
    assert calls == {"encode": 1, "sizes": [2, 1, 2, 1]}, "text and faces once for all seeds, as many at once as asked"
    assert [[seed for seed, _, _ in one.tries] for one in kept] == [[7, 8, 9], [10, 11, 12]]
    assert [(one.seed, one.verified.verdict.score) for one in kept] == [(8, 0.5), (11, 0.3)]
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == ["trip_seed11.png", "trip_seed8.png"]


def test_nobody_else_on_the_machine_can_read_the_key_that_signs(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path))
    usual = os.umask(0o022)
    try:
        read_credentials()
    finally:
        os.umask(usual)
    [key] = tmp_path.rglob("test-key.pem")
    assert [stat.S_IMODE(one.stat().st_mode) & 0o077 for one in (key, key.parent)] == [0, 0]


def test_the_test_certificate_and_its_key_belong_together(tmp_path, monkeypatch):
    """Also where several runs make them at once; a pair that cannot sign is made anew before anything is rendered."""
    monkeypatch.setenv("ANYPHOTO_HOME", str(tmp_path))
    with ThreadPoolExecutor(4) as threads:
        [first] = set(threads.map(lambda _: read_credentials(), range(4)))
    assert read_credentials() == first
    files = [tmp_path / "c2pa" / f"test-{name}.pem" for name in ("certificate", "key")]
    for file, text in zip(files, ("half of a fi", make_test_certificate()[1]), strict=True):
        file.write_text(text)
        mended = read_credentials()
        assert mended.test and mended != first and read_credentials() == mended
        read_credentials(*files)  # tried
