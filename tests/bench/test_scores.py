"""The scores against their identities, an independent computation, and the reference evaluator's arithmetic."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyphoto_cli.bench import copy_paste, interval, score_faces, summarize
from anyphoto_cli.bench.scores import cosines
from anyphoto_cli.bench.statistics import interval_over_cases
from anyphoto_cli.bench.summing import METRICS, sum_up

seeds = st.integers(0, 2**32 - 1)


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(*shape, 16))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def plain_copy_paste(g, t, r) -> float:
    """The textbook, in the highest precision numpy has."""
    g, t, r = (np.asarray(v, np.longdouble) / np.sqrt((np.asarray(v, np.longdouble) ** 2).sum()) for v in (g, t, r))
    angle = [np.arccos(np.clip((a * b).sum(), -1, 1)) for a, b in ((g, t), (g, r), (t, r))]
    return float((angle[0] - angle[1]) / angle[2])


def evaluators_copy_paste(g, t, r) -> float:
    """As WithAnyone's evaluator computes it, in its float32."""
    g, t, r = (np.asarray(v, np.float32) for v in (g, t, r))
    g, t, r = (v / (np.linalg.norm(v) + np.float32(1e-6)) for v in (g, t, r))
    angle = [np.arccos(np.clip(np.dot(a, b), -1.0, 1.0)) for a, b in ((g, t), (g, r), (t, r))]
    return 0.0 if angle[2] < 1e-6 else float((angle[0] - angle[1]) / angle[2])


@given(seeds)
def test_copy_paste_is_the_textbooks_and_near_the_evaluators(seed):
    g, t, r = unit(3, seed=seed) * np.random.default_rng(seed).uniform(0.1, 30, (3, 1))
    assert copy_paste(g, t, r) == pytest.approx(plain_copy_paste(g, t, r), abs=1e-6)
    assert copy_paste(g, t, r) == pytest.approx(evaluators_copy_paste(g, t, r), abs=5e-3)
    assert -1 - 1e-9 <= copy_paste(g, t, r) <= 1 + 1e-9
    assert copy_paste(g, r, t) == pytest.approx(-copy_paste(g, t, r), abs=1e-12)


def test_copy_paste_at_the_ends_the_middle_and_between():
    t, r = unit(2)
    theta = np.arccos(t @ r)
    on_the_way = [np.sin((1 - s) * theta) * t + np.sin(s * theta) * r for s in (0, 0.25, 0.5, 0.75, 1)]
    assert [copy_paste(g, t, r) for g in on_the_way] == pytest.approx([-1, -0.5, 0, 0.5, 1], abs=1e-7)
    assert copy_paste(t, t, r) == pytest.approx(-1, abs=1e-12) and copy_paste(r, t, r) == pytest.approx(1, abs=1e-12)
    assert evaluators_copy_paste(t * 20, t * 20, r * 20) == pytest.approx(-0.9993, abs=2e-3)  # their printed -0.999
    assert copy_paste(t, t, t) == 0 and copy_paste(r, t, t) == 0
    zero = np.zeros(16)
    assert copy_paste(zero, t, r) == 0 and np.isfinite(copy_paste(t, zero, r))


@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_scores_do_not_depend_on_order_scale_or_format(seed, faces, originals, references):
    rng = np.random.default_rng(seed)
    gen, gt, ref = unit(faces, seed=seed), unit(originals, seed=seed + 1), unit(references, seed=seed + 2)
    plain = score_faces(gen, gt, list(ref))
    order, others, refs = rng.permutation(faces), rng.permutation(originals), rng.permutation(references)
    mixed = score_faces(gen[order] * 7, (gt[others] * 0.01).astype(np.float32), list(ref[refs] * 1e4))
    for name in ("sim_gt", "sim_ref", "copy_paste", "blending"):
        one, other = getattr(plain, name), getattr(mixed, name)
        assert (one is None) == (other is None) and (one is None or one == pytest.approx(other, abs=1e-6))
    swapped = score_faces(gen, ref, list(gt))
    assert (swapped.sim_gt, swapped.sim_ref) == pytest.approx((plain.sim_ref, plain.sim_gt))
    if plain.copy_paste is not None:
        assert swapped.copy_paste == pytest.approx(-plain.copy_paste, abs=1e-9)


@given(seeds, st.integers(1, 4), st.integers(1, 5))
def test_the_matching_is_the_best_one_and_values_are_those_of_its_cells(seed, originals, faces):
    gen, gt = unit(faces, seed=seed), unit(originals, seed=seed + 1)
    case = score_faces(gen, gt, None)
    similar, few = gen @ gt.T, min(faces, originals)
    rows = itertools.permutations(range(faces), few)
    best = max(
        similar[row, column].sum()
        for row in map(list, rows)
        for column in map(list, itertools.combinations(range(originals), few))
    )
    assert case.sim_gt == pytest.approx(best / few)
    matched = [(k, face.original) for k, face in enumerate(case.faces) if face.original is not None]
    assert [case.faces[k].sim_gt for k, _ in matched] == pytest.approx([similar[cell] for cell in matched])
    rest = [similar[k, t] for k in range(faces) for t in range(originals) if (k, t) not in matched]
    if originals < 2 or not rest:
        assert case.blending is None
    else:
        assert case.blending == pytest.approx(np.mean(rest))


@pytest.mark.parametrize("people", [1, 2, 4])
def test_the_photo_itself_and_the_reference_as_result(people):
    gt, ref = unit(people, seed=1), unit(people, seed=2)
    photo, pasted = score_faces(gt, gt, list(ref)), score_faces(ref, gt, list(ref))
    assert (photo.sim_gt, photo.copy_paste) == pytest.approx((1, -1)) and photo.sim_ref == pytest.approx(pasted.sim_gt)
    assert (pasted.sim_ref, pasted.copy_paste) == pytest.approx((1, 1))
    if people == 2:
        similar = gt @ gt.T
        assert photo.blending == pytest.approx(similar[0, 1])


