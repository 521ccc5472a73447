"""The base: FLUX's transformer at small width, trained by flow matching together with its text encoders.

Then guidance is distilled into it, as FLUX.1-dev's was: one pass does what classifier-free guidance needs two for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.picture import Place, heads_of, style_of
from anyphoto_cli.mini.pretrain.latents import CHUNK, CHUNKS, chunk_of, size_of
from anyphoto_cli.mini.pretrain.loop import Schedule, begin_with, fit, load_trained
from anyphoto_cli.mini.pretrain.phases import HEEDING, UNGUIDED, last_begun
from anyphoto_cli.mini.pretrain.reading import trained_encoders
from anyphoto_cli.mini.pretrain.text import CLIP_LENGTH, LENGTH, build_clip, build_t5, with_filler

SCHEDULE = Schedule(
    steps=40_000, batch=64, lr=1.6e-3, warmup=300, decay=0.5, betas=(0.9, 0.98), weight_decay=0.02, ema=0.9995,
    muon_lr=3e-3,
)  # fmt: skip
FLOW = Schedule(
    steps=2_000, batch=64, lr=4e-4, warmup=100, decay=0.6, betas=(0.9, 0.98), weight_decay=0.02, ema=0.999,
    muon_lr=8e-4,
)  # fmt: skip
"""Of a base that guidance was distilled into, trained on. Gentler than at first: what it knows is to be kept."""
DISTIL = Schedule(steps=4_000, batch=64, lr=6e-4, warmup=20, decay=0.8, betas=(0.9, 0.98), ema=0.999, muon_lr=2e-3)
TEXT_DROP = 0.1
GUIDANCE, RESCALE = 5.6, 0.7
"""Classifier-free guidance per unit of the number told, times t: FLUX.1-dev's 3.5 stands for a scale of 15 in pure
noise (20 after the stage `heed`), where the people are settled, and for none at the end, where it would burn the
colours. And how far the guided picture's spread is drawn back to the unguided one's (arXiv 2305.08891).
"""
TIMES, FLOW_TIMES, DISTIL_TIMES = (0.0, 1.0), (0.4, 1.2), (0.7, 1.4)
"""Mean and deviation of the normal whose logistic is t: of flow matching; of flow matching later on, when what is left
to learn is how many people there are; of distilling guidance, at the times that a render passes. A seventh of its steps
lie above .9, where the people are settled; flow matching hardly looks there.
"""
USUAL, USUALLY = 3.5, 0.5
"""The guidance that nearly everybody asks for, and how often it is distilled: told 6, the student's
squared errors are three to four times as large, and would be what it learns from.
"""
FIRST_CHUNKS, STEPS_PER_CHUNK = 16, 400
HEAD_WEIGHT = 4.0
"""Of the error at tokens that show a head, which are a quarter of all: each token's best answer stays the same, but the
small network spends itself where pictures are judged.
"""
CLEAR, CROWDED = 0.9, {1: 0.16, 2: 0.25, 3: 0.27, 4: 0.32}
STYLED = {"photo": 0.2, "pencil": 0.3, "watercolour": 0.1, "pixel": 0.12, "comic": 0.14, "sepia": 0.14}
"""How often a picture is looked at in which no head is in front of another, and of how many people and in which style
it is then: the more the harder. A caption that counts somebody who is hidden teaches to leave people out, and faces of
a few grey lines are the first that fall apart.
"""
LENGTHS = (LENGTH, 20, 32, 20)
"""T5 tokens of a step, in turn: most captions are short, and tokens that only pad cost as much as others."""


class MiniBase(nn.Module):
    """Transformer and text encoders in one, for training. The tokenizers are not modules."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import FluxTransformer2DModel

        self.clip_tokenizer, self.clip = build_clip()
        self.t5_tokenizer, self.t5 = build_t5()
        self.transformer = FluxTransformer2DModel(
            num_layers=2,
            num_single_layers=6,
            attention_head_dim=48,
            num_attention_heads=4,
            joint_attention_dim=self.t5.config.d_model,
            pooled_projection_dim=self.clip.config.hidden_size,
            guidance_embeds=True,
            axes_dims_rope=(8, 20, 20),
        )
        _start_calm(self.transformer)

    def learn_from(self, clip: nn.Module, t5: nn.Module) -> None:
        """Take over encoders that can read."""
        self.clip.load_state_dict(clip.state_dict())
        self.t5.load_state_dict(t5.state_dict())

    def read(self, prompts: list[str], length: int = LENGTH) -> tuple[Tensor, Tensor]:
        """-> ([n, length, 128] T5 states, [n, 96] CLIP's pooled vector), as `FluxPipeline` computes them."""
        device = self.transformer.device
        ids = self.t5_tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        # CLIP looks back only: what pads the end changes nothing before it.
        short = self.clip_tokenizer(prompts, padding=True, max_length=CLIP_LENGTH, truncation=True, return_tensors="pt")
        pooled = self.clip(short.input_ids.to(device)).pooler_output
        return self.t5(ids.to(device))[0], pooled

    def forward(self, noisy: Tensor, t: Tensor, text: tuple[Tensor, Tensor], grid: Tensor, guidance: Tensor) -> Tensor:
        """[n, tokens, 64] at time t [n] -> the velocity noise - picture."""
        states, pooled = text
        # On a CPU the plain backend trains faster than the flash one, whose backward pass is slow there.
        with sdpa_kernel(SDPBackend.MATH) if noisy.device.type == "cpu" else nullcontext():
            velocity: Tensor = self.transformer(
                hidden_states=noisy,
                encoder_hidden_states=states,
                pooled_projections=pooled,
                timestep=t,
                guidance=guidance,
                img_ids=grid,
                txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device),
                return_dict=False,
            )[0]
        return velocity


