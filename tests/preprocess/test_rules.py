"""The rules that decide which photos, faces and references get in, each at its limit."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.bank import ReferenceFolder, identity_file, list_references, read_identity
from anyphoto_cli.data.samples import PersonRecord
from anyphoto_cli.data.sources import PhotoInput
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.geometry import arcface_template
from anyphoto_cli.preprocess.bank_making import references_digest
from anyphoto_cli.preprocess.discovery import SeenFaces, _once_a_photo, discovered_identity
from anyphoto_cli.preprocess.exclusions import NOTHING, Exclusions
from anyphoto_cli.preprocess.face_detection import FaceRule, flags
from anyphoto_cli.preprocess.identity_matching import Match, known_identities
from anyphoto_cli.preprocess.loading import load_photo
from anyphoto_cli.preprocess.matching import Bank, _usable, why_dropped
from anyphoto_cli.preprocess.packing import KeptPhoto, keep_box, location_tokens, people_of
from anyphoto_cli.preprocess.pieces import BankPiece
from anyphoto_cli.preprocess.references import consistent, evenly, read_references
from anyphoto_cli.preprocess.stage_run import too_many
from anyphoto_cli.runtime.jobs import CAREFULLY
from anyphoto_cli.types import Box, Face
from tests.preprocess import fakes
from tests.preprocess.runs import fake_run, samples
from tests.preprocess.test_face_detection import face
from tests.preprocess.test_identity_matching import unit
from tests.preprocess.test_run import seen_by

BANK = Bank(known_identities({}, {}), frozenset({"ana"}))
ANA, UNREFERENCED = Match("ana", 0.9, 0.9), Match("zoe", 0.9, float("nan"))


def seen(*flags_of_faces, **more):
    """A photo's row of the first stage."""
    faces = [{"flags": list(told)} for told in flags_of_faces]
    return dict(problem="", url="", known=[], width=900, height=800, faces=faces) | more


def why(row, matches, exclusions=NOTHING, **settings):
    return why_dropped(PhotoInput("a.png", "a.png"), row, matches, BANK, exclusions, PreprocessConfig(**settings))


@pytest.mark.parametrize("matches", [[None], [ANA]])
def test_who_asked_to_be_left_out_goes_also_where_only_the_source_names_them(matches):
    row = seen((), known=[[0, 0, 9, 9, ""], [20, 0, 29, 9, "p9"]])
    assert why(row, matches, Exclusions(frozenset({"p9"}))) == "shows an excluded person"
    assert why(row, matches, Exclusions(frozenset({"p8"}))) != "shows an excluded person"


@pytest.mark.parametrize("row, settings, reason", [
    (seen((), width=199), {"min_side": 200}, "picture too small"),
    (seen((), height=199), {"min_side": 200}, "picture too small"),
    (seen((), width=200, height=200), {"min_side": 200}, ""),
    (seen(), {}, "no face"),
    (seen(*[()] * 3), {"max_people": 3}, ""),
    (seen(*[()] * 4), {"max_people": 3}, "too many faces"),
    (seen((), aesthetics=4.9), {"min_aesthetic": 5.0}, "aesthetic score too low"),
    (seen((), aesthetics=5.0), {"min_aesthetic": 5.0}, ""),
    (seen((), aesthetics=5.1), {"min_aesthetic": 5.0}, ""),
    (seen((), nsfw=0.1), {"max_nsfw": 0.2}, ""),
    (seen((), nsfw=0.2), {"max_nsfw": 0.2}, ""),
    (seen((), nsfw=0.3), {"max_nsfw": 0.2}, "NSFW score too high"),
    (seen((), aesthetics=None, nsfw=None), {"min_aesthetic": 5.0, "max_nsfw": 0.2}, ""),
    (seen(()), {"min_identified": 2}, "too few known persons that are large, sharp and referenced"),
    (seen((), ()), {"min_identified": 2}, ""),
])  # fmt: skip
def test_a_photo_goes_beyond_a_limit_and_stays_at_it(row, settings, reason):
    assert why(row, [ANA] * len(row["faces"]), **settings) == reason