def test_faces_too_few_too_many_and_none():
    gt, ref = unit(3, seed=1), unit(3, seed=2)
    fewer = score_faces(gt[:2], gt, list(ref))
    assert fewer.sim_gt == pytest.approx(1) and fewer.copy_paste is None and fewer.sim_ref is not None
    more = score_faces(np.concatenate([unit(1, seed=9), gt]), gt, list(ref))
    assert more.sim_gt == pytest.approx(1) and more.copy_paste is None
    assert more.faces[0].sim_gt is None and more.faces[0].original is None
    nobody = score_faces(np.zeros((0, 16)), gt, list(ref))
    assert (nobody.sim_gt, nobody.sim_ref, nobody.copy_paste, nobody.blending, nobody.faces) == (None,) * 4 + ((),)
    unseen = score_faces(gt, np.zeros((0, 16)), list(ref))
    assert unseen.sim_gt is None and unseen.sim_ref is not None and unseen.copy_paste is None
    lacking = score_faces(gt, gt, [ref[0], None, ref[2]])
    assert lacking.sim_gt == pytest.approx(1) and lacking.sim_ref is None and lacking.copy_paste is None
    assert score_faces(gt, gt, None).sim_ref is None and score_faces(gt, gt, []).sim_ref is None
    assert score_faces(unit(1), unit(1), [unit(1)[0]]).copy_paste == 0


def test_an_extra_face_never_lowers_the_similarity():
    for seed in range(20):
        gen, gt = unit(3, seed=seed), unit(3, seed=seed + 100)
        extra = np.concatenate([gen, unit(1, seed=seed + 200)])
        assert score_faces(extra, gt, None).sim_gt >= score_faces(gen, gt, None).sim_gt - 1e-12


def test_copy_paste_takes_each_face_its_two_own_matches():
    """Two independent matchings: who a face resembles among originals need not be who it resembles among references."""
    t, r = np.eye(16)[:2], np.eye(16)[2:4]
    gen = np.stack([t[0] + r[1], t[1] + r[0]])
    case = score_faces(gen, t, list(r))
    assert [(face.original, face.reference) for face in case.faces] == [(0, 1), (1, 0)]
    assert case.copy_paste == pytest.approx(0)


def test_zeros_and_nonsense():
    assert cosines(np.zeros((1, 4)), np.ones((1, 4)))[0, 0] == 0
    assert cosines([[1e300, 0]], [[1e300, 0]])[0, 0] == 1 and cosines([[1e-300, 0]], [[3, 0]])[0, 0] == 1
    for wrong in ([[np.nan, 1]], [1.0, 2.0]):
        with pytest.raises(ValueError, match="rows of finite numbers"):
            score_faces(wrong, [[1.0, 2.0]], None)
    with pytest.raises(ValueError, match="one row"):
        copy_paste([[1.0]], [1.0], [1.0])


def test_summaries_plain_and_as_the_evaluator_filters_them():
    values = [0.5, 0.52, 0.49, 0.51, None, 0.5, float("nan"), 0.0]
    plain, filtered = summarize(values), summarize(values, filtered=True)
    assert (plain.n, plain.removed, plain.missing) == (6, 0, 2) and plain.mean == pytest.approx(2.52 / 6)
    assert (filtered.n, filtered.removed) == (5, 1) and filtered.mean == pytest.approx(0.504)
    assert np.isnan(summarize([]).mean) and summarize([], True).n == 0 and np.isnan(interval([])).all()
    constant = summarize([0.3] * 60, True)
    assert (constant.n, constant.removed) == (60, 0)
    low, high = interval(np.random.default_rng(0).normal(1, 2, 400))
    assert low < 1 < high and (high - low) == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert interval(values) == interval(values)


def test_several_looks_at_a_case_are_no_several_cases():
    """Three face models that say the same make nobody surer than one of them; and one says what it always did."""
    values = np.random.default_rng(0).normal(size=30).tolist()
    assert interval_over_cases([[value] * 3 for value in values]) == pytest.approx(interval(values))
    assert interval_over_cases([[value] for value in values]) == interval(values)
    known = np.array(values)
    rng = np.random.default_rng(0)
    means = [known[rng.integers(30, size=30)].mean() for _ in range(2000)]
    assert interval(values) == tuple(np.quantile(means, [(1 - 0.95) / 2, (1 + 0.95) / 2]))
    lines = [{"subset": "p1", "status": "scored", "legs": {name: dict.fromkeys(METRICS, value) for name in "abc"},
              "clip_i": value, "clip_t": None, "aesthetic": None} for value in values]  # fmt: skip
    told = sum_up(lines, {}, {})["subsets"]["all"]["metrics"]
    assert [told["sim_gt"][key] for key in ("low", "high")] == [told["clip_i"][key] for key in ("low", "high")]
    assert (told["sim_gt"]["n"], told["clip_i"]["n"], told["clip_t"]["low"]) == (90, 30, None)
    assert interval_over_cases([[1.0, None], [None, None], [3.0, 3.0]])[1] == 3  # what a model did not see counts not
    low, high = interval_over_cases([[0.0] * 3, [1.0]] * 100)
    assert 0.2 < low < 0.25 < high < 0.35  # around the mean that is told, of all 400 values


def test_importing_the_scores_loads_no_model():
    code = "import sys, anyphoto_cli.bench; print([m for m in ('torch', 'onnxruntime', 'insightface', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
