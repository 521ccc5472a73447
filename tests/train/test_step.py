"""One micro-step with stand-ins for the networks: what they are told, and what the loss is made of."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.config.train import LossConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.train import frozen, objective
from anyphoto_cli.train.batches import ShardedSamples, batches
from anyphoto_cli.train.changes import changes, flat
from anyphoto_cli.train.crops import SquareCrop
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.examples import Example, _chosen
from anyphoto_cli.train.face_loss import FaceLoss
from anyphoto_cli.train.flow_matching import draw_noise
from anyphoto_cli.train.frozen import Encoded, Parts, location_tokens
from anyphoto_cli.train.models import open_models
from anyphoto_cli.train.optimiser import trained_parameters
from anyphoto_cli.types import Box
from tests.train.test_run import config

CPU = torch.device("cpu")


def example(**more):
    """64 px, two faces of 2 and 3 tokens; the references look another way than the picture's own faces."""
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 0, :2] = masks[1, 3, :3] = True
    told = dict(
        key="k", picture=np.zeros((64, 64, 3), np.uint8), caption="", canvases=np.zeros((2, 64, 64, 3), np.uint8),
        masks=masks, embeddings=np.eye(2, 512, dtype=np.float32), landmarks=np.zeros((2, 5, 2)),
        own=np.eye(2, 512, 7, dtype=np.float32), replaced=np.ones(2, bool), dropped=False,
    )  # fmt: skip
    return Example(**told | more)


def parts(transformer=None, vae=None):
    return Parts(transformer, vae, None, torch.nn.Identity(), CPU, torch.float32, guidance=2.5)


@pytest.fixture
def micro_step(monkeypatch):
    """LossConfig -> (terms, what transformer and faces' loss were told, whom they were to resemble), the loss 0.5."""

    def of(step=2, dropped=False, **loss):
        told, wanted = {}, []

        def transformer(**given):
            told.update(given)
            return (torch.zeros_like(given["hidden_states"]),)

        def face_loss(clean, targets, *_, **how):
            told.update(how)
            wanted.extend(target.embedding.argmax().item() for group in targets for target in group)
            return FaceLoss(torch.tensor(0.5, requires_grad=True), torch.tensor([0.4, 0.6]))

        monkeypatch.setattr(objective, "face_loss", face_loss)
        transformer.config = SimpleNamespace(guidance_embeds=True)
        encoded = Encoded(torch.zeros(1, 16, 8, 8), [], torch.zeros(1, 4, 8), torch.zeros(1, 8))
        fixed = {"seed": 1, "step": step, "rank": 0, "encoded": encoded}
        terms = objective.objective([example(dropped=dropped)], parts(transformer), LossConfig(**loss), None, **fixed)
        return terms, told, wanted

    return of


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_faces_weigh_as_much_as_is_asked_for(micro_step, weight):
    terms, told, _ = micro_step(face_weight=weight)
    assert float(terms.loss.detach()) == pytest.approx(float(terms.flow) + weight * 0.5)
    assert float(terms.face) == 0.5 and terms.valid == terms.shown == 2 and float(terms.cosines) == pytest.approx(1.0)
    assert told["guidance"].tolist() == [2.5]


def test_without_identity_loss_nobody_is_looked_at(micro_step):
    terms, _, wanted = micro_step(face_weight=0.0)
    assert terms.loss.item() == terms.flow.item() and wanted == [] and not terms.with_faces


def test_faces_must_resemble_whom_the_config_says(micro_step):
    assert micro_step(face_target="reference")[2] == [0, 1]
    assert micro_step(face_target="picture")[2] == [7, 8]


def test_a_face_that_the_model_was_not_told_of_counts_as_the_config_says(micro_step):
    assert micro_step(dropped=True)[2] == [0, 1]
    assert micro_step(dropped=True, face_on_dropped=False)[2] == []
    assert micro_step(face_on_dropped=False)[2] == [0, 1]


def test_faces_count_from_the_size_that_the_config_says(micro_step):
    assert micro_step()[1]["least_eyes"] == 12 and micro_step(face_least_eyes=7.5)[1]["least_eyes"] == 7.5


@pytest.mark.parametrize("key, was, other", [("face_on_dropped", True, False), ("face_least_eyes", 12.0, 8.0)])
def test_a_run_of_before_the_key_goes_on_as_it_was(key, was, other):
    before = flat(config("shards", "run").told())
    assert before.pop(f"loss.{key}") == was
    assert changes(Path("run"), 1, before, flat(config("shards", "run").told()), ()) == []
    now = flat(config("shards", "run", loss={key: other}).told())
    with pytest.raises(InputError, match=f"loss.{key}: this run began with {was}, now it is {other}"):
        changes(Path("run"), 1, before, now, ())


@pytest.mark.parametrize("mean", [-3.0, 0.0, 3.0])
def test_times_are_drawn_where_the_config_says(micro_step, mean):
    wanted = torch.sigmoid(torch.tensor(mean)).item()
    for step in range(4):
        terms, told, _ = micro_step(step, time_mean=mean, time_std=0.01)
        assert told["timestep"].item() == pytest.approx(wanted, abs=0.02) and terms.time == told["timestep"].item()


