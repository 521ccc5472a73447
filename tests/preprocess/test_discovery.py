"""Who is who without a bank: average linkage, and groups of real and of made-up faces."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.sources import list_photos
from anyphoto_cli.preprocess import average_linkage as linking
from anyphoto_cli.preprocess.average_linkage import average_linkage
from anyphoto_cli.preprocess.detecting import Detectors, detect_photos
from anyphoto_cli.preprocess.discovery import SeenFaces, cluster, same_person


def faces_of(counts, alike=0.6, seed=0, size=512):
    """Unit vectors in mixed order, and whose each is; the mean cosine of one person's is `alike`."""
    rng = np.random.default_rng(seed)
    who = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    rows = np.sqrt(alike) * _unit(rng, len(counts), size)[who] + np.sqrt(1 - alike) * _unit(rng, len(who), size)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), who


def _unit(rng, count, size):
    rows = rng.standard_normal((count, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def parts(labels):
    return {tuple(np.flatnonzero(labels == one)) for one in set(labels.tolist())}


@pytest.mark.parametrize("size", [3, 16, 512])
def test_it_is_average_linkage_to_the_last_pair(size, monkeypatch):
    monkeypatch.setattr(linking, "_CELLS", 500)  # the table in many pieces
    for seed, least in enumerate((0.0, 0.2, 0.4, 0.6, 0.9)):
        rows, _ = faces_of(np.random.default_rng(seed).integers(1, 40, 6), 0.5, seed, size)
        rows[7] = rows[3]
        tree = linkage(rows.astype(np.float64), "average", metric="cosine")
        assert parts(average_linkage(rows, least)) == parts(fcluster(tree, 1 - least, "distance"))
    assert average_linkage(rows[:1], 0.4).tolist() == [0] and not len(average_linkage(rows[:0], 0.4))


@pytest.mark.parametrize("counts", [[10, 10], [12] * 5, [20], [3], [7, 1, 1, 2]])
def test_people_are_told_apart_and_one_person_alone_is_one(counts):
    for seed in range(5):
        rows, who = faces_of(counts, seed=seed)
        groups = cluster(SeenFaces(np.arange(len(rows)), np.zeros(len(rows), int), rows), 3, 0.4)
        assert {tuple(group) for group in groups} == {part for part in parts(who) if len(part) >= 3}


def test_a_person_is_in_so_many_photos_and_once_in_each():
    rows, _ = faces_of([4])
    twice = SeenFaces(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 0]), rows)
    assert [len(group) for group in cluster(twice, 3, 0.4)] == [3] and not cluster(twice, 4, 0.4)


def test_of_the_real_photos_everybody_is_one(photos, face_pack):
    class Nobody:
        def persons(self, pictures, least_score):
            return [[] for _ in pictures]

    listed = [photo for photo in list_photos(photos) if photo.id.startswith(("groups", "refs"))]
    detected, rows = detect_photos(listed, Detectors(Nobody(), face_pack), PreprocessConfig())
    photo = np.repeat(np.arange(len(listed)), [len(row["faces"]) for row in detected])
    groups = cluster(SeenFaces(photo, np.zeros(len(photo), int), rows), 2, 0.4)
    shown = [{listed[photo[face]].id.split("/", 1)[1] for face in group} for group in groups]
    groups_of = {"obama": "obama1 obama_and_biden two_people", "biden": "obama_and_biden two_people",
                 "kit_harington": "johnsnow_test1 kit_with_rose", "rose_leslie": "kit_with_rose",
                 "alex_lacamoire": "alex_lacamoire1"}  # fmt: skip
    wanted = [
        {f"{name}.jpg" for name in where.split()} | {one.id[5:] for one in listed if one.id.startswith(f"refs/{who}/")}
        for who, where in groups_of.items()
    ]
    assert sorted(map(sorted, shown)) == sorted(map(sorted, wanted))


def test_a_pack_s_own_threshold_may_only_be_stricter(monkeypatch):
    """mini's calibration says .2403; one over too few people is not believed."""
    told = [same_person(PreprocessConfig(face_pack="mini", match_threshold=least)) for least in (0.1, 0.3)]
    assert told == [0.2403, 0.3]
    few = SimpleNamespace(threshold=0.9, believed=False)
    monkeypatch.setattr("anyphoto_cli.preprocess.discovery.find_calibration", lambda analyzer: few)
    assert same_person(PreprocessConfig(face_pack="mini")) == 0.4
