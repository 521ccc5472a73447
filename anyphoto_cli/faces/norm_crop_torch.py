"""`norm_crop` on tensors, differentiable: the face loss looks at what the model drew through it. Source: paper Eq. 23.

The literal twin is `norm_crop` (cv2.warpAffine): pixel centres at whole numbers, bilinear, black beyond the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from anyphoto_cli.geometry import ARCFACE_SIZE, arcface_template
from anyphoto_cli.runtime.uploads import upload


def norm_crop_torch(pictures: Tensor, landmarks: Tensor, size: int = ARCFACE_SIZE) -> Tensor:
    """[n, 3, H, W] in [-1, 1] -> [n, 3, size, size]; -1, which is black, beyond the picture.

    landmarks: [n, 5, 2] px of each picture, ArcFace order. Gradients flow to the pictures, not to the landmarks.
    """
    height, width = pictures.shape[-2:]
    # Where to look depends on landmarks alone: reckoned where they are, on the CPU, and sent in one piece.
    onto = similarity_matrices(landmarks, size)
    # Where each pixel of the crop comes from: the inverse of a similarity is one.
    turn, shift = onto[:, :, :2], onto[:, :, 2]
    scale = turn.square().sum((1, 2), keepdim=True) / 2
    back = turn.transpose(1, 2) / scale
    steps = torch.arange(size, device=back.device, dtype=back.dtype)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    target = torch.stack([columns, rows], -1).reshape(1, -1, 2)
    at = (target - shift[:, None]) @ back.transpose(1, 2)
    # grid_sample counts from -1 to 1 between the outer edges of the first and last pixel: half a pixel each side.
    grid = (at + 0.5) * (2 / torch.tensor([width, height], device=at.device, dtype=at.dtype)) - 1
    # In bfloat16 a grid has 8 bits: places would be off by a pixel.
    pictures = pictures.to(torch.promote_types(pictures.dtype, torch.float32))
    grid = upload(grid.reshape(-1, size, size, 2).to(pictures.dtype), pictures.device)
    return F.grid_sample(pictures + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1


def similarity_matrices(landmarks: Tensor, size: int = ARCFACE_SIZE) -> Tensor:
    """[n, 5, 2] -> [n, 2, 3] float64 onto the template, in closed form as `geometry.fit_similarity`. Source: Eq. 26."""
    source = landmarks.double()
    target = torch.from_numpy(arcface_template(size)).to(source.device)
    middle, to_middle = source.mean(1, keepdim=True), target.mean(0)
    s, t = source - middle, target - to_middle
    spread = s.square().sum((1, 2))
    a = (s * t).sum((1, 2)) / spread
    b = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(1) / spread
    x, y = middle[:, 0, 0], middle[:, 0, 1]
    first = torch.stack([a, -b, to_middle[0] - a * x + b * y], -1)
    second = torch.stack([b, a, to_middle[1] - b * x - a * y], -1)
    return torch.stack([first, second], 1)
