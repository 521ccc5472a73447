"""How the shipped adapter is made: two runs by the product's commands, and part of the way between them."""

import shutil

import torch
from safetensors.torch import load_file, save_file

from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.pretrain import adapter as stage
from anyphoto_cli.mini.pretrain.adapter import finish_of, interpolate_weights, train_adapter
from anyphoto_cli.model.adapter import CARD_FILE, LORA_FILE, PROJECTOR_FILE, read_card, read_weights


def test_part_of_the_way(tmp_path):
    earlier, late = (shutil.copytree(shipped.adapter_folder(), tmp_path / name) for name in ("earlier", "late"))
    for name in (LORA_FILE, PROJECTOR_FILE):
        moved = {key: value + 1 for key, value in load_file(late / name).items()}
        save_file(moved, late / name, metadata={"format": "pt"})

    interpolate_weights(earlier, late, 0.25)

    for name in (LORA_FILE, PROJECTOR_FILE):
        first, mixed = load_file(earlier / name), load_file(late / name)
        assert first.keys() == mixed.keys()
        for key, value in mixed.items():
            assert value.dtype == first[key].dtype
            assert torch.allclose(value.float(), first[key].float() + 0.25, atol=4e-3)
        assert (late / name).stat().st_mode & 0o777 == 0o644
    read_weights(late, read_card(late))  # its checksums are those of the new files


def test_a_longer_first_run_gets_a_second_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(stage.ASKED_STEPS, "40")
    asked = []
    monkeypatch.setattr(stage, "run_command", lambda out, words, launcher=(): asked.append(words))
    first = shutil.copytree(shipped.adapter_folder(), tmp_path / "adapter" / "run" / "adapter")

    train_adapter(tmp_path, processes=1)

    (_, _, _, run, finish), name = asked, finish_of(tmp_path / "adapter").name
    assert {"max_train_steps=40", "data.replacement_max=0.9"} < set(run)
    assert {"max_train_steps=40", "guidance_scale=3.5", "adapter=run/adapter", f"output_dir={name}"} < set(finish)

    card = read_card(first)
    weights = {key: value + 1 for key, value in load_file(first / PROJECTOR_FILE).items()}
    save_file(weights, first / PROJECTOR_FILE)
    files = card.files | {PROJECTOR_FILE: sha256_of(first / PROJECTOR_FILE)}
    (first / CARD_FILE).write_text(card.model_copy(update={"files": files}).model_dump_json())
    assert finish_of(tmp_path / "adapter").name != name