def _start_calm(transformer: Any) -> None:
    """Blocks start as gentle additions and the output as zero: the first steps then teach something."""
    with torch.no_grad():
        for name, module in transformer.named_modules():
            if isinstance(module, nn.Linear) and (".norm" in name or name.startswith("norm_out")):
                module.weight.mul_(0.05)
                nn.init.zeros_(module.bias)
        for block in transformer.transformer_blocks:
            for norm in (block.norm1, block.norm1_context):
                _open_gates(norm.linear, (2, 5), 6)
        for block in transformer.single_transformer_blocks:
            _open_gates(block.norm.linear, (2,), 3)
        nn.init.zeros_(transformer.proj_out.weight)
        nn.init.zeros_(transformer.proj_out.bias)


def _open_gates(linear: nn.Linear, gates: tuple[int, ...], parts: int) -> None:
    chunks = linear.bias.view(parts, -1)
    for gate in gates:
        chunks[gate].fill_(0.4)


def train_base(folder: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Flow matching on what `prepare_latents` wrote; goes on where it stopped."""
    torch.manual_seed(2)
    base = MiniBase()
    if (folder / "text.pt").is_file():
        base.learn_from(*trained_encoders(folder))
    fit("base", base, lambda model, numbers, step: base_loss(model, numbers, step, folder, device),
        SCHEDULE.asked_for(), folder, device=device, minutes=minutes, log_every=100, hidden=is_hidden)  # fmt: skip


def is_hidden(name: str) -> bool:
    """Attention's and the MLPs' matrices, which Muon teaches in a fifth fewer samples than AdamW."""
    return name.startswith("transformer.") and "blocks." in name and ".norm" not in name


def train_flow(folder: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Flow matching for `folder`/base.pt, whose guidance is distilled already; goes on where it stopped.

    It is told 1 throughout; what it does when told more drifts, and is distilled again afterwards. Both at once, in
    turn, was tried: told 1 it came to predict pictures worse (docs/mini.md), by flow alone better.
    """
    torch.manual_seed(4)
    base = MiniBase()
    begin_with(folder, "flow", load_trained(folder, "base", base))
    fit("flow", base.train(), lambda model, numbers, step: flow_loss(model, numbers, step, folder, device),
        FLOW.asked_for(), folder, device=device, minutes=minutes, log_every=100, hidden=is_hidden)  # fmt: skip


def base_loss(model: Any, numbers: range, step: int, folder: Path, device: str) -> dict[str, Tensor]:
    """The guidance it is told means nothing yet: it learns to take any number from 1 to 6."""
    return _flow_loss(model, numbers, step, folder, device, TIMES, guidances(numbers))


def flow_loss(model: Any, numbers: range, step: int, folder: Path, device: str) -> dict[str, Tensor]:
    """As `base_loss`, told 1, and with more noise."""
    return _flow_loss(model, numbers, step, folder, device, FLOW_TIMES, torch.ones(len(numbers)))


def _flow_loss(
    model: Any, numbers: range, step: int, folder: Path, device: str, times: tuple[float, float], guidance: Tensor
) -> dict[str, Tensor]:
    """Squared error of the velocity at a logit-normal time, heads weighing more; one caption in ten is empty."""
    latents, prompts, grid, weights = batch(numbers, step, folder, device)
    noise, t = noise_and_time(latents, numbers, times)
    noisy = latents + t[:, None, None] * (noise - latents)
    velocity = model(noisy, t, model.read(prompts, length_at(step)), grid, guidance.to(device))
    error = (velocity.float() - (noise - latents)).square().mean(-1)
    return {"loss": (error * weights).sum() / weights.sum(), "plain": error.detach().mean()}


def batch(numbers: range, step: int, folder: Path, device: str) -> tuple[Tensor, list[str], Tensor, Tensor]:
    """(latents [n, tokens, 64], prompts, position ids [tokens, 3], weights [n, tokens]); all of one size, a pure
    function of the step.
    """
    chunk = Chance("chunk", step).below(chunks_at(step))
    stored, captions = chunk_of(folder, chunk)
    size, rows, prompts = size_of(chunk), [], []
    for number in numbers:
        chance = Chance("sample", number)
        rows.append(row := _row(chance, _clear_rows(chunk)))
        said = with_filler(chance.pick(_fitting(captions[row], length_at(step))), chance)
        prompts.append("" if chance.happens(TEXT_DROP) else said)
    latents = torch.from_numpy(stored[rows]).float().to(device)
    weights = torch.stack([head_weights(heads_of(chunk * CHUNK + row, size), size) for row in rows]).to(device)
    return latents, prompts, grid_ids(*size, device), weights


def _row(chance: Chance, clear: Mapping[tuple[int, str], list[int]]) -> int:
    """One picture of a chunk."""
    wanted = chance.weighted(CROWDED), chance.weighted(STYLED)
    rows = clear.get(wanted, ())
    return chance.pick(rows) if rows and chance.happens(CLEAR) else chance.below(CHUNK)


@lru_cache(maxsize=CHUNKS)
def _clear_rows(chunk: int) -> Mapping[tuple[int, str], list[int]]:
    """Pictures of a chunk by the number of their people and their style, those without a head in front of another."""
    rows: dict[tuple[int, str], list[int]] = {}
    for row in range(CHUNK):
        number = chunk * CHUNK + row
        if count := _clear_heads(number, size_of(chunk)):
            rows.setdefault((count, style_of(number)), []).append(row)
    return rows


def _clear_heads(number: int, size: tuple[int, int]) -> int:
    """People in a picture; 0 where one head is in front of another."""
    heads = sorted(heads_of(number, size), key=lambda head: head.x)
    touching = any(
        abs(a.x - b.x) < 0.62 * (a.scale + b.scale) and abs(a.y - b.y) < 0.9 * (a.scale + b.scale)
        for a, b in pairwise(heads)
    )
    return 0 if touching else len(heads)


def head_weights(heads: list[Place], size: tuple[int, int]) -> Tensor:
    """[tokens]: `HEAD_WEIGHT` for tokens that a head reaches into, else 1."""
    columns, rows = size[0] // 16, size[1] // 16
    weights = torch.ones(rows, columns)
    for head in heads:
        x0, x1 = ((head.x + side * 0.85 * head.scale) / 16 for side in (-1, 1))
        y0, y1 = ((head.y + side * 1.15 * head.scale) / 16 for side in (-1, 1))
        weights[max(int(y0), 0) : int(y1) + 1, max(int(x0), 0) : int(x1) + 1] = HEAD_WEIGHT
    return weights.reshape(-1)


def length_at(step: int) -> int:
    """T5 tokens of a step."""
    return LENGTHS[step % len(LENGTHS)]


def _fitting(captions: list[str], length: int) -> list[str]:
    """The captions that fit into so many tokens, a word and a comma being one each; at least the shortest."""
    room = length - 4
    fitting = [said for said in captions if len(said.split()) + said.count(",") <= room]
    return fitting or [min(captions, key=len)]


def chunks_at(step: int) -> int:
    """How many chunks a step may draw from: the training starts while the last ones are still being made."""
    return min(CHUNKS, FIRST_CHUNKS + step // STEPS_PER_CHUNK)


def grid_ids(width: int, height: int, device: str) -> Tensor:
    """[tokens, 3]: (0, row, column) of each token, row by row."""
    rows, columns = torch.meshgrid(torch.arange(height // 16), torch.arange(width // 16), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float().to(device)


def noise_and_time(
    latents: Tensor, numbers: range, times: tuple[float, float] = TIMES
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Noise like `latents`, and times [n] in 0-1; a pure function of the sample numbers."""
    generator = torch.Generator().manual_seed(numbers.start)
    noise = torch.randn(latents.shape, generator=generator)
    t = torch.sigmoid(times[0] + times[1] * torch.randn(len(latents), generator=generator))
    return noise.to(latents.device), t.to(latents.device)


def guidances(numbers: range) -> Tensor:
    """[n] from 1 to 6, a fifth of them 1."""
    generator = torch.Generator().manual_seed(numbers.start + 1)
    spread = 1 + 5 * torch.rand(len(numbers), generator=generator)
    return torch.where(torch.rand(len(numbers), generator=generator) < 0.2, torch.ones(1), spread)


def distil_guidances(numbers: range) -> Tensor:
    """[n]: `USUAL` so often, the others as `guidances` has them."""
    generator = torch.Generator().manual_seed(numbers.start + 2)
    usual = torch.rand(len(numbers), generator=generator) < USUALLY
    return torch.where(usual, torch.tensor(USUAL), guidances(numbers))


def distil_guidance(folder: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Teach the trained base to give, for the guidance it is told, what classifier-free guidance would."""
    torch.manual_seed(3)
    teacher, student = MiniBase().to(device), MiniBase()
    load_trained(folder, last_begun(folder, *UNGUIDED), teacher).requires_grad_(False)
    student.load_state_dict(teacher.state_dict())
    student.requires_grad_(False).transformer.requires_grad_(True)
    (folder / f"{HEEDING}.pt").unlink(missing_ok=True)
    fit("guided", student, lambda model, numbers, step: distil_loss(model, teacher, numbers, step, folder, device),
        DISTIL.asked_for(), folder, device=device, minutes=minutes, log_every=10, hidden=is_hidden)  # fmt: skip


def distil_loss(student: Any, teacher: Any, numbers: range, step: int, folder: Path, device: str) -> dict[str, Tensor]:
    """Squared distance to what guidance by two passes gives; above `USUAL` in shares of the square of g - 1."""
    latents, prompts, grid, _ = batch(numbers, step, folder, device)
    noise, t = noise_and_time(latents, numbers, DISTIL_TIMES)
    noisy = latents + t[:, None, None] * (noise - latents)
    ones = torch.ones(len(latents), device=device)
    guidance = distil_guidances(numbers).to(device)
    with torch.no_grad():
        length = length_at(step)
        text, empty = teacher.read(prompts, length), teacher.read([""] * len(prompts), length)
        told, free = teacher(noisy, t, text, grid, ones), teacher(noisy, t, empty, grid, ones)
        wanted = guided_velocity(noisy, t, told.float(), free.float(), guidance)
    velocity = student(noisy, t, text, grid, guidance)
    share = ((guidance - 1) / (USUAL - 1)).clamp_min(1)
    return {"loss": ((velocity.float() - wanted) / share[:, None, None]).square().mean()}


def guided_velocity(noisy: Tensor, t: Tensor, told: Tensor, free: Tensor, guidance: Tensor) -> Tensor:
    """told + GUIDANCE (g - 1) t (told - free), its clean picture rescaled to told's. [n, tokens, 64]; t, g: [n]."""
    over, t = (GUIDANCE * (guidance - 1) * t)[:, None, None], t[:, None, None]
    clean, plain = noisy - t * (told + over * (told - free)), noisy - t * told
    spread = plain.std((1, 2), keepdim=True) / clean.std((1, 2), keepdim=True)
    return (noisy - clean * (RESCALE * spread + 1 - RESCALE)) / t.clamp_min(1e-3)
