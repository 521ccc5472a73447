"""Numbers that a table shows, on people and values made by hand: each is of its own case, place and column."""

import json

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.bench import summarize
from anyphoto_cli.bench.cases import Case
from anyphoto_cli.bench.clip_scores import Clip
from anyphoto_cli.bench.evaluation import _placement, score_cases
from anyphoto_cli.bench.faces import Seen
from anyphoto_cli.bench.models import Models, open_models
from anyphoto_cli.bench.placing import write_layout
from anyphoto_cli.bench.sources import FileSource
from anyphoto_cli.bench.standing import rows_for
from anyphoto_cli.bench.summing import METRICS, sum_up
from anyphoto_cli.config.bench import BenchConfig, RunConfig
from anyphoto_cli.geometry import face_height, upright_landmarks
from anyphoto_cli.types import Box, Face
from tests.bench.test_models import clip_folder  # noqa: F401 - a fixture

MINI = BenchConfig(face_packs=("mini",), clip=None)
PLACES = np.stack([upright_landmarks(Box(10, 20, 50, 60)), upright_landmarks(Box(70, 30, 110, 70))])
"""Of two people in a photo of 128 x 96 px."""


def seen(people, landmarks=PLACES, width=128, height=96):
    """What a face model would see: these people, a number each, at these places."""
    rows = np.eye(4, dtype=np.float32)[list(people)]
    n = len(rows)
    return Seen(width, height, np.zeros((n, 4), np.float32), landmarks[:n], np.ones(n, np.float32), rows)


REFERENCES = (seen([0]), seen([1]))


@pytest.mark.parametrize("told", [
    {}, {"landmarks": tuple(PLACES.tolist())}, {"landmarks": tuple((PLACES * 3).tolist()), "size": (384, 288)},
], ids=["original", "landmarks", "size"])  # fmt: skip
def test_a_result_larger_than_the_photo_has_its_people_at_their_places(told):
    larger = seen([0, 1], PLACES * (2, 3), 256, 288)
    got = _placement(Case("a", "p2", "two", (), **told), (larger, seen([0, 1]), REFERENCES), 0.4)
    assert got["coverage"] == 1 and got["error"] == pytest.approx(0, abs=1e-6) and got["swapped"] == 0


def test_people_at_each_other_s_place_are_swapped_and_a_double_is_one():
    case = Case("a", "p2", "two", ())
    photo = seen([0, 1])
    exchanged = _placement(case, (seen([1, 0]), photo, REFERENCES), 0.4)
    assert (exchanged["swapped"], exchanged["duplicates"], exchanged["coverage"]) == (2, 0, 1)
    double = _placement(case, (seen([0, 0]), photo, REFERENCES), 0.4)
    assert (double["swapped"], double["duplicates"]) == (1, 1)


def test_the_summary_calls_swaps_doubles_and_strangers_by_their_names():
    placement = {"error": 0.5, "expected": 7, "placed": 6, "swapped": 1, "duplicates": 3, "extra": 5, "strangers": 4}
    told = sum_up([{"subset": "p3", "status": "no face", "placement": placement}] * 2, {}, {})["subsets"]["all"]
    assert (told["swapped"], told["duplicates"], told["extra_faces"], told["expected_faces"]) == (2, 6, 10, 14)
    assert told["strangers"] == 8
    assert (told["place_error"], told["coverage"]) == (0.5, pytest.approx(6 / 7, abs=1e-6))


def test_faces_found_are_counted_of_everybody_asked_for():
    """Also where the original shows fewer faces than people, so that fewer places are known, and without a picture."""
    placement = dict.fromkeys(("expected", "placed"), 1) | dict.fromkeys(("swapped", "duplicates", "extra"), 0)
    lines = [
        {"people": 2, "status": "no face", "placement": placement | {"error": 0.1}, "faces": boxes(count)}
        for count in (2, 1, 5)
    ]
    lines += [
        {"people": 2, "status": "no face", "faces": boxes(0)}, {"people": 3, "status": "missing", "asked_for": 3},
        {"people": 1, "status": "broken", "asked_for": 0}, {"status": "missing", "asked_for": 2},  # of an older version
    ]  # fmt: skip
    told = sum_up([line | {"subset": "p2"} for line in lines], {}, {})["subsets"]["p2"]
    assert (told["people"], told["found"]) == (14, pytest.approx(5 / 14, abs=1e-6))
    assert (told["expected_faces"], told["coverage"]) == (8, 0.375)


