"""Memory, counted: weights of FLUX.1 by part and by mode, what a training step keeps, and what loading needs.

python -m benchmarks memory

Nothing is allocated but for the last table: shapes come from the real classes on torch's meta device.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.model.hoisted_modulation import blocks_of, modulation_layers
from anyphoto_cli.model.memory import FLUX_NEEDS_GB
from anyphoto_cli.model.token_pruning import LocationTokens
from anyphoto_cli.model.transformer import AnyPhotoTransformer

LIMITS = (
    "generate: full 40 GB, hoisted 24 GB without quantising, nf4 12 GB, group 8 GB; train in bfloat16: 60 GB at 512 "
    "px, 65 GB at 1024 px; loading: no second copy of the weights in memory"
)
Table = list[dict[str, object]]
GB = 1e9
STEPS = 28


def on_meta(make: Any) -> Any:
    with torch.device("meta"):
        return make()


def numbers(*modules: Any) -> float:
    """Billions of parameters."""
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e9


def t5_xxl() -> Any:
    """FLUX.1's, the encoder alone."""
    from transformers import T5Config

    return T5Config(
        d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=32128, feed_forward_proj="gated-gelu"
    )


def clip_l(**more: Any) -> Any:
    """FLUX.1's text tower."""
    from transformers import CLIPTextConfig

    sizes = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    return CLIPTextConfig(vocab_size=49408, **sizes, **more)


