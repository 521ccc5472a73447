"""A recogniser of iresnet100's shape with random weights: what the identity loss costs with antelopev2's glintr100.

As in an exported file, norms that come after a convolution are part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS, DEPTHS = (64, 128, 256, 512), (3, 13, 30, 3)


class Block(nn.Module):
    """BN, 3x3, PReLU, 3x3 (stride), beside a shortcut. [n, c, h, w] -> [n, out, h/stride, w/stride]."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(into), nn.Conv2d(into, out, 3, 1, 1), nn.PReLU(out), nn.Conv2d(out, out, 3, stride, 1)
        )  # fmt: skip
        self.short = nn.Conv2d(into, out, 1, stride) if stride > 1 or into != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.short(x)
        return out


class IResNet100(nn.Module):
    """[n, 3, 112, 112] in [-1, 1] -> [n, 512], unit length; frozen, float32. 24 GFLOP a face."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1), nn.PReLU(64)]
        into = 64
        for width, depth in zip(WIDTHS, DEPTHS, strict=True):
            for number in range(depth):
                blocks.append(Block(into, width, 1 if number else 2))
                into = width
        self.body = nn.Sequential(*blocks, nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 7 * 7, 512))
        self.requires_grad_(False).eval()

    def forward(self, crops: Tensor) -> Tensor:
        return F.normalize(self.body(crops), dim=1)


def random_recogniser(device: torch.device) -> nn.Module:
    """On a device; the same numbers each time."""
    torch.manual_seed(2)
    return IResNet100().to(device)
