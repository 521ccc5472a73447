"""Peak memory of a card, counted: the product's own code at FLUX.1's size on a card that is not there (`no_card`).

python -m benchmarks peaks

Tensors have sizes and no numbers, so nothing is computed; whatever the code makes, keeps and lets go is counted as on a
card, but for what kernels and allocator take beside it. Where an H200 has measured the same, the page shows both.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from functools import partial
from typing import Any
from unittest import mock

LIMITS = (
    "generate at 1024 px with 4 people: full 40 GB, hoisted 24 GB without quantising, nf4 12 GB, group 8 GB; train in "
    "bfloat16 60 GB at 512 px and 65 GB at 1024 px, on an nf4 base 24 GB"
)
Table = list[dict[str, object]]
SIDE, PEOPLE, FACE, STEPS = 1024, 4, 192, 2
MODES = {"full": 40, "offload": None, "hoisted": 24, "fp8": None, "nf4": 12, "group": 8}
"""--memory, and the bar in GB."""
TRAINED = (
    (512, 1, "plain", None, 34.5), (1024, 1, "plain", None, 53.1), (512, 4, "plain", None, 60.5),
    (512, 1, "fused", 60, None), (1024, 1, "fused", 65, None), (512, 4, "fused", None, None),
    (512, 1, "nf4", 24, None), (1024, 1, "nf4", 24, None),
)  # fmt: skip
"""Side, batch, how, the bar, and what an H200 measured (docs/performance/train_gpu_third.md, "GB at most")."""
HOW = {
    "plain": "each operation by itself, as in the third lease", "fused": "fused kernels, as now",
    "nf4": "an NF4 base, all blocks computed again",
}  # fmt: skip


def train(side: int, batch: int, how: str) -> dict[str, object]:
    """A whole step, clipping and the optimiser included, without text encoders."""
    import numpy as np
    import torch

    from anyphoto_cli.config.train import LossConfig
    from anyphoto_cli.train.objective import objective
    from anyphoto_cli.train.sections import Sections
    from benchmarks import models, no_card
    from benchmarks.train import optimiser_of, parts_of

    device, there = torch.device("cuda", 0), partial(made_there, quantised=how == "nf4")
    with no_card.card() as card, mock.patch.object(models, "of_random_numbers", there):
        with card.without_numbers():
            model = models.built(device, side, 128)
            parts, optimiser = parts_of(model, device), optimiser_of(model)
        if how == "nf4":
            model.enable_gradient_checkpointing()
        model.fused = False if how == "plain" else None
        examples = [models.random_example(side, 2, np.random.default_rng(k)) for k in range(batch)]
        method, clock = model.method, Sections(torch.device("cpu"))
        card.begin()
        objective(
            examples, parts, LossConfig(), method, seed=0, step=0, rank=0, sections=clock
        ).loss.backward()  # fmt: skip
        optimiser.clip()
        optimiser.step(0)
        return {"GB": card.most / 1e9}


def made_there(make: Any, device: Any, dtype: Any, quantised: bool = False) -> Any:
    """`models.of_random_numbers`, without torch's meta device: fakes of it cannot become others."""
    import torch

    with torch.device(device):
        model = make().to(dtype)
    if quantised:
        in_nf4(model)
    return model