@pytest.mark.parametrize("drop_flags, places", [
    (("small", "blurred"), [0, 3]),
    (("turned",), [0, 1, 2]),
    ((), [0, 1, 2, 3]),
])  # fmt: skip
def test_a_face_with_a_flag_that_drops_it_is_not_trained_on(drop_flags, places):
    row = seen((), ("small",), ("blurred", "unsure"), ("turned", "unsure"), (), ())
    matches = [ANA, ANA, ANA, ANA, None, UNREFERENCED]
    assert _usable(row, matches, BANK, PreprocessConfig(drop_flags=drop_flags)) == places


def narrow(width, height, score=0.9):
    return Face(Box(0, 0, width, height), face(0).landmarks, score)


def turned(share):
    """The nose moved by a share of the half distance between the eyes: 0.1 is 8 degrees, 0.3 is 22."""
    found = face(0)
    found.landmarks[2, 0] += share * 4
    return found


@pytest.mark.parametrize("found, rule, told", [
    (narrow(19, 60), FaceRule(min_side=20), ("small",)),
    (narrow(60, 19), FaceRule(min_side=20), ("small",)),
    (narrow(20, 60), FaceRule(min_side=20), ()),
    (turned(0.3), FaceRule(min_side=0, max_yaw=15), ("turned",)),
    (turned(-0.3), FaceRule(min_side=0, max_yaw=15), ("turned",)),
    (turned(-0.1), FaceRule(min_side=0, max_yaw=15), ()),
    (narrow(40, 40, 0.6), FaceRule(min_score=0.5, sure_score=0.65), ("unsure",)),
    (narrow(40, 40, 0.65), FaceRule(min_score=0.5, sure_score=0.65), ()),
])  # fmt: skip
def test_a_face_gets_the_flags_that_the_rule_says(found, rule, told):
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    assert flags(noise, found, rule) == told


# ---- references


@pytest.mark.parametrize("cosine, kept", [(0.19, [True, True, False]), (0.21, [True, True, True])])
def test_a_reference_of_somebody_else_is_left_out_of_three(cosine, kept):
    """Its own cosine to itself, 1, must not speak for it."""
    rows = np.stack([unit(1), unit(1), unit(cosine, np.sqrt(1 - cosine**2))])
    assert consistent(rows, 0.2) == kept


def test_a_reference_with_a_small_face_is_left_out_and_told(drawn):
    """The squares are 48 px."""
    [folder] = [one for one in list_references(drawn / "refs") if one.name == "p1"]
    at, below = (
        read_references(folder, fakes.FakeFaces(), PreprocessConfig(**fakes.SETTINGS | {"reference_min": least}))
        for least in (48.0, 49.0)
    )
    assert len(at.patches) == 2 and not at.left_out
    assert not below.patches and ("p1/0.png", "has a face of 48 px") in below.left_out


@pytest.mark.parametrize("told, place, problem", [
    ({"bboxes": [[80, 20, 128, 68]]}, 80, ""),
    ({"bboxes": [[8, 20, 56, 68], [80, 10, 128, 128]], "name": ["none", "ana"]}, 80, ""),
    ({"bboxes": [[80, 20, 128, 68]], "name": ["ben"]}, 8, ""),
    ({"shapes": []}, 8, ""),
    ({"bboxes": [[60, 80, 70, 90]]}, 0, "shows no face where its json names the person"),
])  # fmt: skip
def test_of_a_reference_with_several_faces_the_one_is_taken_that_its_json_names(tmp_path, told, place, problem):
    """Both squares are of one size, so that the left one is the largest otherwise."""
    Image.fromarray(fakes.paint([fakes.colour_of(1), fakes.colour_of(2)])).save(tmp_path / "1.png")
    (tmp_path / "1.json").write_text(json.dumps(told))
    settings = PreprocessConfig(**fakes.SETTINGS)
    identity = read_references(ReferenceFolder("ana", (tmp_path / "1.png",)), fakes.FakeFaces(), settings)
    if problem:
        assert ("ana/1.png", problem) in identity.left_out and not identity.patches
        return
    crop = np.tile(fakes.colour_of(1 if place == 8 else 2), (1, 112, 112, 1))
    assert identity.embeddings @ fakes.FakeFaces().embed(crop)[0] > 0.99