def parts() -> dict[str, float]:
    """Billions of parameters of FLUX.1's parts; the text encoders' and the VAE's sizes as their configs say."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, T5EncoderModel

    flux = on_meta(lambda: AnyPhotoTransformer(guidance_embeds=True))
    vae = dict(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16, use_quant_conv=False,
        use_post_quant_conv=False, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    rows = [layer for block in blocks_of(flux) for layer in modulation_layers(block)]
    return {
        "transformer": numbers(flux), "of it modulation layers": numbers(*rows),
        "T5-XXL encoder": numbers(on_meta(lambda: T5EncoderModel(t5_xxl()))),
        "CLIP-L text": numbers(on_meta(lambda: CLIPTextModel(clip_l()))),
        "VAE": numbers(on_meta(lambda: AutoencoderKL(**vae))),
    }  # fmt: skip


def part_rows(found: dict[str, float]) -> Table:
    return [
        {"part": name, "billion parameters": round(count, 3), "GB in bfloat16": round(2 * count, 2)}
        for name, count in found.items()
    ]


def modulation_table(people: int) -> float:
    """GB of the rows of a whole render in bfloat16."""
    double, single = 19 * (6 + 6 + 6 * people), 38 * (3 + 3 * people)
    return STEPS * (double + single) * 3072 * 2 / GB


def mode_rows(found: dict[str, float]) -> Table:
    """Weights on the device at most, by mode; what is left to the bar is for activations (about 3 GB at 1024 px)."""
    flux, rows, t5 = found["transformer"], found["of it modulation layers"], found["T5-XXL encoder"]
    rest = found["CLIP-L text"] + found["VAE"]
    # Of layers two are there, one at work and the next; the largest is T5's table of words.
    layer = 32128 * 4096 / 1e9
    weights = {
        "full": 2 * (flux + t5 + rest),
        "offload": 2 * max(flux, t5),
        "hoisted": max(2 * (flux - rows + found["VAE"]) + modulation_table(4), 2 * (t5 + rest)),
        "fp8": max(flux - rows + 2 * rows, 2 * t5),  # modulation layers stay in bfloat16
        "nf4": 0.57 * max(flux, t5) + 2 * found["VAE"],
        "group": 2 * 2 * layer + 2 * found["VAE"],
    }
    return [
        {
            "--memory": mode, "GB of weights on the device at most": round(held, 1), "stated need": FLUX_NEEDS_GB[mode],
            "left for activations": round(FLUX_NEEDS_GB[mode] - held, 1), "computed or measured": "computed",
        }
        for mode, held in weights.items()
    ]  # fmt: skip


def kept_bytes(px: int, faces: Sequence[int], double: int, single: int, rank: int = 128) -> int:
    """Of the tensors that one training forward pass of so many blocks keeps for its backward pass, weights aside."""
    kept: dict[int, int] = {}
    dtype, noise, located = torch.bfloat16, (px // 16) ** 2, sum(faces)
    with torch.device("meta"):
        model = AnyPhotoTransformer(guidance_embeds=True, num_layers=double, num_single_layers=single).to(dtype)
        model.requires_grad_(False)
        model.add_anyphoto(MethodConfig(lora_rank=rank))
        model.attention = "merged"  # whose kernels tell the meta device what flash kernels keep
        own = {p.untyped_storage()._cdata for p in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
                alive.append(storage)
            return tensor

        alive: list[Any] = []
        face = LocationTokens(
            torch.zeros(located, 64, dtype=dtype), torch.zeros(located, 3), tuple(faces), torch.zeros(len(faces), 512)
        )
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(
                hidden_states=torch.zeros(1, noise, 64, dtype=dtype),
                encoder_hidden_states=torch.zeros(1, 512, 4096, dtype=dtype),
                pooled_projections=torch.zeros(1, 768, dtype=dtype), timestep=torch.zeros(1), guidance=torch.ones(1),
                img_ids=torch.zeros(noise, 3), txt_ids=torch.zeros(512, 3), faces=[face], return_dict=False,
            )  # fmt: skip
    return sum(kept.values())


def kept_rows() -> Table:
    """By difference: one block more keeps so much more. The last block keeps less and is counted as the others are."""
    rows: Table = []
    for px, faces in ((512, [64] * 2), (512, [36] * 4), (1024, [256] * 2), (1024, [144] * 4)):
        one = kept_bytes(px, faces, 1, 1)
        double, single = kept_bytes(px, faces, 2, 1) - one, kept_bytes(px, faces, 1, 2) - one
        tokens = (px // 16) ** 2 + 512 + sum(faces)
        all_ = 19 * double + 38 * single
        inputs = 57 * tokens * 3072 * 2
        rows.append({
            "px": px, "faces": len(faces), "tokens": tokens, "MB, double block": round(double / 1e6),
            "MB, single block": round(single / 1e6), "widths a token": f"{double / tokens / 6144:.1f}, "
            f"{single / tokens / 6144:.1f}", "GB, all 57 blocks": round(all_ / GB, 1),
            "GB, all computed again": round((inputs + double) / GB, 1),
            "GB with weights, LoRA and AdamW": round(all_ / GB + 23.8 + 0.464 * 16, 1),
        })  # fmt: skip
    return rows


LOAD = """
import resource, sys, torch
from diffusers import FluxTransformer2DModel
import diffusers.loaders, peft
from anyphoto_cli.model.transformer import AnyPhotoTransformer
import transformers.modeling_utils
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = AnyPhotoTransformer.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
for p in model.parameters():  # files are mapped, not read, until somebody looks
    p.flatten()[:: 4096 // p.element_size()].float().sum()
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(before * 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, size)
"""


def load_rows() -> Table:
    """Peak memory of a process that opens a transformer of real width, over its weights."""
    rows: Table = []
    for blocks in ((1, 2), (2, 4)):
        with tempfile.TemporaryDirectory() as folder:
            transformer = AnyPhotoTransformer(guidance_embeds=True, num_layers=blocks[0], num_single_layers=blocks[1])
            transformer.to(torch.bfloat16).save_pretrained(folder, max_shard_size="1GB")
            del transformer
            # A fresh python between: a child inherits the peak of whoever forked it.
            command = [
                sys.executable,
                "-c",
                "import subprocess, sys; subprocess.run(sys.argv[1:])",
                sys.executable,
                "-c",
            ]
            told = subprocess.run([*command, LOAD, folder], capture_output=True, text=True, check=True).stdout
            files = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        before, peak, size = (float(word) for word in told.split())
        rows.append({
            "blocks": f"{blocks[0]} + {blocks[1]}", "GB on disk": round(files / GB, 2),
            "GB of weights": round(size / GB, 2),
            "GB the process grew by at most": round((peak - before) / GB, 2),
            "over the weights": round((peak - before) / size, 2),
        })  # fmt: skip
    return rows


def measure(arguments: list[str]) -> tuple[str, dict[str, Table]]:
    """(a note, tables by title)."""
    from diffusers.utils import logging

    logging.set_verbosity_error()
    found = parts()
    tables = {
        "FLUX.1's parts": part_rows(found), "By mode of generate, 1024 px, 4 people": mode_rows(found),
        "Kept for the backward pass (counted on the meta device, LoRA of rank 128 on location tokens)": kept_rows(),
        "Opening a transformer": load_rows(),
    }  # fmt: skip
    return "; counted, but for the last table.", tables
