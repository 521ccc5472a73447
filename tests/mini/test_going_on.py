"""Training that goes on from what is shipped, and encoders that learn to read first."""

import numpy as np
import pytest
import torch
from torch import nn

from anyphoto_cli.faces.recogniser_torch import load_recogniser
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.picture import draw_picture
from anyphoto_cli.mini.pretrain import base, face_settle
from anyphoto_cli.mini.pretrain.adopt import adopt_shipped
from anyphoto_cli.mini.pretrain.base import MiniBase, is_hidden
from anyphoto_cli.mini.pretrain.face_pictures import DrawnPictures, draw_chunk
from anyphoto_cli.mini.pretrain.face_steady import Trainable, write_back
from anyphoto_cli.mini.pretrain.heed import heard, heed_more
from anyphoto_cli.mini.pretrain.latents import chunk_file, chunk_of, encode, prepare_latents
from anyphoto_cli.mini.pretrain.loop import Schedule, begin_with, fit, load_trained, progress_of, spawn
from anyphoto_cli.mini.pretrain.onnx_file import read_whole, write_halved
from anyphoto_cli.mini.pretrain.phases import last_begun
from anyphoto_cli.mini.pretrain.reading import Reader, captioned, reading_loss, trained_encoders
from anyphoto_cli.mini.types import SCENES, STYLES


def test_adopted_weights_are_the_shipped_ones(tmp_path):
    from safetensors.torch import load_file

    adopt_shipped(tmp_path)
    adopted = load_trained(tmp_path, "base", MiniBase())
    stored = load_file(shipped.base_folder() / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, value in adopted.transformer.state_dict().items():
        assert torch.equal(value.half(), stored[name]), name
    assert progress_of(tmp_path, "base") == 0 and (tmp_path / "vae.pt").is_file()
    before = (tmp_path / "base.pt").stat().st_mtime_ns
    adopt_shipped(tmp_path)  # never over a run that has begun
    assert (tmp_path / "base.pt").stat().st_mtime_ns == before


def test_hidden_matrices_are_attention_s_and_the_mlps_alone():
    names = [name for name, p in MiniBase().named_parameters() if p.ndim == 2 and is_hidden(name)]
    assert len(names) == 2 * (4 * 2 + 2 * 2) + 6 * (3 + 2)
    assert not [name for name in names if "norm" in name or "embed" in name]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def loss(model, numbers, step):
    x = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(n)) for n in numbers])
    return {"loss": (model(x)[:, 0] - x.sum(1)).square().mean()}


