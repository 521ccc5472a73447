"""The shipped adapter's last step: part of the way from one run to the next."""

import shutil

import torch
from safetensors.torch import load_file, save_file

from anyphoto_cli.mini import shipped
from anyphoto_cli.mini.pretrain.adapter import draw_back
from anyphoto_cli.model.adapter import LORA_FILE, PROJECTOR_FILE, read_card, read_weights


def test_part_of_the_way(tmp_path):
    earlier, late = (shutil.copytree(shipped.adapter_folder(), tmp_path / name) for name in ("earlier", "late"))
    for name in (LORA_FILE, PROJECTOR_FILE):
        moved = {key: value + 1 for key, value in load_file(late / name).items()}
        save_file(moved, late / name, metadata={"format": "pt"})

    draw_back(late, earlier, 0.25)

    for name in (LORA_FILE, PROJECTOR_FILE):
        first, mixed = load_file(earlier / name), load_file(late / name)
        assert first.keys() == mixed.keys()
        for key, value in mixed.items():
            assert value.dtype == first[key].dtype
            assert torch.allclose(value.float(), first[key].float() + 0.25, atol=4e-3)
        assert (late / name).stat().st_mode & 0o777 == 0o644
    read_weights(late, read_card(late))  # its checksums are those of the new files
