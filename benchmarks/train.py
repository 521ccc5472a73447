"""One training step: ours, a naive AnyPhoto, and a plain LoRA step of stock FLUX; and what the loader delivers.

python -m benchmarks train                       here, at a small size
python -m benchmarks train --device cuda         FLUX.1's size with random weights, 512 x 512 px
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import repeat
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.config.train import LossConfig
from anyphoto_cli.model.location_lora import ADAPTER, _delta, location_lora_config
from anyphoto_cli.model.transformer import AnyPhotoTransformer
from anyphoto_cli.train.ahead import encoded
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.flops import peak_flops, step_flops
from anyphoto_cli.train.frozen import Parts, encode_batch
from anyphoto_cli.train.objective import objective
from benchmarks.rounds import asked

LIMITS = (
    "at least 1.25 x a naive AnyPhoto (dense mask, LoRA computed for all tokens, whole picture decoded) with the same "
    "checkpointing, 1.6 x one with full checkpointing; on an H100 50 % MFU, at most 60 GB in bfloat16"
)
SMALL = dict(
    num_layers=2, num_single_layers=4, attention_head_dim=64, num_attention_heads=6, axes_dims_rope=(8, 28, 28)
)
FULL = dict(num_layers=19, num_single_layers=38, attention_head_dim=128, num_attention_heads=24)
Step = Callable[[], Tensor]


def built(device: torch.device, side: int, rank: int, plain: bool = False) -> Any:
    """A FLUX with random numbers: at full size on a GPU, else small; frozen, with a fresh adapter."""
    sizes = FULL if device.type == "cuda" else SMALL
    width = {"joint_attention_dim": 4096 if device.type == "cuda" else 128}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    kind: Any = AnyPhotoTransformer
    if plain:
        from diffusers import FluxTransformer2DModel as kind
    with torch.device("meta"):
        transformer = kind(guidance_embeds=True, **sizes, **width)
    transformer.to_empty(device=device).to(dtype)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_(0, 0.02)
    transformer.pos_embed.to(device)
    transformer.requires_grad_(False)
    method = MethodConfig(lora_rank=rank)
    if plain:
        config = location_lora_config(method, len(transformer.single_transformer_blocks))
        transformer.add_adapter(config, ADAPTER)
        for name, parameter in transformer.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
    else:
        transformer.add_anyphoto(method)
    return transformer.train()


def random_vae(device: torch.device) -> Any:
    """FLUX's own sizes on a GPU; elsewhere so small that an encode is 2 % of a step, as it is there."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    cuda = device.type == "cuda"
    vae = AutoencoderKL(
        latent_channels=16, block_out_channels=(128, 256, 512, 512) if cuda else (8, 8, 16, 16),
        layers_per_block=2 if cuda else 1, norm_num_groups=32 if cuda else 4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    return vae.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).requires_grad_(False)


