"""What is published: whole, readable by others, and silent about the machine it came from."""

import hashlib
import json
import shutil

import pytest
import torch

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.train.interpolation import Start
from anyphoto_cli.train.loop import run as train
from tests.train.test_run import config


@pytest.fixture(scope="module")
def finished(mini_shards, tmp_path_factory):
    """Two steps, with validation pictures."""
    from tests.conftest import ROOT

    out = tmp_path_factory.mktemp("finished") / "run"
    layout = str(ROOT / "examples" / "two_friends.json")
    train(config(mini_shards, out, max_train_steps=2, validation_steps=2, validation_layouts=(layout,),
                 gradient_accumulation_steps=2, method={"lora_alpha": 8}))  # fmt: skip
    return out


def test_the_folder_says_what_it_is_and_nothing_of_the_machine(run, finished, mini_shards, tmp_path):
    from huggingface_hub import ModelCard

    code, said, err = run("export", finished, "--to", tmp_path / "two-friends")
    assert code == 0 and "trained for 2 steps on tiny-random" in said, err
    out = tmp_path / "two-friends"
    files = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert files == {
        "README.md", "NOTICE", "pipeline.py", "pytorch_lora_weights.safetensors", "id_projector.safetensors",
        "anyphoto.json", "training.yaml", "metrics.json", "samples/two_friends.png",
    }  # fmt: skip
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "apache-2.0" and "anyphoto" in card.data.tags and card.data.pipeline_tag
    assert card.data.to_dict()["widget"][0]["output"] == {"url": "samples/two_friends.png"}
    assert (
        "steps | 2" in card.text
        and "training samples | 24" in card.text
        and "none was published" in card.text
        and "<Gallery />" in card.text
    )
    manifest = hashlib.sha256((mini_shards / "manifest.json").read_bytes()).hexdigest()
    assert "| devices | 1 |" in card.text and "| samples a step of all devices | 4 |" in card.text
    assert f"| data | {mini_shards.name} (manifest {manifest[:12]}) |" in card.text
    for file in files:
        if not file.endswith((".safetensors", ".png")):
            told = (out / file).read_text()
            assert str(finished.parent) not in told and "/work" not in told and "/tmp" not in told, file
    assert [f.name for f in tmp_path.iterdir()] == ["two-friends"]
    assert {(out / file).stat().st_mode & 0o777 for file in files} == {0o644}


def test_stock_diffusers_and_our_pipeline_open_it(run, finished, tmp_path):
    from diffusers import DiffusionPipeline, FluxPipeline

    from anyphoto_cli.model import bases
    from tests.conftest import small_layout

    assert run("export", finished, "--to", tmp_path / "out")[0] == 0
    base = bases.base_folder(bases.resolve_base("tiny-random"))
    stock = FluxPipeline.from_pretrained(base, torch_dtype=torch.float32)
    stock.load_lora_weights(tmp_path / "out")
    scalings = {value for module in stock.transformer.modules() for value in getattr(module, "scaling", {}).values()}
    assert scalings == {2.0}  # alpha 8, rank 4
    ours = DiffusionPipeline.from_pretrained(
        base, custom_pipeline=str(tmp_path / "out"), torch_dtype=torch.float32, trust_remote_code=True
    )
    assert type(ours).__name__ == "AnyPhotoPipeline"
    assert ours.load_anyphoto(tmp_path / "out").train_step == 2
    layout = small_layout(tmp_path)
    code, _, err = run(
        "generate", layout, "-o", tmp_path / "p", "--adapter", tmp_path / "out", "--face-pack", "mini", "--model",
        "tiny-random",
    )  # fmt: skip
    assert code == 0 and "no trained identity" not in err, err


