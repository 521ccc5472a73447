"""What the model is trained on, from real shards: places, patches, embeddings, and chance that follows from the seed."""

import numpy as np
import pytest

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.config.train import DEGRADATION_RATES, DataConfig
from anyphoto_cli.data.samples import decode_sample
from anyphoto_cli.data.shards import read_manifest, read_shard
from anyphoto_cli.errors import InputError
from anyphoto_cli.faces.packs import open_faces
from anyphoto_cli.train.degradations import DEGRADATIONS
from anyphoto_cli.train.examples import Bank, make_example

METHOD = MethodConfig(patch_size=112)
PLAIN = DataConfig(shards="x", resolution=128, degradations={}, identity_drop=0.0, text_drop=0.0)


@pytest.fixture(scope="module")
def records(mini_shards):
    shards = read_manifest(mini_shards).shards
    return [decode_sample(sample) for shard in shards for sample in read_shard(mini_shards / "shards" / shard.name)]


@pytest.fixture(scope="module")
def bank(mini_shards):
    return Bank(mini_shards / "bank", 112)


def examples(records, bank, data=PLAIN, p=0.0, seed=0):
    made = [make_example(*entry, bank, data, METHOD, p=p, seed=(seed, 0, n)) for n, entry in enumerate(records)]
    return [example for example in made if example is not None]


def test_the_canvas_shows_the_picture_s_own_face_where_it_is(records, bank):
    """Without replacement and degradation: under the mask canvas and picture are nearly the same face."""
    made = examples(records, bank)
    assert len(made) >= 20
    faces = open_faces("mini")
    close = []
    for example in made:
        assert example.picture.shape == (128, 128, 3) and not example.replaced.any() and not example.dropped
        assert np.allclose(example.embeddings, example.own) and np.allclose(np.linalg.norm(example.own, axis=1), 1)
        for canvas, mask, points in zip(example.canvases, example.masks, example.landmarks, strict=True):
            x, y = np.clip(points.mean(0) // 16, 0, 7).astype(int)
            assert mask[y, x] and (canvas[np.kron(~mask, np.ones((16, 16), bool))] == 255).all()
        crops = [faces.embed(_crop(pixels, example.landmarks)) for pixels in (example.picture, example.canvases)]
        close += (crops[0] * crops[1]).sum(1).tolist()
    # Rotation is read, not applied: a rolled head lies upright on its canvas.
    assert np.mean(close) > 0.7


def _crop(pixels, landmarks):
    from anyphoto_cli.faces.norm_crop import norm_crop

    pictures = pixels if pixels.ndim == 4 else [pixels] * len(landmarks)
    return np.stack([norm_crop(picture, points) for picture, points in zip(pictures, landmarks, strict=True)])


def test_another_photo_brings_its_own_embedding(records, bank):
    made = examples(records, bank, p=1.0)
    assert all(example.replaced.all() for example in made)
    cosines = np.concatenate([(example.embeddings * example.own).sum(1) for example in made])
    assert 0.3 < cosines.mean() < 0.97  # the same person on another day
    canvases = np.concatenate([example.canvases for example in examples(records, bank)])
    assert not np.array_equal(np.concatenate([example.canvases for example in made]), canvases)


def test_of_a_person_only_the_patch_that_is_pasted_is_decoded(records, mini_shards, monkeypatch):
    """And none stays: 256 people of 32 patches of 448 px are 6.6 GB."""
    from anyphoto_cli.data import bank as bank_files

    decoded, whole = [], bank_files._from_png
    monkeypatch.setattr(bank_files, "_from_png", lambda data: decoded.append(len(data)) or whole(data))
    bank = Bank(mini_shards / "bank", 112)
    pasted = sum(int(example.replaced.sum()) for example in examples(records, bank, p=0.5))
    assert len(decoded) == pasted > 10 and not any(bank.identity(name).patches for name in bank.names)


def test_everything_follows_from_the_seed(records, bank):
    data = PLAIN.model_copy(update={"degradations": DEGRADATION_RATES, "identity_drop": 0.15, "text_drop": 0.1})
    one, again, other = (examples(records, bank, data, p=0.5, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one, again, strict=True):
        assert a.key == b.key and a.caption == b.caption and a.dropped == b.dropped
        assert np.array_equal(a.canvases, b.canvases) and np.array_equal(a.embeddings, b.embeddings)
    assert any(not np.array_equal(a.canvases, b.canvases) for a, b in zip(one, other, strict=False))
    many = [e for seed in range(12) for e in examples(records, bank, data, p=0.5, seed=seed)]
    assert np.mean([e.dropped for e in many]) == pytest.approx(0.15, abs=0.06)
    assert np.mean([e.caption == "" for e in many]) == pytest.approx(0.1, abs=0.06)
    assert np.mean(np.concatenate([e.replaced for e in many])) == pytest.approx(0.5, abs=0.08)


def test_each_reference_tells_what_it_went_through(records, bank):
    data = PLAIN.model_copy(update={"degradations": {"grayscale": 0.3, "occlusion": 0.3}})
    worn, plain = examples(records, bank, data, p=0.5, seed=1), examples(records, bank, PLAIN, p=0.5, seed=1)
    pairs = [
        (names, np.array_equal(canvas, untouched))
        for a, b in zip(worn, plain, strict=True)
        for names, canvas, untouched in zip(a.worn, a.canvases, b.canvases, strict=True)
    ]
    assert all((names == ()) is alike for names, alike in pairs)
    assert {names for names, _ in pairs} == {(), ("grayscale",), ("occlusion",), ("occlusion", "grayscale")}


def test_p_moves_nothing_else(records, bank):
    own, other = examples(records, bank, p=0.0), examples(records, bank, p=1.0)
    for a, b in zip(own, other, strict=True):
        assert np.array_equal(a.picture, b.picture) and np.array_equal(a.landmarks, b.landmarks)


def test_no_more_faces_than_asked_for_and_all_of_them_by_turns(records, bank):
    few = PLAIN.model_copy(update={"max_faces": 1})
    seen = [{tuple(e.landmarks[0].mean(0).round().tolist()) for e in examples([records[k]], bank, few, seed=seed)}
            for k in range(12) for seed in range(8)]  # fmt: skip
    assert all(len(places) == 1 for places in seen)
    assert any(len(set.union(*seen[8 * k : 8 * k + 8])) > 1 for k in range(12))


def test_degradations_of_the_config_are_those_of_the_code():
    assert set(DEGRADATION_RATES) == set(DEGRADATIONS)
    with pytest.raises(ValueError, match="'melting' is no degradation; known: color_jitter"):
        DataConfig(shards="x", degradations={"melting": 0.5})
    with pytest.raises(ValueError, match="the probability of blur is not between 0 and 1"):
        DataConfig(shards="x", degradations={"blur": 1.5})


def test_a_bank_that_does_not_fit_is_refused(mini_shards, tmp_path):
    with pytest.raises(
        InputError, match=r"method.patch_size: holds patches of 112 px, the method wants 448. Run prepr"
    ):
        Bank(mini_shards / "bank", 448)
    with pytest.raises(InputError, match="holds no reference bank. Run preprocess with --refs"):
        Bank(tmp_path, 112)
