"""The numbers of the proof: counted by hand on invented faces, and near the ceiling on the photos themselves."""

import json
from itertools import pairwise

import numpy as np
import pytest

from anyphoto_cli.bench.cases import read_cases
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.mini import proof
from anyphoto_cli.mini.likeness import Asked, look, summed_up
from anyphoto_cli.mini.photos import PhotosConfig, draw_photos
from anyphoto_cli.mini.proof import CASES, PHOTOS, STYLED, SUBSETS, _cases, draw_cases, open_banks
from anyphoto_cli.mini.types import STYLES


def asked(own, similar, away=0.0, people=2, beside=(0, 1), style=("photo", "photo", "photo")):
    if similar is None:
        return Asked(people, own, beside, style=style)
    return Asked(people, own, beside, np.array(similar, np.float32), away, style)


def test_counted_by_hand():
    told = summed_up([
        [asked(0, [0.9, 0.1, 0.0]),
         asked(1, [0.8, 0.2, 0.0], away=0.3)],  # stands there as the other: swapped, too far, and nearest to another
        [asked(0, [0.1, 0.0, 0.4], style=("comic", "comic", "photo")), asked(1, None, style=("comic", "photo", ""))],
    ])  # fmt: skip
    assert told["pictures"] == 2 and told["faces"] == 4 and told["found"] == 0.75 and told["rank_1"] == 0.25
    assert told["swapped"] == pytest.approx(1 / 3) and told["near"] == 0.5
    assert told["cosine"] == pytest.approx((0.9 + 0.2 + 0.1) / 3)
    assert told["away"] == pytest.approx(0.1)
    assert told["impostor_p99"] == pytest.approx(np.quantile([0.1, 0.0, 0.8, 0.0, 0.0, 0.4], 0.99), abs=1e-6)
    assert told["above"] == 0.25 and told["style"] == 0.75 and told["face_style"] == 0.5
    # Whole pictures are drawn: the first has both faces right in style, the second none; one of 2 and of 1 is swapped.
    assert told["ranges"]["face_style"] == (0, 1) and told["ranges"]["swapped"] == (0, 0.5)
    assert told["ranges"]["found"] == (0.5, 1)


def test_nothing_found_is_no_success():
    told = summed_up([[asked(0, None), asked(1, None)]])
    assert told["above"] == told["near"] == told["rank_1"] == told["found"] == 0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("proof")
    for style in ("photo", "comic"):
        draw_photos(
            out / "3" / style,
            PhotosConfig(people=30, groups=12, references=1, held_out=True, layouts=True, style=style, seed=3),
        )
    return out


def test_the_photos_themselves_are_nearly_perfect(drawn):
    analyzer = open_faces("mini")
    bank = open_banks(drawn, analyzer, (3,))[3]
    for style in ("photo", "comic"):
        lines = _cases(drawn, 3, style)
        (drawn / f"{style}.jsonl").write_text("\n".join(lines) + "\n")
        cases = read_cases(drawn / f"{style}.jsonl").cases
        told = summed_up([look(case, None, bank, analyzer, style) for case in cases])
        assert told["faces"] >= 10 and told["found"] > 0.95 and told["near"] > 0.9 and told["above"] > 0.85, (
            style,
            told,
        )
        assert told["swapped"] < 0.1 and told["face_style"] > 0.8
        assert 0 < len(cases) <= 12 and all(case.id.startswith(f"{style}-3-") for case in cases)


def test_a_picture_that_is_missing_counts_as_nobody_found(drawn, tmp_path):
    analyzer = open_faces("mini")
    bank = open_banks(drawn, analyzer, (3,))[3]
    case = read_cases(drawn / "3" / "photo" / "cases.jsonl").cases[0]
    assert all(one.similar is None for one in look(case, tmp_path, bank, analyzer))
    assert {count for counts in SUBSETS.values() for count in counts} == {1, 2, 3, 4}


def test_the_sets_are_of_seeds_that_nothing_was_chosen_on(tmp_path, monkeypatch):
    """And the pictures of several seeds are one set, without those in which somebody shows too little."""
    asked_for = []

    def drawn_in_no_time(out, words):
        told = dict(pairwise(words))
        asked_for.append((int(told["--seed"]), told["--style"], int(told["--groups"])))
        (out / words[-1]).mkdir(parents=True)
        case = {"references": ["layouts/refs/a.png"], "gt": "photos/000001.png"}
        cases = [case | {"id": "000001"}, case | {"id": "000002"}]
        truths = [{"people": [{"visible": 0.5}]}, {"people": [{"visible": 0.9}, {"visible": 0.49}]}]
        for name, rows in ((CASES, cases), ("truth.jsonl", truths)):
            (out / words[-1] / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    monkeypatch.setattr(proof, "run_command", drawn_in_no_time)
    draw_cases(tmp_path, PHOTOS, STYLED)
    assert {seed for seed, *_ in asked_for} == {6, 7}  # on the others pretrain/adapter.SHARE was chosen
    assert {(style, count) for _, style, count in asked_for} == {
        ("photo", 120), *((style, 12) for style in STYLES[1:])
    }  # fmt: skip
    photos, styled = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("photo", "styled")
    )
    assert [case["id"] for case in photos] == ["photo-6-000001", "photo-7-000001"] and len(styled) == 10
    assert photos[1]["references"] == ["7/photo/layouts/refs/a.png"] and photos[1]["gt"] == "7/photo/photos/000001.png"


def test_photos_come_with_captions_as_a_list(drawn):
    rows = [json.loads(line) for line in (drawn / "3" / "photo" / "photos.jsonl").read_text().splitlines()]
    truth = [json.loads(line) for line in (drawn / "3" / "photo" / "truth.jsonl").read_text().splitlines()]
    assert [(row["path"], row["caption"]) for row in rows] == [(one["file"], one["caption"]) for one in truth]


def test_any_style_is_half_photos(tmp_path):
    draw_photos(tmp_path / "w", PhotosConfig(people=4, groups=60, references=0, style="any", width=64, height=64))
    styles = [json.loads(line)["style"] for line in (tmp_path / "w" / "truth.jsonl").read_text().splitlines()]
    assert 0.3 < styles.count("photo") / 60 < 0.7 and len(set(styles)) == 6