def random_example(side: int, faces: int, rng: np.random.Generator) -> Example:
    """Faces of about a fifth of the side, in a row."""
    cells, wide = side // 16, max(side // 16 // 5, 2)
    masks = np.zeros((faces, cells, cells), bool)
    points = np.zeros((faces, 5, 2))
    template = np.array([(38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2)]) / 112
    for k in range(faces):
        left = (k * (cells - wide)) // max(faces - 1, 1)
        masks[k, cells // 3 : cells // 3 + wide, left : left + wide] = True
        points[k] = template * wide * 16 + (left * 16, cells // 3 * 16)
    embeddings = rng.normal(size=(faces, 512)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    pixels = rng.integers(0, 255, (faces + 1, side, side, 3), dtype=np.uint8)
    return Example(
        "0", pixels[0], "two friends", pixels[1:], masks, embeddings, points, embeddings, np.zeros(faces, bool), False
    )


class Text:
    """Random states in place of T5's and CLIP's: cached embeddings cost nothing."""

    def __init__(self, device: torch.device, length: int, dim: int) -> None:
        self.states, self.pooled = torch.randn(1, length, dim, device=device), torch.randn(1, 768, device=device)

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        return self.states.expand(len(captions), -1, -1), self.pooled.expand(len(captions), -1)


def lora_on_all_tokens(layer: nn.Module, x: Tensor, tail: int) -> Tensor:
    """What `split_lora` gives, with the adapter computed for every token and masked after."""
    out = layer.base_layer(x) if hasattr(layer, "base_layer") else layer(x)
    if not tail or not hasattr(layer, "lora_A") or ADAPTER not in layer.lora_A:
        return out
    mask = torch.zeros(len(x), 1, dtype=x.dtype, device=x.device)
    mask[-tail:] = 1
    return out + mask * _delta(layer, ADAPTER, x)


@contextmanager
def naive() -> Iterator[None]:
    """For the time of a step."""
    from anyphoto_cli.model import blocks, identity_modulation, transformer

    with ExitStack() as stack:
        for module in (blocks, identity_modulation, transformer):
            stack.enter_context(mock.patch.object(module, "split_lora", lora_on_all_tokens))
        yield


def steps(device: torch.device, side: int, faces: int, rank: int) -> dict[str, tuple[Any, Step, Any]]:
    """Name -> (model, a step's loss, what to hold around it)."""
    from anyphoto_cli.faces.recogniser_torch import load_recogniser
    from anyphoto_cli.mini.shipped import face_pack_folder

    ours = built(device, side, rank)
    vae, text = random_vae(device), Text(device, 512, ours.config.joint_attention_dim)
    recogniser = load_recogniser(face_pack_folder() / "w_mini.onnx").to(device)
    dtype = ours.dtype
    parts = Parts(ours, vae, text, recogniser, device, dtype)
    example = random_example(side, faces, np.random.default_rng(0))

    def loss(decode: str) -> Step:
        config = LossConfig(face_decode=decode)
        return lambda: objective([example], parts, config, ours.method, seed=0, step=0, rank=0).loss

    plain = built(device, side, rank, plain=True)

    def plain_loss() -> Tensor:
        from anyphoto_cli.model.token_pruning import grid_ids
        from anyphoto_cli.model.vae import to_pixels

        with torch.no_grad():
            clean = vae.encode(to_pixels([example.picture]).to(device, dtype)).latent_dist.mode()
        packed = F.pixel_unshuffle(clean, 2).flatten(2).transpose(1, 2).to(dtype)
        noise = torch.randn_like(packed)
        states, pooled = text(["a"])
        said = plain(
            hidden_states=(packed + noise) / 2, encoder_hidden_states=states.to(dtype),
            pooled_projections=pooled.to(dtype), timestep=torch.full((1,), 0.5, device=device),
            guidance=torch.ones(1, device=device), img_ids=grid_ids(side // 16, side // 16).to(device),
            txt_ids=torch.zeros(512, 3, device=device), return_dict=False,
        )[0]  # fmt: skip
        return (said.float() - (noise - packed).float()).square().mean()

    found: dict[str, tuple[Any, Step, Any]] = {"ours": (ours, loss("crop"), nullcontext)}
    if device.type == "cuda":
        found["ours, encoded ahead"] = (ours, ahead([example], parts, ours.method), nullcontext)
    return found | {
        "naive": (ours, loss("full"), naive),
        "naive, full checkpointing": (ours, loss("full"), naive),
        "plain LoRA step of stock FLUX, no faces": (plain, plain_loss, nullcontext),
    }


def ahead(examples: list[Example], parts: Parts, method: MethodConfig) -> Step:
    """The step whose VAE and captions were done beside the one before."""

    def encode(batch: Any, number: int) -> Any:
        return encode_batch(batch, parts, method, seed=0, step=0, rank=0)

    work = encoded(repeat(examples), encode, range(1_000_000), parts.device)
    return lambda: objective(examples, parts, LossConfig(), method, seed=0, step=0, rank=0, encoded=next(work)[1]).loss


def run_step(name: str, model: Any, loss: Step, around: Any, device: torch.device) -> tuple[float, float]:
    """(seconds, GB at most on a GPU, of saved tensors elsewhere)."""
    if "checkpointing" in name:
        model.enable_gradient_checkpointing()
    else:
        model.disable_gradient_checkpointing()
    if hasattr(model, "attention"):
        model.attention = "masked" if name.startswith("naive") else "auto"
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    counting = nullcontext() if device.type == "cuda" else torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
    began = time.perf_counter()
    with around(), counting:
        loss().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    taken = time.perf_counter() - began
    for parameter in model.parameters():
        parameter.grad = None
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    bytes_ = torch.cuda.max_memory_allocated() if device.type == "cuda" else sum(
        size for where, size in saved.items() if where not in own
    )  # fmt: skip
    return taken, bytes_ / 1e9


def step_rows(device: torch.device, side: int, faces: int, rank: int, rounds: int) -> list[dict[str, object]]:
    """Interleaved rounds, the first dropped."""
    cases = steps(device, side, faces, rank)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    memory: dict[str, float] = {}
    for round_ in range(rounds + 1):
        for name, (model, loss, around) in cases.items():
            taken, memory[name] = run_step(name, model, loss, around, device)
            if round_:
                seconds[name].append(taken)
    model = cases["ours"][0]
    counts = random_example(side, faces, np.random.default_rng(0)).masks.reshape(faces, -1).sum(1).tolist()
    useful = step_flops(model, (side // 16) ** 2, 512, counts)
    peak = peak_flops(device)
    rows = []
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        ratio = statistics.median(a / b for a, b in zip(taken, seconds["ours"], strict=True))
        mfu = f"{useful / middle / peak:.0%}" if peak and not name.startswith("plain") else "n/a"
        rows.append({
            "step": name, "px": side, "faces": faces, "location tokens": sum(counts), "seconds": round(middle, 3),
            "best": round(min(taken), 3), "ratio to ours": round(ratio, 2), "MFU": mfu,
            "GB" if device.type == "cuda" else "GB saved for the backward pass": round(memory[name], 2),
        })  # fmt: skip
    return rows


def loader_rows(seconds: float = 6.0) -> list[dict[str, object]]:
    """Samples a second of one process at 128 and 512 px, and where the time goes."""
    import cProfile
    import pstats

    from anyphoto_cli.config.load import load_config
    from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
    from anyphoto_cli.config.train import TrainConfig
    from anyphoto_cli.mini.photos import PhotosConfig, draw_photos
    from anyphoto_cli.preprocess import run as preprocess
    from anyphoto_cli.train.batches import ShardedSamples, batches

    folder = Path(tempfile.mkdtemp(prefix="anyphoto-bench-"))
    world = draw_photos(folder / "world", PhotosConfig(people=12, groups=60, references=2)).folder
    rows = []
    for side, patch in ((128, 112), (512, 448)):
        config = load_config(PreprocessConfig, world / "preprocess.yaml", {"patch_size": patch}, [])
        preprocess(world / "photos", folder / f"{side}", world / "refs", config, RunOptions(executor="here"))
        told = {
            "model": "mini", "output_dir": str(folder / "run"), "max_train_steps": 10**6,
            "data": {"shards": str(folder / f"{side}"), "resolution": side, "workers": 0},
            "method": {"patch_size": patch},
        }  # fmt: skip
        train = TrainConfig.model_validate(told)
        stream = batches(ShardedSamples(folder / f"{side}"), train, 10**5, 0, 1)
        next(stream)
        profile, began, count = cProfile.Profile(), time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            next(stream)
            count += 1
        rate = count / (time.perf_counter() - began)
        profile.enable()
        for _ in range(50):
            next(stream)
        profile.disable()
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        whole = sum(entry[2] for entry in stats.values())
        shares = {
            label: sum(entry[3] for key, entry in stats.items() if key[2] == function) / whole
            for label, function in (
                ("decode", "_decoded"), ("references and degradations", "_reference"), ("canvas", "location_canvas"),
                ("crop", "of_picture"),
            )
        }  # fmt: skip
        rows.append({
            "px": side, "patch": patch, "samples/s, one process": round(rate, 1),
            **{label: f"{share:.0%}" for label, share in shares.items()},
        })  # fmt: skip
    return rows


def measure(arguments: list[str]) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """(a note, tables by title)."""
    device, rounds = asked(arguments)
    cuda = device.type == "cuda"
    side, rank = 512, 128 if cuda else 16
    tables = {
        f"One step, {faces} faces": step_rows(device, side, faces, rank, rounds) for faces in (2, 4)
    }  # fmt: skip
    if not cuda:
        tables["The loader"] = loader_rows()
    where = torch.cuda.get_device_name() if cuda else "one thread"
    return f"; medians of {rounds} interleaved rounds, {where}, random weights.", tables