def in_nf4(model: Any, but: tuple[str, ...] = ()) -> None:
    """Linear layers as bitsandbytes keeps them: half a byte a weight, a float32 for 64, in the layer's own number
    format for the time of a product.
    """
    import torch
    from torch.nn import functional as F

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, layer: Any) -> Any:
            ctx.layer, ctx.like = layer, (x.dtype, x.device)
            return F.linear(x, torch.empty(layer.out_features, layer.in_features, dtype=x.dtype, device=x.device))

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            dtype, device = ctx.like
            weight = torch.empty(ctx.layer.out_features, ctx.layer.in_features, dtype=dtype, device=device)
            return grads[0] @ weight, None

    class Nf4(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            out = Product.apply(x, self)
            return out if self.bias is None else out + self.bias

    for name, layer in model.named_modules():
        if type(layer) is torch.nn.Linear and name.rpartition(".")[2] not in but:
            weights, device = layer.weight.numel(), layer.weight.device
            layer.weight = torch.nn.Parameter(torch.empty(weights // 2, dtype=torch.uint8, device=device), False)
            layer.register_buffer("absmax", torch.empty(weights // 64, dtype=torch.float32, device=device))
            layer.__class__ = Nf4


def render(mode: str) -> dict[str, object]:
    """As `generate --memory MODE`: prompt, a few steps with people, the picture decoded."""
    import torch

    from anyphoto_cli.config.method import MethodConfig
    from anyphoto_cli.model import memory
    from benchmarks import no_card
    from benchmarks.generate import tokens_of
    from benchmarks.models import as_rendered

    device, dtype, toy = torch.device("cuda", 0), torch.bfloat16, toy_pipeline()
    with no_card.card() as card:
        with card.without_numbers():
            pipeline = pipeline_there(toy, dtype)
            if mode == "nf4":
                in_nf4(pipeline.transformer)
                in_nf4(pipeline.text_encoder_2, but=("wo",))  # as transformers leaves T5
            pipeline.transformer.add_anyphoto(MethodConfig())
            as_rendered(pipeline.transformer)
            if mode == "fp8":
                pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, dtype)
            memory.place(pipeline, device, mode)
        pipeline.set_progress_bar_config(disable=True)
        faces = tokens_of([(FACE // 16) ** 2] * PEOPLE, SIDE, torch.device("cpu"), dtype)
        card.begin()
        pipeline("two friends on a beach", faces=faces, height=SIDE, width=SIDE, num_inference_steps=STEPS,
                 output_type="pt")  # fmt: skip
        return {"GB": card.most / 1e9}


def toy_pipeline() -> Any:
    """Whose tokenizers and schedule will do."""
    from diffusers import FluxPipeline

    from anyphoto_cli.model import bases

    return FluxPipeline.from_pretrained(bases.base_folder(bases.TINY_RANDOM))


def pipeline_there(toy: Any, dtype: Any) -> Any:
    """FLUX.1-dev's models in main memory, where `from_pretrained` leaves them."""
    import torch
    from transformers import CLIPTextModel, T5EncoderModel

    from anyphoto_cli.model.pipeline import AnyPhotoPipeline
    from anyphoto_cli.model.transformer import AnyPhotoTransformer
    from benchmarks.memory import clip_l, t5_xxl
    from benchmarks.models import FULL, random_vae

    clip = clip_l(eos_token_id=toy.text_encoder.config.eos_token_id)
    return AnyPhotoPipeline(
        scheduler=toy.scheduler, vae=random_vae(torch.device("cuda", 0)).to("cpu"), tokenizer=toy.tokenizer,
        text_encoder=CLIPTextModel(clip).to(dtype).eval(), tokenizer_2=toy.tokenizer_2,
        text_encoder_2=T5EncoderModel(t5_xxl()).to(dtype).eval(),
        transformer=AnyPhotoTransformer(guidance_embeds=True, **FULL).to(dtype).requires_grad_(False),
    )  # fmt: skip


def _in_a_process(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.peaks", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(words, found, flush=True)
    return found


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    from anyphoto_cli.model.memory import FLUX_NEEDS_GB

    rendered: Table = [
        {
            "--memory": mode, "GB at most, counted": round(_in_a_process("render", mode)["GB"], 1),
            "what `--memory auto` asks for": FLUX_NEEDS_GB[mode], "bar": bar or "",
        }
        for mode, bar in MODES.items()
    ]  # fmt: skip
    trained: Table = [
        {
            "px": side, "batch": batch, "how": HOW[how],
            "GB at most, counted": round(_in_a_process("train", str(side), str(batch), how)["GB"], 1),
            "measured on an H200": measured or "", "bar": bar or "",
        }
        for side, batch, how, bar, measured in TRAINED
    ]  # fmt: skip
    note = "; counted, FLUX.1's size and an adapter of rank 128, on no card."
    return note, {
        f"generate, {SIDE} px, {PEOPLE} people of {FACE} px, T5 and CLIP included": rendered,
        "A whole training step, 2 faces, without T5 and CLIP": trained,
    }


def main() -> None:
    """render MODE | train SIDE BATCH HOW."""
    from benchmarks import no_card

    no_card.summon()
    what, *more = sys.argv[1:]
    found = render(*more) if what == "render" else train(int(more[0]), int(more[1]), more[2])
    gc.collect()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