def test_muon_resumes_to_the_same_weights_and_an_adopted_start_is_its_start(tmp_path):
    schedule = Schedule(steps=10, batch=4, lr=0.02, warmup=2, ema=0.9, muon_lr=0.02)
    hidden = "2.weight".__eq__
    for folder, minutes in (("whole", None), ("pieces", 0)):
        begin_with(tmp_path / folder, "net", net())
        for _ in range(1 if minutes is None else 10):
            fit("net", net(), loss, schedule, tmp_path / folder, bfloat16=False, minutes=minutes, hidden=hidden)
    states = [load_trained(tmp_path / folder, "net", net()).state_dict() for folder in ("whole", "pieces")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    plain = net()
    fit("net", plain, loss, Schedule(steps=10, batch=4, lr=0.02, warmup=2, ema=0.9), tmp_path / "adam", bfloat16=False)
    assert not torch.equal(plain[2].weight, states[0]["2.weight"])


def test_the_answers_are_what_the_captions_say():
    said = [captioned(number) for number in range(300)]
    for text, truth in said:
        people = truth["people"] + 1
        assert len([answer for answer in truth["woman"] if answer >= 0]) == people
        assert truth["women"] == sum(answer == 1 for answer in truth["woman"])
        words = text.lower()
        if "library" in words or "bookshelves" in words:
            assert SCENES[truth["scene"]] == "library"
        if "pixel art" in words:
            assert STYLES[truth["style"]] == "pixel"
        if "three people" in words:
            assert people == 3
    assert {SCENES[truth["scene"]] for _, truth in said} == set(SCENES)


def test_encoders_learn_to_read_and_the_base_takes_them_over(tmp_path):
    torch.manual_seed(0)
    reader = Reader()
    begin_with(tmp_path, "text", reader)
    first = float(reading_loss(reader, range(32), 1, "cpu")["loss"].detach())
    optimiser = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    for step in range(12):
        optimiser.zero_grad()
        reading_loss(reader, range(32), 1 + 4 * step, "cpu")["loss"].backward()
        optimiser.step()
    assert float(reading_loss(reader, range(32), 1, "cpu")["loss"].detach()) < first - 0.1
    base = MiniBase()
    base.learn_from(*trained_encoders(tmp_path))
    stored = load_trained(tmp_path, "text", Reader())
    assert all(torch.equal(p, q) for p, q in zip(base.t5.parameters(), stored.t5.parameters(), strict=True))


def test_a_recogniser_trained_on_is_the_one_in_its_file(tmp_path):
    file = tmp_path / "w.onnx"
    file.write_bytes((shipped.face_pack_folder() / "w_mini.onnx").read_bytes())
    student = Trainable(load_recogniser(file))
    crops = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32))
    assert torch.equal(student(crops), load_recogniser(file)(crops))
    student(crops)[:, 0].sum().backward()
    assert all(p.grad is not None for p in student.weights)
    with torch.no_grad():
        student.weights[0].mul_(0.9)
    write_back(student, file)
    assert torch.allclose(load_recogniser(file)(crops), student(crops), atol=1e-3)  # weights are stored as float16
    assert not torch.allclose(load_recogniser(shipped.face_pack_folder() / "w_mini.onnx")(crops), student(crops))


def test_pictures_decoded_by_another_vae_are_not_taken_for_this_one_s(tmp_path, monkeypatch):
    """A recogniser would learn that a picture and another one, of an older VAE or renderer, are the same face."""
    made = []
    monkeypatch.setattr(face_settle, "_decoded", lambda pixels, vae, device: made.append(1) or pixels)
    pixels, truth = draw_chunk(range(2))
    vae = nn.Linear(1, 1)

    def decode(pixels):
        face_settle.decoded_pictures(DrawnPictures([pixels], truth), vae, tmp_path, "cpu")
        return len(made)

    assert [decode(pixels), decode(pixels), decode(255 - pixels)] == [1, 1, 2]
    nn.init.zeros_(vae.weight)
    assert decode(pixels) == 3