def test_the_posterior_s_noise_is_not_the_noise_the_picture_is_mixed_with(monkeypatch):
    """Else X_0 would tell the model X_1, which no render can."""
    shape = (2, 16, 8, 8)
    monkeypatch.setattr(frozen, "posterior", lambda *_: SimpleNamespace(mean=torch.zeros(shape), std=torch.ones(shape)))
    vae = SimpleNamespace(dtype=torch.float32, config=SimpleNamespace(shift_factor=0.0, scaling_factor=1.0))
    clean = frozen._latents([example(), example()], parts(vae=vae), 3, 4, 5)
    assert clean.std() == pytest.approx(1, abs=0.1)
    mixed = draw_noise(shape, 3, 4, 5)
    assert abs(torch.corrcoef(torch.stack([clean.flatten(), mixed.flatten()]))[0, 1]) < 0.1


def test_a_dropped_sample_shows_places_and_nobody(monkeypatch):
    monkeypatch.setattr(frozen, "encode", lambda vae, pixels, *_: torch.ones(len(pixels), 16, 8, 8))
    kept, dropped = location_tokens([example(), example(dropped=True)], parts(), MethodConfig(), torch.Generator())
    assert kept.lengths == dropped.lengths == (2, 3) and torch.equal(kept.ids, dropped.ids)
    assert kept.tokens.all() and kept.embeddings.argmax(1).tolist() == [0, 1]
    assert not dropped.tokens.any() and not dropped.embeddings.any()


def test_who_is_cut_off_is_not_drawn():
    """Half of a face in the crop is nobody whom a loss could look at; most of one is enough."""
    half, most, whole = Box(80, 0, 120, 40), Box(62, 0, 102, 40), Box(0, 0, 40, 40)
    pairs = (("ana", half), ("ben", most), (None, whole), ("eve", whole))
    people = [SimpleNamespace(identity=name, face_box=box) for name, box in pairs]
    assert _chosen(people, SquareCrop(0, 0, 100, 64), {"ana", "ben"}, 8, np.random.default_rng(0)) == [1]


def test_a_sample_is_worn_another_way_in_every_epoch(mini_shards):
    data = {"degradations": {"gaussian_noise": 1.0}, "replacement_max": 0.0, "identity_drop": 0.0, "text_drop": 0.0}
    told, seen = config(mini_shards, "unused", data=data), {}
    samples = ShardedSamples(Path(told.data.shards))
    for batch in itertools.islice(batches(samples, told, 0, 0, 1), 2 * (len(samples) // 2)):
        for made in batch:
            seen.setdefault(made.key, []).append(made.canvases)
    pairs = [(one, other) for one, other, *_ in (made for made in seen.values() if len(made) > 1)]
    assert len(pairs) > 12 and not any(np.array_equal(one, other) for one, other in pairs)


def test_the_identity_loss_alone_reaches_every_trained_number(mini_shards, monkeypatch):
    """Through recogniser, VAE, estimate and every block, with recomputation; the flow loss would hide a gap."""
    told = config(mini_shards, "unused", data={"identity_drop": 0.0}, loss={"face_t_max": 1.0})
    models = open_models(told, Ranks())
    trained = trained_parameters(models.transformer)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a fresh adapter ends in zeros, through which nothing passes
        for parameter in trained.values():
            parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.05)
    monkeypatch.setattr(objective, "flow_loss", lambda said, *_: said.sum() * 0)
    batch = next(batches(ShardedSamples(Path(told.data.shards)), told, 0, 0, 1))
    terms = objective.objective(batch, models.parts, told.loss, told.method, seed=0, step=0, rank=0)
    assert terms.valid > 0
    terms.loss.backward()
    reached = {name for name, p in trained.items() if p.grad is not None and p.grad.norm() > 1e-8}
    assert reached == trained.keys() and {name.split(".")[0] for name in reached} == {
        "id_projector", "x_embedder", "transformer_blocks", "single_transformer_blocks"
    }  # fmt: skip


def test_a_fresh_adapter_follows_from_the_seed(mini_shards):
    def fresh(seed):
        state = open_models(config(mini_shards, "unused", seed=seed), Ranks()).transformer.state_dict()
        return torch.cat([value.flatten() for key, value in state.items() if "lora_A" in key])

    one, again, other = map(fresh, (1, 1, 2))
    assert one.any() and torch.equal(one, again) and not torch.equal(one, other)


def test_every_rank_opens_the_face_pack_on_its_own_card(mini_shards, monkeypatch):
    from anyphoto_cli.train import models

    opened = []
    monkeypatch.setattr(models.memory, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(models, "open_faces", lambda pack, device: opened.append(device))
    monkeypatch.setattr(models.memory, "open_pipeline", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_models(config(mini_shards, "unused"), Ranks(3, 4, 3))
    assert opened == ["cuda:3"]
