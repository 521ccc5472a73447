"""How many operations a host hands to its device for a step: what a card that is faster than its host waits for.

python -m benchmarks counts

Counted on a CPU, forward and backward, without views and allocations: numbers of calls depend on the model's depth and
on the form of the code, not on its width, nor on the machine. Blocks as many as FLUX.1's, a recogniser of antelopev2's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from anyphoto_cli.model import blocks
from anyphoto_cli.train.face_loss import FaceTarget, face_loss
from anyphoto_cli.train.face_windows import CALLS, DecodeCalls
from benchmarks import models
from benchmarks.generate import inputs_of, tokens_of
from benchmarks.iresnet import IResNet100
from benchmarks.launches import NARROW, SIDE, TEXT
from benchmarks.models import as_trained, built, random_example

LIMITS = "none of its own: fewer is less to wait for"
NO_WORK = ("detach", "alias", "_unsafe_view", "empty", "empty_like", "new_empty", "lift_fresh", "_reshape_alias")
Table = list[dict[str, object]]


class Operations(TorchDispatchMode):
    """Counts what does something; a Triton kernel is not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if not (function.is_view or name in NO_WORK):
            self.by_name[name] += 1
        return function(*given, **(named or {}))


def counted(
    name: str, forward: Callable[[], Tensor], around: Callable[[], AbstractContextManager[Any]],
    trained: Iterable[nn.Parameter] = (),
) -> dict[str, object]:  # fmt: skip
    """A row of a case; what it makes once for many steps, and gradients to add to, are left out."""
    with around():
        forward()
        for parameter in trained:
            parameter.grad = None
        with Operations() as there:
            loss = forward()
        with Operations() as back:
            loss.backward()
    sums = sum(there.by_name.values()), sum(back.by_name.values())
    copies = there.by_name["_to_copy"] + back.by_name["_to_copy"]
    return {"case": name, "forward": sums[0], "backward": sums[1], "both": sum(sums), "of them casts": copies}


def transformer_rows() -> Table:
    """A sample with two people, its masters in float32."""
    device = torch.device("cpu")
    models.SMALL.update(NARROW)
    ours, plain = built(device, SIDE, 4), built(device, SIDE, 4, plain=True)
    for model in (ours, plain):
        model.to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
            parameter.data = parameter.data.float() if ".lora_" in name else parameter.data
    as_trained(ours)
    given = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in
             inputs_of(ours, SIDE, TEXT).items()}  # fmt: skip
    faces = [tokens_of([4, 4], SIDE, device, torch.bfloat16)]

    def loss(model: Any, **more: Any) -> Tensor:
        answer: Tensor = model(**given, **more)[0].float().square().sum()
        return answer

    apart = partial(mock.patch.object, blocks, "cast_together", lambda *_: None)
    trained = list(ours.parameters())
    ours.attention = "masked"  # below 2,560 tokens the fastest on a GPU
    return [
        counted("stock FLUX, LoRA on all tokens", partial(loss, plain), partial(torch.autocast, "cpu", torch.bfloat16)),
        counted("ours, each layer casts its adapter", partial(loss, ours, faces=faces), apart, trained),
        counted("ours, a block casts its adapters at once", partial(loss, ours, faces=faces), nullcontext, trained),
    ]


def in_parts(self: nn.PReLU, x: Tensor) -> Tensor:
    """PReLU by its definition, as the recogniser had it."""
    return torch.clamp(x, min=0) + self.weight.reshape(-1, 1, 1) * torch.clamp(x, max=0)


@contextmanager
def prelu_in_parts() -> Iterator[None]:
    """For the time of a case."""
    with mock.patch.object(nn.PReLU, "forward", in_parts):
        yield


def face_rows() -> Table:
    """Two faces of 512 px pictures, in windows of two sizes."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        latent_channels=16, block_out_channels=(8, 8, 16, 16), layers_per_block=2, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    ).requires_grad_(False)  # fmt: skip
    recogniser, example = IResNet100(), random_example(512, 2, np.random.default_rng(0))
    pairs = zip(example.landmarks, example.embeddings, strict=True)
    faces = [FaceTarget(points, torch.from_numpy(row)) for points, row in pairs]

    def loss(calls: DecodeCalls) -> Tensor:
        clean = torch.randn(1, 16, 64, 64, requires_grad=True)
        return face_loss(clean, [faces], vae, recogniser, calls=calls).loss

    on_gpu = CALLS["cuda"]
    apart = DecodeCalls(step=on_gpu.step, at_once=on_gpu.at_once)
    return [
        counted("a call a size of window, PReLU in parts", partial(loss, apart), prelu_in_parts),
        counted("a call a size of window", partial(loss, apart), nullcontext),
        counted("windows grow to one size: as on a GPU", partial(loss, on_gpu), nullcontext),
    ]


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    tables = {
        "The transformer, bfloat16, adapters in float32, each kernel of its own": transformer_rows(),
        "The identity loss, two faces": face_rows(),
    }
    return "; operations without views and allocations.", tables
