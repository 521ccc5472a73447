"""How the shipped adapter is made: two runs by the product's commands, and part of the way between them."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.pretrain import adapter as stage
from anyphoto_cli.mini.pretrain.adapter import finish_of, train_adapter
from anyphoto_cli.model.adapter import CARD_FILE, LORA_FILE, PROJECTOR_FILE, read_card, read_weights


def test_what_ships_is_what_the_recipe_makes(tmp_path):
    """By the product's own commands: two runs, then export part of the way between them."""
    made = shutil.copytree(shipped.adapter_folder(), tmp_path / "adapter" / "run" / "adapter").parents[1]
    later = shutil.copytree(made / "run" / "adapter", finish_of(made) / "adapter")
    weights = load_file(later / LORA_FILE)
    changed(later, LORA_FILE, {key: value + 1 for key, value in weights.items()})

    stage.export_adapter(tmp_path, tmp_path / "out" / "adapter")

    card = read_card(tmp_path / "out" / "adapter")
    assert card.start is not None and card.start.share == stage.SHARE
    lora, _ = read_weights(tmp_path / "out" / "adapter", card)
    for key, value in weights.items():
        assert lora[key.removeprefix("transformer.")].dtype == torch.float16
        assert torch.allclose(lora[key.removeprefix("transformer.")].float(), value.float() + stage.SHARE, atol=4e-3)
    ships = read_card(shipped.adapter_folder())
    assert ships.start.share == stage.SHARE and ships.method == card.method
    assert {file.name for file in shipped.adapter_folder().iterdir()} == set(stage.KEPT)


def test_what_ships_stays_until_there_is_another_one(tmp_path, monkeypatch):
    out = shutil.copytree(shipped.adapter_folder(), tmp_path / "adapter_that_ships")
    with pytest.raises(InputError, match=r"adapter: no adapter was trained here. First: --stages adapter"):
        stage.export_adapter(tmp_path, out)
    shutil.copytree(out, tmp_path / "adapter" / "run" / "adapter")
    with pytest.raises(EnvironmentFault, match="`anyphoto export finish-"):  # there is no second run
        stage.export_adapter(tmp_path, out)
    assert {file.name for file in out.iterdir()} == set(stage.KEPT)


def changed(folder, name, weights):
    """An adapter's file, and its checksum."""
    save_file(weights, folder / name, metadata={"format": "pt"})
    card = read_card(folder)
    card = card.model_copy(update={"files": card.files | {name: sha256_of(folder / name)}})
    (folder / CARD_FILE).write_text(card.model_dump_json())


def test_a_longer_first_run_gets_a_second_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(stage.ASKED_STEPS, "40")
    asked = []
    monkeypatch.setattr(
        stage, "run_command", lambda out, words, launcher=(), said=None, seconds=None: asked.append(words)
    )
    first = shutil.copytree(shipped.adapter_folder(), tmp_path / "adapter" / "run" / "adapter")

    train_adapter(tmp_path, processes=1)

    (_, _, _, run, finish), name = asked, finish_of(tmp_path / "adapter").name
    assert {"max_train_steps=40", "data.replacement_max=0.9"} < set(run)
    assert {"max_train_steps=40", "loss.face_weight=0.5", "adapter=run/adapter", f"output_dir={name}"} < set(finish)

    changed(first, PROJECTOR_FILE, {key: value + 1 for key, value in load_file(first / PROJECTOR_FILE).items()})
    assert finish_of(tmp_path / "adapter").name != name
