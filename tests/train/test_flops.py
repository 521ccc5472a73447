"""Operations are counted as torch counts them, and the line of metrics says what it says."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.train.flops import forward_flops, peak_flops
from anyphoto_cli.train.metrics import spoken
from tests.model.flux import COLUMNS, ROWS, TEXT, inputs, located, transformer


@pytest.mark.parametrize("faces", [(), (6,), (5, 9)])
def test_blocks_are_counted_as_torch_counts_them(faces):
    """But for what the formula leaves out: embedders, LoRA, modulation, and the last block's unneeded outputs."""
    model = transformer(True, MethodConfig(lora_rank=1), num_attention_heads=8, num_layers=4, num_single_layers=8)
    given = inputs() | {"faces": [located(*faces)] if faces else ()}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(**given)
    assert forward_flops(model, ROWS * COLUMNS, TEXT, faces) == pytest.approx(_blocks(counted), rel=0.02)


def _blocks(counted: FlopCounterMode) -> float:
    """Of the blocks, without modulation and LoRA."""
    total = 0
    for name, kinds in counted.get_flop_counts().items():
        parts = name.split(".")
        if len(parts) < 3 or "blocks" not in parts[1]:
            continue
        if len(parts) == 3:
            total += sum(kinds.values())
        elif "lora_" in name or (parts[-1] == "linear" and parts[-2].startswith("norm")):
            total -= sum(kinds.values())
    return total


def test_what_is_said_beside_the_bar():
    line = {"loss": 0.51234, "flow": 0.5, "face": 0.12, "faces": 3.0, "faces_shown": 3.0, "lr": 1e-4, "p": 0.1, "norm": 0.5,
            "samples_per_s": 2.91, "memory_gb": 12.34}  # fmt: skip
    said = spoken(line)
    assert said == (
        "loss 0.5123 (flow 0.5000, id 0.120 of 3 faces), lr 1.0e-04, p 0.10, norm 0.50, 2.9 samples/s, 12.3 GB"
    )
    assert "id 0.120 of 3 of 7 faces)" in spoken(line | {"faces_shown": 7.0})
    assert "(flow 0.5000, id 0.000 of 0 of 7 faces)" in spoken(line | {"face": 0.0, "faces": 0.0, "faces_shown": 7.0})
    said = spoken(line | {"faces": 0.0, "faces_shown": 0.0, "mfu": 0.512})
    assert "flow 0.5000)" in said and said.endswith("12.3 GB, MFU 51%")
    assert peak_flops(torch.device("cpu")) is None
