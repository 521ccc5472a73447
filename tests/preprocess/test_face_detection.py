"""Faces of a picture: once each, with their persons, and with what speaks against them."""

import numpy as np
import pytest

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.sources import PhotoInput
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.files.images import read_picture
from anyphoto_cli.mini.picture import draw_picture
from anyphoto_cli.preprocess.detecting import detect_photos, open_detectors
from anyphoto_cli.preprocess.face_detection import (
    FaceRule,
    assign_to_persons,
    embed_faces,
    enlarged,
    find_faces,
    sharpness,
    without_doubles,
    yaw_of,
)
from anyphoto_cli.types import Box, Face
from tests.preprocess import fakes


def face(x: float, y: float = 0, side: float = 20, score: float = 0.9) -> Face:
    points = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]) * side + (x, y)
    return Face(Box(x, y, x + side, y + side), points, score)


def test_doubles_go_and_neighbours_stay():
    kept = without_doubles([face(0, score=0.8), face(2, score=0.9), face(15), face(60, score=0.6)])
    assert [found.box.x0 for found in kept] == [2, 15, 60] or [found.box.x0 for found in kept] == [15, 2, 60]
    assert {found.score for found in kept} == {0.9, 0.6}


def test_a_face_in_two_person_boxes_belongs_to_the_head_it_is_near():
    persons = [Box(0, 0, 60, 200), Box(30, 0, 130, 200), Box(300, 0, 400, 100)]
    assert assign_to_persons([Box(20, 5, 40, 30), Box(70, 5, 95, 30), Box(500, 0, 520, 20)], persons) == [0, 1, -1]
    assert assign_to_persons([Box(55, 5, 75, 30)], persons[:1]) == [-1]  # only a quarter of it lies inside
    assert assign_to_persons([], persons) == []


def test_windows_stay_in_the_picture():
    picture = np.zeros((100, 200, 3), np.uint8)
    assert enlarged(Box(-5, 10, 50, 90), 0.5, picture) == (0, 0, 78, 100)


@pytest.mark.parametrize(("turn", "sign"), [(0.0, 0), (0.2, 1), (-0.2, -1)])
def test_yaw_is_zero_in_front_and_follows_the_nose(turn, sign):
    found = face(0)
    found.landmarks[2, 0] += turn * 8
    assert np.sign(round(yaw_of(found), 6)) == sign and abs(yaw_of(found)) < 45
    found.landmarks[1] = found.landmarks[0]
    assert yaw_of(found) == 90


def test_a_blurred_face_is_flagged(photos, face_pack):
    import cv2

    picture = read_picture(photos / "groups" / "obama_and_biden.jpg")
    clear = find_faces(picture, [], face_pack)
    assert len(clear) >= 2 and all("blurred" not in found.flags for found in clear[:2])
    smooth = cv2.GaussianBlur(picture, (0, 0), 6)
    for found in clear:
        assert sharpness(smooth, found.face) < sharpness(picture, found.face)
    assert all("blurred" in found.flags for found in find_faces(smooth, [], face_pack))


def test_persons_and_the_whole_picture_give_each_face_once(photos, face_pack):
    """With or without person boxes, the same people; their embeddings tell them apart."""
    picture = read_picture(photos / "groups" / "two_people.jpg")
    alone = find_faces(picture, [], face_pack)
    height, width = picture.shape[:2]
    halves = [Box(0, 0, width / 2, height), Box(width / 2, 0, width, height)]
    together = find_faces(picture, halves, face_pack)
    assert len(alone) == len(together) == 2
    assert [found.person for found in alone] == [-1, -1] and {found.person for found in together} <= {-1, 0, 1}
    embeddings = embed_faces(picture, together, face_pack)
    assert embeddings.shape == (2, 512) and abs(float(embeddings[0] @ embeddings[1])) < 0.3
    assert embed_faces(picture, [], face_pack).shape == (0, 512)


@pytest.mark.parametrize(("face_score", "unsure"), [(0.1, True), (0.5, False)])
def test_faces_below_a_half_are_kept_where_the_score_asked_for_is_lower(photos, face_pack_folder, face_score, unsure):
    """insightface's own least score is 0.5; the photo has two clear faces, and others of 0.1 to 0.2."""
    fakes.register()
    config = PreprocessConfig(face_pack=str(face_pack_folder), person_model="fake", face_score=face_score)
    photo = PhotoInput("kit", str(photos / "groups" / "kit_with_rose.jpg"))
    [row], _ = detect_photos([photo], open_detectors(config, threads=1), config)
    scores = [found["score"] for found in row["faces"]]
    assert sum(score > 0.8 for score in scores) == 2 and (min(scores) < 0.5) == unsure
    assert min(scores) >= face_score


def test_drawn_people_are_found_with_their_persons():
    pack, right, total = open_faces("mini"), 0, 0
    for seed in range(20):
        drawn = draw_picture(seed, style="photo", obstacles=False)
        found = find_faces(drawn.pixels, [person.person_box for person in drawn.people], pack, FaceRule(min_side=12))
        for person in drawn.people:
            if person.visible > 0.7:
                total += 1
                middle = person.landmarks.mean(0)
                right += any(np.abs(f.face.landmarks.mean(0) - middle).max() < 4 for f in found)
    assert right >= 0.95 * total > 20