def test_weights_stored_in_half_are_read_whole_again(tmp_path):
    import onnx
    import onnxruntime

    file = shipped.face_pack_folder() / "w_mini.onnx"
    whole = read_whole(file)
    kinds = {weight.data_type for weight in whole.graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds and "Cast" not in {node.op_type for node in whole.graph.node}
    write_halved(whole, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == file.read_bytes()
    onnx.save(whole, str(tmp_path / "whole.onnx"))
    assert (tmp_path / "whole.onnx").stat().st_size > 1.9 * file.stat().st_size
    crops = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(str(name)).run(None, {"data": crops})[0]
        for name in (file, tmp_path / "whole.onnx")
    ]
    assert np.allclose(*answers, atol=1e-5)


def test_flow_goes_on_told_1_and_guidance_is_distilled_from_where_it_went(tmp_path, monkeypatch):
    from diffusers import AutoencoderKL

    adopt_shipped(tmp_path)
    drawn = [draw_picture(seed) for seed in range(4)]
    vae = AutoencoderKL.from_pretrained(shipped.base_folder() / "vae", torch_dtype=torch.float32)
    latents = encode(vae, np.stack([picture.pixels for picture in drawn]), "cpu")
    looked_at = latents, [picture.caption for picture in drawn], base.grid_ids(128, 128, "cpu"), torch.ones(4, 64)
    monkeypatch.setattr(base, "batch", lambda *_: looked_at)
    told = []
    monkeypatch.setattr(base, "FLOW", Schedule(steps=2, batch=4, lr=1e-3, warmup=1, muon_lr=1e-3, ema=0.9))
    monkeypatch.setattr(base, "DISTIL", Schedule(steps=1, batch=4, lr=0.0, warmup=1, ema=0.9))
    forward = MiniBase.forward
    monkeypatch.setattr(MiniBase, "forward", lambda self, *given: told.append(given[-1]) or forward(self, *given))
    base.train_flow(tmp_path)
    assert [list(one) for one in told] == [[1.0] * 4] * 2
    before, after = (load_trained(tmp_path, name, MiniBase()).state_dict() for name in ("base", "flow"))
    assert not all(torch.equal(before[name], after[name]) for name in before)
    base.distil_guidance(tmp_path)
    guided = load_trained(tmp_path, "guided", MiniBase()).state_dict()
    assert all(torch.equal(guided[name], after[name]) for name in after)  # which did not move: it began there
    assert any(one.max() > 1 for one in told[2:])


def begin_and_train(folder):
    torch.manual_seed(0)
    begin_with(folder, "net", net())
    fit("net", net(), loss, Schedule(steps=4, batch=4, lr=0.02, warmup=2, ema=0.9), folder, bfloat16=False)


def test_two_processes_may_begin_the_same_run(tmp_path):
    spawn(begin_and_train, tmp_path, processes=2)
    assert progress_of(tmp_path, "net") == 4 and [file.name for file in tmp_path.iterdir()] == ["net.pt"]


def test_who_waits_for_latents_says_so_and_a_process_left_alone_makes_and_waits_for_none(tmp_path, monkeypatch, capsys):
    module = "anyphoto_cli.mini.pretrain.latents"
    alone = iter([False, True])
    monkeypatch.setattr(f"{module}.orphaned", lambda: next(alone))
    monkeypatch.setattr(f"{module}.time.sleep", lambda seconds: None)
    with pytest.raises(FileNotFoundError):
        chunk_of(tmp_path, 3)
    assert capsys.readouterr().out.splitlines() == [f"waiting for {chunk_file(tmp_path, 3)}: --stages latents makes it"]
    monkeypatch.setattr(f"{module}.orphaned", lambda: True)
    prepare_latents(tmp_path, nn.Identity())
    assert not list((tmp_path / "latents").glob("0*"))


def test_told_the_usual_a_base_that_heeds_more_does_what_it_did_when_told_more(tmp_path):
    torch.manual_seed(0)
    begin_with(tmp_path, "guided", MiniBase())
    heed_more(tmp_path)
    plain, heeding = (load_trained(tmp_path, name, MiniBase()).transformer for name in ("guided", "heeding"))
    pooled = torch.randn(2, 96)

    def embedded(transformer, told):
        return transformer.time_text_embed(torch.full((2,), 500.0), torch.tensor(told) * 1000, pooled)

    with torch.no_grad():
        moved = embedded(plain, [1.0, 3.5]) - embedded(plain, [1.0, 4.5])
        missed = embedded(heeding, [1.0, 3.5]) - embedded(plain, [1.0, 4.5])
    assert moved[1].norm() > 0 and missed.norm() < 0.02 * moved[1].norm()
    assert heard(torch.tensor([1.0, 2.25, 3.5, 6.0])).tolist() == [1.0, 2.75, 4.5, 6.0]
    changed = {name for name, value in heeding.state_dict().items() if not torch.equal(value, plain.state_dict()[name])}
    assert changed == {f"time_text_embed.guidance_embedder.linear_1.{name}" for name in ("weight", "bias")}
    assert last_begun(tmp_path, "heeding", "guided") == "heeding"