class Failing(fakes.FakeFaces):
    """On a picture whose first square is of the second person's colour."""

    def _find(self, picture):
        if (picture[44, 32] == fakes.colour_of(1)).all():
            raise ZeroDivisionError
        return super()._find(picture)


def test_a_reference_on_which_a_model_fails_or_a_process_ends_costs_itself(drawn, tmp_path):
    photos = [drawn / "refs" / name for name in ("p0/0.png", "p0/1.png", "p1/0.png")]
    job = BankPiece((ReferenceFolder("ana", tuple(photos)),), tmp_path, PreprocessConfig(**fakes.SETTINGS), "cpu")
    begun = []
    assert job.run(Failing(), 0, begun.append, frozenset({CAREFULLY, 1})) == 1
    assert begun == [0, 2]
    assert read_identity(tmp_path / identity_file(0)).left_out == (
        ("ana/0.png", "the models failed on it (ZeroDivisionError)"),
        ("ana/1.png", "ended every process that touched it"),
    )


def test_a_reference_that_leads_nowhere_costs_itself(drawn, tmp_path):
    shutil.copytree(drawn / "refs" / "p0", tmp_path / "refs" / "p0")
    (tmp_path / "refs" / "p0" / "9.png").symlink_to(tmp_path / "later.png")
    before = references_digest(tmp_path / "refs")
    [folder] = list_references(tmp_path / "refs")
    identity = read_references(folder, fakes.FakeFaces(), PreprocessConfig(**fakes.SETTINGS))
    assert identity.left_out == (("p0/9.png", "cannot be opened (No such file or directory)"),)
    (tmp_path / "later.png").touch()
    assert references_digest(tmp_path / "refs") != before


def test_of_many_references_those_at_equal_steps_are_taken():
    assert evenly(range(10), 3) == [0, 3, 6] and evenly(range(3), 3) == [0, 1, 2]


def test_a_discovered_person_is_shown_by_the_face_nearest_to_the_middle(whole):
    faces = SeenFaces(np.arange(3), np.zeros(3, np.int64), np.stack([unit(1, 2), unit(1, 0.2), unit(1, -3)]))
    photos, work, config = seen_by(whole)
    ids = [photo.id for photo in photos.photos(0)]
    for most, nearest in ((1, [1]), (2, [0, 1])):
        given = photos, work, config.model_copy(update={"max_references": most})
        found = discovered_identity("person_001", np.arange(3), faces, *given)
        assert list(found.sources) == [ids[k] for k in nearest]
        assert np.array_equal(found.embeddings, faces.embeddings[nearest]) and len(found.patches) == most


def test_of_two_faces_of_one_photo_the_nearer_one_is_the_person():
    rows = np.stack([unit(0, 1), unit(1), unit(1, 1.5), unit(0, 1), unit(1, 0.1)])
    faces = SeenFaces(np.array([0, 0, 0, 1, 1]), np.zeros(5, np.int64), rows)
    assert _once_a_photo(np.array([1, 2, 4]), faces).tolist() == [1, 4]


# ---- what a sample holds


def test_each_person_of_a_sample_has_the_embedding_of_their_own_face(drawn, tmp_path):
    """Who has no name comes last in a sample, wherever they stand."""
    picture = fakes.paint([fakes.colour_of(9), fakes.colour_of(1)])
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "a.png")
    fake_run(drawn, tmp_path / "out", sources=tmp_path / "photos")
    [(record, _, embeddings)] = samples(tmp_path / "out")
    assert [(person.identity, person.face_box.x0) for person in record.people] == [("p1", 80), ("", 8)]
    crops = np.stack([norm_crop(picture, person.landmarks) for person in record.people])
    np.testing.assert_allclose(embeddings, fakes.FakeFaces().embed(crops), atol=1e-3)