def test_flux_dev_brings_its_licence_and_notice(finished, tmp_path):
    from huggingface_hub import ModelCard

    from anyphoto_cli.train.export import export

    adapter = tmp_path / "adapter"
    shutil.copytree(finished / "adapter", adapter)
    card = json.loads((adapter / "anyphoto.json").read_text())
    (adapter / "anyphoto.json").write_text(json.dumps(card | {"base_model": "black-forest-labs/FLUX.1-dev"}))
    export(adapter, tmp_path / "out", "me/friends")
    told = ModelCard.load(tmp_path / "out" / "README.md")
    assert told.data.license_name == "flux-1-dev-non-commercial-license"
    assert told.data.base_model == "black-forest-labs/FLUX.1-dev"
    assert told.data.to_dict()["base_model_relation"] == "adapter"
    assert 'load_anyphoto("me/friends")' in told.text
    assert "Derivative of FLUX.1 [dev]" in (tmp_path / "out" / "NOTICE").read_text()


def test_a_base_in_a_folder_is_called_by_its_name_alone(finished, tmp_path):
    from anyphoto_cli.train.export import export

    adapter = tmp_path / "adapter"
    shutil.copytree(finished / "adapter", adapter)
    card = json.loads((adapter / "anyphoto.json").read_text())
    (adapter / "anyphoto.json").write_text(json.dumps(card | {"base_model": "/home/somebody/private/my-flux"}))
    export(adapter, tmp_path / "out")
    for name in ("anyphoto.json", "README.md", "NOTICE"):
        told = (tmp_path / "out" / name).read_text()
        assert "my-flux" in told and "somebody" not in told, name
    assert json.loads((tmp_path / "out" / "anyphoto.json").read_text())["files"] == card["files"]


