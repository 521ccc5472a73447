"""One case of `peaks`, in a process of its own, on a card that is not there: prints GB on it at most, as JSON.

python -m benchmarks.peak render MODE
python -m benchmarks.peak train SIDE BATCH HOW
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

from benchmarks import no_card

no_card.summon()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import FluxPipeline  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers import CLIPTextModel, T5EncoderModel  # noqa: E402

from anyphoto_cli.config.method import MethodConfig  # noqa: E402
from anyphoto_cli.config.train import LossConfig  # noqa: E402
from anyphoto_cli.model import bases, memory  # noqa: E402
from anyphoto_cli.model.pipeline import AnyPhotoPipeline  # noqa: E402
from anyphoto_cli.model.transformer import AnyPhotoTransformer  # noqa: E402
from anyphoto_cli.train.objective import objective  # noqa: E402
from anyphoto_cli.train.sections import Sections  # noqa: E402
from benchmarks import models  # noqa: E402
from benchmarks.fake_card import card  # noqa: E402
from benchmarks.generate import tokens_of  # noqa: E402
from benchmarks.memory import clip_l, t5_xxl  # noqa: E402
from benchmarks.peaks import FACE, PEOPLE, SIDE, STEPS  # noqa: E402
from benchmarks.train import optimiser_of, parts_of  # noqa: E402

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")


def render(mode: str) -> list[float]:
    """As `generate --memory MODE`: prompt, a few steps with people, the picture decoded."""
    dtype = torch.bfloat16
    toy = FluxPipeline.from_pretrained(bases.base_folder(bases.TINY_RANDOM))  # its tokenizers and schedule will do
    with card() as there:
        with there.without_numbers():
            pipeline = full_size(toy, dtype)
            if mode == "nf4":
                in_nf4(pipeline.transformer)
                in_nf4(pipeline.text_encoder_2, but=("wo",))  # as transformers leaves T5
            pipeline.transformer.add_anyphoto(MethodConfig())
            models.as_rendered(pipeline.transformer)
            if mode == "fp8":
                pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, dtype)
            memory.place(pipeline, CARD, mode)
        pipeline.set_progress_bar_config(disable=True)
        faces = tokens_of([(FACE // 16) ** 2] * PEOPLE, SIDE, HOST, dtype)
        there.begin()
        pipeline("two friends on a beach", faces=faces, height=SIDE, width=SIDE, num_inference_steps=STEPS,
                 output_type="pt")  # fmt: skip
        return [there.most / 1e9]


def full_size(toy: Any, dtype: torch.dtype) -> Any:
    """FLUX.1-dev's models in main memory, where `from_pretrained` leaves them."""
    clip = clip_l(eos_token_id=toy.text_encoder.config.eos_token_id)
    return AnyPhotoPipeline(
        scheduler=toy.scheduler, vae=models.random_vae(CARD).to(HOST), tokenizer=toy.tokenizer,
        text_encoder=CLIPTextModel(clip).to(dtype).eval(), tokenizer_2=toy.tokenizer_2,
        text_encoder_2=T5EncoderModel(t5_xxl()).to(dtype).eval(),
        transformer=AnyPhotoTransformer(guidance_embeds=True, **models.FULL).to(dtype).requires_grad_(False),
    )  # fmt: skip


def train(side: int, batch: int, how: str) -> list[float]:
    """Of the first step, and of the second, which has the optimiser's state beside it. Clipping and the update are
    among it, text encoders are not.
    """
    made = partial(made_there, quantised=how == "nf4")
    with card() as there, mock.patch.object(models, "of_random_numbers", made):
        with there.without_numbers():
            model = models.built(CARD, side, 128)
            parts, optimiser = parts_of(model, CARD), optimiser_of(model)
        if how == "nf4":
            model.enable_gradient_checkpointing()
        model.fused = False if how == "plain" else None
        examples = [models.random_example(side, 2, np.random.default_rng(k)) for k in range(batch)]
        found = []
        for step in range(2):
            there.begin()
            told = dict(seed=0, step=step, rank=0, sections=Sections(HOST))
            objective(examples, parts, LossConfig(), model.method, **told).loss.backward()  # type: ignore[arg-type]
            optimiser.clip()
            optimiser.step(step)
            found.append(there.most / 1e9)
        return found


def made_there(make: Callable[[], Any], device: torch.device, dtype: torch.dtype, quantised: bool = False) -> Any:
    """`models.of_random_numbers`, without torch's meta device: fakes of it cannot become others."""
    with torch.device(device):
        model = make().to(dtype)
    if quantised:
        in_nf4(model)
    return model


class Nf4(nn.Linear):
    """As bitsandbytes keeps a layer: half a byte a weight, a float32 for 64, all in the layer's own number format for
    the time of a product.
    """

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self)
        return out if self.bias is None else out + self.bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4) -> Tensor:
        ctx.layer = layer
        return F.linear(x, _unpacked(layer, x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ _unpacked(ctx.layer, grads[0]), None


def _unpacked(layer: Nf4, like: Tensor) -> Tensor:
    return like.new_empty(layer.out_features, layer.in_features)


def in_nf4(model: nn.Module, but: tuple[str, ...] = ()) -> None:
    """Its linear layers, but those of some names."""
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear and name.rpartition(".")[2] not in but:
            weights, device = layer.weight.numel(), layer.weight.device
            layer.weight = nn.Parameter(torch.empty(weights // 2, dtype=torch.uint8, device=device), False)
            layer.register_buffer("absmax", torch.empty(weights // 64, dtype=torch.float32, device=device))
            layer.__class__ = Nf4


if __name__ == "__main__":
    what, *more = sys.argv[1:]
    print(json.dumps(render(*more) if what == "render" else train(int(more[0]), int(more[1]), more[2])))