def test_a_person_s_record_has_the_body_the_score_and_the_cosine_of_their_face_where_there_are_some():
    here = {"box": [90, 60, 120, 100], "landmarks": face(0).landmarks.tolist(), "score": 0.9, "flags": []}
    detected = {"width": 320, "height": 160, "persons": [{"box": [80, 50, 140, 160], "score": 0.8, "mask": "m"}],
                "faces": [here | {"person": place} for place in (0, -1, -1)]}  # fmt: skip
    matched = {"matches": [["ana", 0.7, 0.6], ["ben", 0.5, None], ["cem", 0.9, 0.9]], "usable": [0, 1]}
    kept = KeptPhoto(3, PhotoInput("a.png", "a.png"), detected, matched, "", "", np.zeros((3, 512), np.float32))
    people = people_of(kept, PreprocessConfig())
    assert [(one.identity, one.match_score, one.cosine) for one in people] == [
        ("ana", 0.7, 0.6), ("ben", 0.5, 0.0), ("", 0.0, 0.0)
    ]  # fmt: skip
    bodies = [(one.person_box, one.person_score, one.mask) for one in people]
    assert bodies == [(Box(80, 50, 140, 160), 0.8, "m"), *[(Box(0, 0, 0, 0), 0.0, "")] * 2]


def test_boxes_that_a_source_gives_shrink_with_its_picture(tmp_path):
    Image.new("RGB", (200, 120)).save(tmp_path / "a.png")
    told = {"url": "https://example.org/a", "bboxes": [[20, 40, 100, 90]], "name": ["ana"]}
    (tmp_path / "a.json").write_text(json.dumps(told))
    photo = PhotoInput("a.png", str(tmp_path / "a.png"), annotation="a.json")
    for most, box in ((200, Box(20, 40, 100, 90)), (100, Box(10, 20, 50, 45))):
        loaded = load_photo(photo, most)
        assert max(loaded.pixels.shape) == most
        assert [(known.box, known.identity) for known in loaded.known.faces] == [(box, "ana")]


def person(box, identity):
    return PersonRecord(Box(0, 0, 0, 0), 0.0, "", box, arcface_template(), 0.9, identity, 0.0, 0.0, 0.0, "")


def test_a_crop_must_hold_those_who_are_known_and_all_where_nobody_is():
    """A stranger at the edge must not force crops to be as wide as the picture."""
    row, ana, stranger = {"width": 320, "height": 160}, Box(100, 60, 120, 100), Box(300, 20, 320, 40)
    assert keep_box([person(ana, "ana"), person(stranger, "")], row) == pytest.approx((93, 46, 127, 114))
    assert keep_box([person(ana, ""), person(stranger, "")], row) == pytest.approx((93, 13, 320, 114))


def test_location_tokens_are_counted_in_the_largest_square_crop():
    """A face's patch of 80 px at (40, 20): with the shorter side made 128 px it is 64 px at (32, 16), 4 x 4 tokens."""
    placed = (arcface_template(112) * 64 / 112 + (32, 16) + 0.5) / 0.8 - 0.5
    config = PreprocessConfig(**fakes.SETTINGS)
    assert [location_tokens(placed, *size, config) for size in ((320, 160), (160, 320))] == [16, 16]


@pytest.mark.parametrize("failed, seen, wanted, stops", [
    (49, 49, 900, False),  # too few to tell
    (6, 50, 900, True), (5, 50, 900, False),  # more than a tenth, and just that
    (1, 8, 8, True), (1, 7, 8, False), (1, 10, 10, False), (2, 10, 10, True),  # all there are, where those are few
])  # fmt: skip
def test_a_run_stops_at_more_failures_than_it_may_have(failed, seen, wanted, stops):
    assert too_many(failed, seen, wanted, 0.1) is stops
