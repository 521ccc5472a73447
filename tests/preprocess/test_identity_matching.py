"""Greedy one-to-one matching: against a literal twin, ties, thresholds, names without references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.preprocess import matching
from anyphoto_cli.preprocess.exclusions import NOTHING
from anyphoto_cli.preprocess.identity_matching import (
    KnownIdentities,
    MatchingRule,
    greedy_pairs,
    iou,
    known_identities,
    match_identities,
)
from anyphoto_cli.preprocess.pieces import load_bank
from anyphoto_cli.types import Box


def unit(*values: float) -> np.ndarray:
    vector = np.zeros(512, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


BANK = known_identities({"ana": np.stack([unit(1), unit(0.9, 0.1)]), "ben": unit(0, 1)[None]}, {})
FAR = [Box(0, 0, 10, 10), Box(50, 0, 60, 10), Box(100, 0, 110, 10)]


def literal(scores: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """As one would say it: look for the best pair that is left, take it, strike out its row and column, again."""
    left = {
        (r, c): scores[r, c]
        for r in range(scores.shape[0])
        for c in range(scores.shape[1])
        if scores[r, c] >= threshold
    }
    pairs = []
    while left:
        best = min(left, key=lambda pair: (-left[pair], pair))
        pairs.append(best)
        left = {pair: score for pair, score in left.items() if pair[0] != best[0] and pair[1] != best[1]}
    return pairs


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 10**6), st.floats(-1, 1))
def test_greedy_is_the_literal_twin(rows, columns, seed, threshold):
    scores = np.random.default_rng(seed).integers(-4, 5, (rows, columns)) / 4  # many ties
    pairs = greedy_pairs(scores, threshold)
    assert pairs == literal(scores, threshold)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)


def test_each_person_once_and_the_best_face_wins():
    faces = np.stack([unit(0.9, 0.3), unit(1), unit(0, 0, 1)])
    found = match_identities(FAR, faces, BANK)
    assert [match.identity if match else None for match in found] == [None, "ana", None]
    assert found[1].score == pytest.approx(1, abs=1e-2) and found[1].cosine == found[1].score


def test_ties_go_to_the_earlier_face_and_the_first_name():
    twins = KnownIdentities(("a", "b"), np.stack([unit(1)] * 2), np.stack([unit(1)] * 2), np.array([0, 1]))
    found = match_identities(FAR[:2], np.stack([unit(1)] * 2), twins)
    assert [match.identity for match in found] == ["a", "b"]


def test_the_threshold_is_inclusive():
    rule = MatchingRule(threshold=0.6, centre_weight=1.0)
    face = unit(0.6, 0.0, 0.8)[None]
    bank = known_identities({"ana": unit(1)[None]}, {})
    score = float(face[0].astype(np.float64) @ unit(1))
    assert match_identities(FAR[:1], face, bank, rule=MatchingRule(score, centre_weight=1.0))[0].identity == "ana"
    assert match_identities(FAR[:1], face, bank, rule=MatchingRule(np.nextafter(score, 1), centre_weight=1.0)) == [None]
    assert rule.threshold == 0.6


def test_named_boxes_help_and_do_not_rule():
    face = unit(0.55, 0.45, 0.7)[None]
    alone = match_identities(FAR[:1], face, BANK, rule=MatchingRule(threshold=0.2))
    assert alone[0].identity == "ana"
    helped = match_identities(FAR[:1], face, BANK, [(FAR[0], "ben")], MatchingRule(threshold=0.2))
    assert helped[0].identity == "ben"
    # A wrong name on a clear face: the embedding outweighs the box.
    assert (
        match_identities(FAR[:1], unit(1)[None], BANK, [(FAR[0], "ben")], MatchingRule(threshold=0.2))[0].identity
        == "ana"
    )


def test_a_name_without_references_counts_by_overlap_alone():
    found = match_identities(FAR, np.stack([unit(0, 0, 1)] * 3), BANK, [(FAR[2], "zoe"), (FAR[1], "")])
    assert [match and match.identity for match in found] == [None, None, "zoe"]
    assert found[2].score == 1 and np.isnan(found[2].cosine)


def test_no_faces_no_bank():
    nobody = known_identities({}, {})
    assert match_identities([], np.zeros((0, 512), np.float32), BANK) == []
    assert match_identities(FAR[:1], unit(1)[None], nobody) == [None]


def test_given_centres_stand_in_for_references():
    assert BANK.centres[0] == pytest.approx(
        unit(*(unit(1) + unit(0.9, 0.1))), abs=1e-6
    )  # none is given: amid the references
    bank = known_identities({"ana": unit(1)[None]}, {"ana": unit(0, 1), "cem": unit(0, 0, 1)})
    assert bank.names == ("ana", "cem") and bank.centres[0] @ unit(0, 1) == pytest.approx(1)
    found = match_identities(FAR[:1], unit(0, 0, 1)[None], bank, rule=MatchingRule(centre_weight=1.0))
    assert found[0].identity == "cem"


@given(st.tuples(*[st.floats(-50, 50)] * 8))
def test_iou_is_symmetric_and_between_0_and_1(v):
    a, b = (Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)) for x0, y0, x1, y1 in (v[:4], v[4:]))
    assert 0 <= iou(a, b) <= 1 + 1e-12 and iou(a, b) == iou(b, a)
    assert iou(a, a) == pytest.approx(1) or a.area < 1e-6


def literal_matches(boxes, embeddings, known, named, rule):
    """Each face against each reference in float64, each pair blended; (name, score, cosine) or None a face."""
    names = sorted({*known.names, *(name for _, name in named)})
    cosines = np.full((len(boxes), len(names)), np.nan)
    for place, name in enumerate(known.names):
        members = known.members[known.of_member == place].astype(np.float64)
        for face, row in enumerate(embeddings.astype(np.float64)):
            best = max([-1.0, *(float((row * member).sum()) for member in members)])
            centre = float((row * known.centres[place].astype(np.float64)).sum())
            cosines[face, names.index(name)] = rule.centre_weight * centre + (1 - rule.centre_weight) * best
    scores = cosines.copy()
    if named:
        for face, column in np.ndindex(*scores.shape):
            told = max([0.0, *(iou(boxes[face], box) for box, name in named if name == names[column])])
            alone = np.isnan(cosines[face, column])
            blended = rule.overlap_weight * told + (1 - rule.overlap_weight) * cosines[face, column]
            scores[face, column] = told if alone else blended
    found = [None] * len(boxes)
    for face, column in literal(scores, rule.threshold):
        found[face] = (names[column], scores[face, column], cosines[face, column])
    return found, scores


@pytest.mark.parametrize("seed", range(6))
def test_many_faces_at_once_are_decided_as_pair_by_pair(seed, monkeypatch):
    """Blocks of faces meet the bank in float32; thresholds lie within 1e-9 of a score, where float32 cannot tell."""
    rng = np.random.default_rng(seed)
    people = rng.standard_normal((40, 512))

    def seen(who):
        rows = people[who] + 1.2 * rng.standard_normal((len(who), 512))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    references = {f"p{k:02d}": seen([k] * (k % 5)) for k in range(30)}  # some without any
    centres = {f"p{k:02d}": seen([k])[0] for k in range(0, 30, 5)}
    known = known_identities(references, centres)
    who = [rng.choice(40, rng.integers(0, 4), replace=False) for _ in range(30)]
    embeddings = np.concatenate([seen(faces) for faces in who])
    named = [[(FAR[place], f"p{k:02d}") for place, k in enumerate(faces) if k % 2] for faces in who]
    detected = [
        {"problem": "", "url": "", "width": 900, "height": 900, "known": [[*box, name] for box, name in told],
         "faces": [{"box": [*FAR[place]], "flags": []} for place in range(len(faces))]}
        for faces, told in zip(who, named, strict=True)
    ]  # fmt: skip
    bank = matching.Bank(known, frozenset(known.names))
    photos = [matching.PhotoInput(f"{n}.png", "") for n in range(30)]
    ends = np.cumsum([0, *map(len, who)])
    monkeypatch.setattr(matching, "_PAIRS", 7 * len(known.members))
    some = literal_matches(FAR[: len(who[3])], embeddings[ends[3] : ends[4]], known, named[3], MatchingRule())[1]
    for threshold in (0.4, *(float(some[some < 0.99].max(initial=0.3)) + moved for moved in (-1e-9, 1e-9))):
        config = PreprocessConfig(match_threshold=threshold)
        rows = matching.match_photos(photos, detected, embeddings, bank, NOTHING, config)
        assert len(rows) == 30
        for n, row in enumerate(rows):
            mine = embeddings[ends[n] : ends[n + 1]]
            found, _ = literal_matches(FAR[: len(mine)], mine, known, named[n], MatchingRule(threshold))
            assert [match and match[0] for match in row["matches"]] == [match and match[0] for match in found]
            for match, wanted in zip(row["matches"], found, strict=True):
                assert match is None or match[1] == pytest.approx(wanted[1], abs=1e-12)
            nearest = (mine.astype(np.float64) @ known.centres.T.astype(np.float64)).max(1, initial=-1.0)
            missed = [value for value, match in zip(nearest, found, strict=True) if match is None]
            assert row["best"] == pytest.approx(missed, abs=1e-4)


def test_matching_reads_the_bank_without_its_patches(whole, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a patch was decoded")

    monkeypatch.setattr("PIL.Image.open", never)
    bank = load_bank(whole / "bank")
    assert bank.known.names == ("p0", "p1", "p2", "p3") and bank.known.members.shape == (8, 512)
    assert bank.known.members.dtype == bank.known.centres.dtype == np.float32 and bank.referenced == {*bank.known.names}