def boxes(count):
    """As a line has what a face model found in the result."""
    return {"result": {"size": (9, 9), "boxes": [[0, 0, 1, 1]] * count}}


def test_clip_compares_each_picture_with_its_own_prompt_and_photo(clip_folder, tmp_path):  # noqa: F811
    models = Models(open_models(MINI).faces, Clip(str(clip_folder)), None, {})
    rng, cases = np.random.default_rng(0), []
    for k, prompt in enumerate(("two friends", "a park at night", "people")):
        for name in (f"{k}.png", f"{k}_gt.png"):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / name)
        made, photo = FileSource(tmp_path / f"{k}.png"), FileSource(tmp_path / f"{k}_gt.png")
        cases.append(Case(str(k), "p1", prompt, (photo,), gt=photo if k else None, result=made))
    together = score_cases(cases, None, MINI, models)
    alone = [score_cases([case], None, MINI, models)[0] for case in cases]
    for metric in ("clip_t", "clip_i"):
        own = [line[metric] for line in alone]
        assert [line[metric] for line in together] == pytest.approx(own, abs=1e-5) and len(set(own)) == 3


def test_an_outlier_above_is_left_out_as_one_below_is():
    values = [0.5, 0.52, 0.49, 0.51, 0.5]
    for outlier in (0.0, 1.0):
        filtered = summarize([*values, outlier], filtered=True)
        assert (filtered.n, filtered.removed) == (5, 1) and filtered.mean == pytest.approx(0.504)


def test_a_table_shows_means_with_or_without_outliers_as_it_was_asked(tmp_path):
    lines = []
    for value in (0.5, 0.52, 0.49, 0.51, 0.5, 0.0):
        told = dict.fromkeys(METRICS, value)
        lines.append({"subset": "p1", "status": "scored", "legs": {"mini": told}, **told})
    (tmp_path / "summary.json").write_text(json.dumps(sum_up(lines, {"mini": "0"}, {})))
    for filtered, mean in ((True, 0.504), (False, 0.42)):
        [row] = rows_for("p1", [tmp_path], filtered, with_published=False)
        assert row.values == dict.fromkeys(row.values, pytest.approx(mean))


class MiddleFace:
    """An analyzer that finds one face, in the middle of whatever it is shown."""

    name = sha256 = "middle"

    def detect(self, pictures, size=640):
        return [[self.face(*picture.shape[1::-1])] for picture in pictures]

    @staticmethod
    def face(width, height):
        box = Box(width / 2 - 10, height / 2 - 10, width / 2 + 10, height / 2 + 10)
        points = upright_landmarks(box)
        return Face(box, points - points.mean(0) + (width / 2, height / 2), 1.0)


def test_a_reference_wider_or_higher_than_its_strip_lies_in_the_middle_of_it(tmp_path):
    for k, size in enumerate(((200, 100), (50, 200))):
        Image.new("RGB", size).save(tmp_path / f"{k}.png")
    case = Case("a", "p2", "two", tuple(FileSource(tmp_path / f"{k}.png") for k in range(2)))
    file = write_layout(case, tmp_path, MiddleFace(), RunConfig(layout_from="reference"), 256)
    places = np.array([face["landmarks"] for face in json.loads(file.read_text())["faces"]])
    assert places.mean(1).tolist() == [pytest.approx((64, 128), abs=0.1), pytest.approx((192, 128), abs=0.1)]
    size = float(face_height(MiddleFace.face(200, 100).landmarks))
    assert face_height(places) == pytest.approx([size * 128 / 200, size * 256 / 200], abs=0.1)