def test_the_hub_gets_one_commit_and_its_refusal_is_one_line(run, finished, monkeypatch):
    import huggingface_hub

    seen = []

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, name, **more):
            seen.append((name, more))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            seen.append((repo_id, sorted(file.name for file in folder_path.iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    code, said, _ = run("export", finished, "--to", "hub:me/friends")
    assert code == 0 and "https://huggingface.co/me/friends" in said
    assert seen[0] == ("me/friends", {"private": True, "exist_ok": True}) and "README.md" in seen[1][1]

    def refuse(self, name, **more):
        raise ConnectionError("no")

    monkeypatch.setattr(Api, "create_repo", refuse)
    code, _, err = run("export", finished, "--to", "hub:me/friends")
    assert code == 1 and "--to: me/friends could not be written (ConnectionError). Run: hf auth login" in err


def test_a_first_adapter_is_told_by_its_name_and_a_damaged_story_by_its_file(run, finished, tmp_path):
    mine = shutil.copytree(finished, tmp_path / "run")
    told = json.loads((mine / "training.json").read_text()) | {"adapter": str(tmp_path / "gone" / "first")}
    (mine / "training.json").write_text(json.dumps(told))
    assert run("export", mine, "--to", tmp_path / "out")[0] == 0
    assert "adapter: first\n" in (tmp_path / "out" / "training.yaml").read_text()
    assert not any(str(tmp_path).encode() in f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file())
    (mine / "training.json").write_text("garbage")
    code, _, err = run("export", mine, "--to", tmp_path / "more")
    assert code == 2 and "training.json: cannot be read (JSONDecodeError). Remove it, and the adapter is" in err
    assert not list(tmp_path.glob("*more*"))


def test_a_run_tells_what_open_keys_came_to_and_can_be_given_again(run, finished, tmp_path):
    told = json.loads((finished / "resolved.json").read_text())
    assert told["device"] == "cpu" and told["mixed_precision"] == "no" and told["face_pack"]["name"] == "mini"
    assert told["samples_per_step"] == 4 and told["shards"][0]["samples"] == 24
    TrainConfig.model_validate_json((finished / "training.json").read_text())
    # A run of an earlier version has none.
    old = shutil.copytree(finished, tmp_path / "run")
    (old / "resolved.json").unlink()
    assert run("export", old, "--to", tmp_path / "out")[0] == 0
    assert "| devices |" not in (tmp_path / "out" / "README.md").read_text()


def test_refusals(run, finished, tmp_path):
    for source, to, line in (
        (finished, tmp_path, "--to: exists. Name a folder that is not there yet"),
        (tmp_path, tmp_path / "x", "holds no trained adapter. Name a run's output_dir"),
        (tmp_path / "gone", tmp_path / "x", "gone: RUN: no such folder"),
        (finished, "hub:friends", "'friends' is no repository. Give hub:org/name"),
    ):
        code, _, err = run("export", source, "--to", to)
        assert code == 2 and line in err
    with pytest.raises(InputError, match="sha256"):
        from anyphoto_cli.train.export import export

        shutil.copytree(finished / "adapter", tmp_path / "a")
        file = tmp_path / "a" / "id_projector.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        export(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_in_half_the_size(run, finished, tmp_path):
    from safetensors import safe_open

    from anyphoto_cli.model.adapter import read_card, read_weights

    assert run("export", finished, "--to", tmp_path / "whole")[0] == 0
    code, _, err = run("export", finished, "--to", tmp_path / "half", "--dtype", "bfloat16")
    assert code == 0, err
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "half" / name).stat().st_size < 0.7 * (tmp_path / "whole" / name).stat().st_size
    halves, wholes = (read_weights(tmp_path / out, read_card(tmp_path / out)) for out in ("half", "whole"))
    for half, whole in zip(halves, wholes, strict=True):
        assert all(torch.equal(half[key], whole[key].bfloat16()) for key in whole)
    with safe_open(tmp_path / "half" / name, "pt") as half, safe_open(tmp_path / "whole" / name, "pt") as whole:
        assert half.metadata() == whole.metadata()
    code, _, err = run("export", finished, "--to", tmp_path / "x", "--dtype", "int8")
    assert code == 2 and "'int8' is none of" in err and not (tmp_path / "x").exists()


def test_part_of_the_way_between_an_adapter_and_a_run_from_it(run, finished, tmp_path):
    """Literally start + share (end - start), of either number format; the folder says so, and renders."""
    from anyphoto_cli.model.adapter import read_card, read_weights
    from tests.conftest import small_layout

    start = moved(finished / "adapter", tmp_path / "start", 0.5)
    asked = ("export", finished, "--start", start, "--share", "0.25")
    for name, dtype in (("whole", torch.float32), ("half", torch.float16)):
        more = ("--dtype", "float16") if dtype == torch.float16 else ()
        code, _, err = run(*asked, "--to", tmp_path / name, *more)
        assert code == 0, err
        card = read_card(tmp_path / name)
        assert card.start.share == 0.25 and card.start.sha256 == read_card(start).sha256
        ends, halfway = (
            read_weights(finished / "adapter", read_card(finished / "adapter")),
            read_weights(tmp_path / name, card),
        )
        for end, between in zip(ends, halfway, strict=True):
            assert end.keys() == between.keys()
            for key, value in between.items():
                assert value.dtype == dtype
                assert torch.allclose(value.float(), end[key] - 0.5 * 0.75, atol=1e-6 if not more else 2e-3)
    files = {file.name for file in (tmp_path / "half").iterdir()}
    assert not files & {"samples", "metrics.json"} and "training.yaml" in files  # none of these weights
    assert f"0.25 of the way from those of another adapter ({card.start.sha256[:12]})" in (
        (tmp_path / "half" / "README.md").read_text()
    )
    code, _, err = run("generate", small_layout(tmp_path), "-o", tmp_path / "p", "--adapter", tmp_path / "whole",
                       "--face-pack", "mini", "--model", "tiny-random")  # fmt: skip
    assert code == 0, err


@pytest.fixture(scope="module")
def averaged(mini_shards, tmp_path_factory):
    """Two steps whose weights are averaged, each with a checkpoint and validation pictures."""
    from tests.conftest import ROOT

    out = tmp_path_factory.mktemp("averaged") / "run"
    layout = str(ROOT / "examples" / "two_friends.json")
    train(config(mini_shards, out, max_train_steps=2, validation_steps=1, validation_layouts=(layout,),
                 checkpointing_steps=1, ema_decay=0.9, learning_rate=1e-2))  # fmt: skip
    return out


def weights(folder):
    from anyphoto_cli.model.adapter import read_card, read_weights

    lora, projector = read_weights(folder, read_card(folder))
    return lora | projector


def same(one, other):
    one, other = weights(one), weights(other)
    return all(torch.equal(one[key], other[key]) for key in one)


def test_a_checkpoint_is_told_with_what_the_run_had_shown_by_then(averaged, tmp_path):
    from anyphoto_cli.train.export import export

    rows = [json.loads(line) for line in (averaged / "metrics.jsonl").read_text().splitlines()]
    for step in (1, 2):
        out = tmp_path / f"{step}"
        card = export(averaged / f"checkpoint-{step}", out)
        assert card.train_step == step and f"steps | {step}" in (out / "README.md").read_text()
        [picture] = (averaged / "validation" / f"step-00000{step}").glob("*.png")
        assert (out / "samples" / picture.name).read_bytes() == picture.read_bytes()
        told, line = json.loads((out / "metrics.json").read_text()), next(r for r in rows if r["step"] == step)
        assert told["flow"] == line["flow"] and "validation_found" in told
        assert same(out, averaged / f"checkpoint-{step}" / "average")


def test_an_average_is_exported_and_rendered_before_the_run_is_finished(averaged, mini_shards, tmp_path):
    from anyphoto_cli.train.export import export

    assert same(averaged / "checkpoint-2" / "average", averaged / "adapter")
    assert not same(averaged / "checkpoint-2", averaged / "adapter")
    run = shutil.copytree(averaged, tmp_path / "run")
    shutil.rmtree(run / "adapter")
    export(run, tmp_path / "out")
    assert same(tmp_path / "out", averaged / "adapter")
    plain = json.loads((averaged / "training.json").read_text()) | {
        "ema_decay": None,
        "output_dir": str(tmp_path / "p"),
    }
    train(type(config(mini_shards, run)).model_validate_json(json.dumps(plain)))
    assert same(tmp_path / "p" / "checkpoint-2", averaged / "checkpoint-2")  # the average is nothing to the training
    shown = [folder / "validation" / "step-000002" / "two_friends.png" for folder in (tmp_path / "p", averaged)]
    assert shown[0].read_bytes() != shown[1].read_bytes()
    shutil.rmtree(run / "checkpoint-2" / "average")
    with pytest.raises(
        InputError, match="holds no averaged adapter, as an earlier version wrote it. Let the run go on"
    ):
        export(run / "checkpoint-2", tmp_path / "old")


def moved(adapter, out, by):
    """A copy whose weights are lower by that much."""
    from safetensors.torch import load_file, save_file

    from anyphoto_cli.files.commit import sha256_of
    from anyphoto_cli.model.adapter import CARD_FILE, read_card

    shutil.copytree(adapter, out)
    card = read_card(out)
    for name in card.files:
        save_file({key: value - by for key, value in load_file(out / name).items()}, out / name)
    files = {name: sha256_of(out / name) for name in card.files}
    (out / CARD_FILE).write_text(card.model_copy(update={"files": files}).model_dump_json())
    return out


def test_ends_that_do_not_go_together_are_one_line(run, finished, tmp_path):
    from anyphoto_cli.model.adapter import CARD_FILE, LORA_FILE, read_card

    other = shutil.copytree(finished / "adapter", tmp_path / "other")
    told = json.loads((other / CARD_FILE).read_text())
    (other / CARD_FILE).write_text(json.dumps(told | {"base_model": "another"}))
    damaged = shutil.copytree(finished / "adapter", tmp_path / "damaged")
    (damaged / LORA_FILE).write_bytes(b"")
    start = finished / "adapter"
    for given, line in (
        (("--start", start), "--start: goes with --share. Give both, or neither"),
        (("--share", "0.5"), "--share: goes with --start. Give both, or neither"),
        (("--start", start, "--share", "1"), "--share: 1.0 is not between 0 and 1"),
        (("--start", other, "--share", "0.5"), "other: --start: has another base_model than the run. Name the adapter"),
        (("--start", damaged, "--share", "0.5"), "does not match its sha256"),
        (("--start", tmp_path, "--share", "0.5"), f"{tmp_path}: holds no trained adapter. Name a run's output_dir"),
    ):
        code, _, err = run("export", finished, "--to", tmp_path / "x", *given)
        assert code == 2 and line in err and not (tmp_path / "x").exists(), err
    for key in ("base_revision", "face_pack", "embedding", "method"):
        with pytest.raises(InputError, match=f"has another {key} than the run"):
            Start(start, 0.5).card(read_card(start).model_copy(update={key: "other"}))
