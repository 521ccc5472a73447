"""AdaFace IR-50 (MS1MV2) as the WithAnyone evaluator feeds it: BGR, -1 to 1. Source: Kim et al. 2022, table of IR-50.

The weights are a file of the user's, named by ANYPHOTO_ADAFACE: adaface_ir50_ms1mv2.ckpt of the authors, or the same
as safetensors. Nothing in a .ckpt is run: it is read with weights_only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.faces.ffhq_faces import FFHQFaces, open_retinaface
from anyphoto_cli.files.commit import sha256_of_state
from anyphoto_cli.types import Picture

FILE = "ANYPHOTO_ADAFACE"
_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
"""(channels, units) of IR-50; the first unit of each halves the picture."""


class _Unit(nn.Module):
    """Improved residual unit: BN, conv, BN, PReLU, conv, BN, beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in), nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels), nn.PReLU(channels), nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
        )  # fmt: skip
        if channels_in == channels:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut_layer = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, channels, h / stride, w / stride]."""
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class IR50(nn.Module):
    """[n, 3, 112, 112] BGR, -1 to 1 -> [n, 512], any length; parameters named as in the authors' checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        units, before = [], 64
        for channels, count in _STAGES:
            for k in range(count):
                units.append(_Unit(before, channels, 2 if k == 0 else 1))
                before = channels
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.4), nn.Flatten(), nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512, affine=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The embedding, not normalised."""
        out: Tensor = self.output_layer(self.body(self.input_layer(x)))
        return out


def open_adaface(device: str = "cpu") -> FFHQFaces:
    """Raises EnvironmentFault where no file is named or facexlib is missing, InputError for an unfit file."""
    named = os.environ.get(FILE)
    if not named:
        remedy = f"Set {FILE} to adaface_ir50_ms1mv2.ckpt, from github.com/mk-minchul/AdaFace"
        raise EnvironmentFault("AdaFace's weights are not named", remedy=remedy)
    network = load_ir50(Path(named)).to(device)
    detector = open_retinaface(device)

    def run(crops: Picture) -> Any:
        with torch.inference_mode():
            return network(adaface_input(crops).to(device)).float().cpu().numpy()

    return FFHQFaces("adaface", sha256_of_state(network), run, detector)


def adaface_input(crops: Picture) -> Tensor:
    """[n, 112, 112, 3] RGB -> [n, 3, 112, 112] BGR, -1 to 1."""
    pixels = torch.from_numpy(np.ascontiguousarray(crops[..., ::-1])).permute(0, 3, 1, 2).float()
    return (pixels / 255 - 0.5) / 0.5


def load_ir50(file: Path) -> IR50:
    """Raises InputError for a file that is missing, holds more than numbers, or another network."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Any] = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise their own
        remedy = "Save its state_dict as safetensors" if file.is_file() else f"See {FILE}"
        what = f"cannot be read ({type(error).__name__})" if file.is_file() else "no such file"
        raise InputError(what, file=file, field=FILE, remedy=remedy) from error
    state = state.get("state_dict", state)
    kept = {name.removeprefix("model."): value for name, value in state.items() if not name.startswith("head.")}
    network = IR50()
    try:
        network.load_state_dict(kept)
    except RuntimeError as error:
        raise InputError("holds another network than AdaFace's IR-50", file=file, field=FILE) from error
    return network.eval()
