"""The text encoders learn to read before the base learns to draw, as FLUX's were trained before FLUX was.

Learning what words mean through the pixels they lead to is slow: a base that begins with encoders that never read
treats all prompts alike for its first hundred thousand samples. Captions and what they say cost nothing to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyphoto_cli.mini.captions import caption
from anyphoto_cli.mini.identity import BEARDS, FRAMES, GLASSES, HAIR_COLOURS, HAIRSTYLES, Identity, identity
from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.picture import TRAINING_IDENTITIES
from anyphoto_cli.mini.pose import CLOTHES, GARMENTS, Pose, draw_pose
from anyphoto_cli.mini.pretrain.loop import Schedule, fit, load_trained
from anyphoto_cli.mini.pretrain.text import CLIP_LENGTH, LENGTH, build_clip, build_t5, with_filler
from anyphoto_cli.mini.types import MAX_PEOPLE, SCENES, STYLES

SCHEDULE = Schedule(steps=500, batch=64, lr=2e-3, warmup=100, decay=0.6, betas=(0.9, 0.98), ema=0.99)
NAME = "text"
_WHOLE = {"scene": len(SCENES), "style": len(STYLES), "people": MAX_PEOPLE, "women": MAX_PEOPLE + 1}
"""What is asked of the whole caption, and how many answers there are."""
_EACH: dict[str, tuple[Any, ...]] = {
    "woman": (False, True), "hairstyle": tuple(HAIRSTYLES), "hair_name": tuple(HAIR_COLOURS), "beard": tuple(BEARDS),
    "glasses": tuple(GLASSES), "frame_name": tuple(FRAMES), "garment": GARMENTS, "cloth_name": tuple(CLOTHES),
}  # fmt: skip
"""What is asked of each person, from left to right."""
_IGNORED = -100


class Reader(nn.Module):
    """Both encoders, and questions to them that are thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.clip_tokenizer, self.clip = build_clip()
        self.t5_tokenizer, self.t5 = build_t5()
        wide, narrow = self.t5.config.d_model, self.clip.config.hidden_size
        self.of_pooled = nn.ModuleDict({name: nn.Linear(narrow, answers) for name, answers in _WHOLE.items()})
        self.of_states = nn.ModuleDict({name: nn.Linear(wide, answers) for name, answers in _WHOLE.items()})
        self.questions = nn.Parameter(torch.randn(1 + MAX_PEOPLE, wide) * 0.5)
        self.look = nn.MultiheadAttention(wide, 4, batch_first=True)
        self.of_person = nn.ModuleDict({name: nn.Linear(wide, len(answers)) for name, answers in _EACH.items()})

    def forward(self, captions: list[str], length: int) -> dict[str, Tensor]:
        """Answers: "pooled/scene" and the like [n, answers], "person/woman" and the like [n, MAX_PEOPLE, answers]."""
        device = self.questions.device
        ids = self.t5_tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        short = self.clip_tokenizer(
            captions, padding=True, max_length=CLIP_LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        pooled, states = self.clip(short.to(device)).pooler_output, self.t5(ids.to(device))[0]
        seen = self.look(self.questions.expand(len(captions), -1, -1), states, states, need_weights=False)[0]
        answers = {f"pooled/{name}": head(pooled) for name, head in self.of_pooled.items()}
        answers |= {f"states/{name}": head(seen[:, 0]) for name, head in self.of_states.items()}
        return answers | {f"person/{name}": head(seen[:, 1:]) for name, head in self.of_person.items()}


def train_reading(folder: Path, minutes: float | None = None, device: str = "cpu") -> None:
    """Train or go on training; `folder`/text.pt holds the state."""
    torch.manual_seed(5)
    fit(NAME, Reader(), lambda model, numbers, step: reading_loss(model, numbers, step, device), SCHEDULE, folder,
        device=device, minutes=minutes)  # fmt: skip


def trained_encoders(folder: Path) -> tuple[nn.Module, nn.Module]:
    """(CLIP, T5) of a finished or interrupted run."""
    reader: Any = load_trained(folder, NAME, Reader())
    return reader.clip, reader.t5


def reading_loss(model: nn.Module, numbers: range, step: int, device: str) -> dict[str, Tensor]:
    """Mean cross-entropy of all answers; most captions do not tell everything, so it ends well above 0."""
    said, truths = zip(*(captioned(number) for number in numbers), strict=True)
    answers = model(list(said), LENGTH if step % 4 == 0 else LENGTH * 2 // 3)
    terms: dict[str, Tensor] = {}
    for name, logits in answers.items():
        wanted = torch.tensor([truth[name.partition("/")[2]] for truth in truths], device=device)
        terms[name] = F.cross_entropy(logits.float().flatten(0, -2), wanted.flatten(), ignore_index=_IGNORED)
    scene, people = answers["pooled/scene"].argmax(1).tolist(), answers["pooled/people"].argmax(1).tolist()
    return {
        "loss": torch.stack(list(terms.values())).mean(),
        "scene": torch.tensor([got == truth["scene"] for got, truth in zip(scene, truths, strict=True)]).float().mean(),
        "people": torch.tensor([got == t["people"] for got, t in zip(people, truths, strict=True)]).float().mean(),
    }


def captioned(number: int) -> tuple[str, dict[str, Any]]:
    """(caption, the number of the right answer to every question)."""
    chance = Chance("reading", number)
    count = 1 + chance.below(MAX_PEOPLE)
    people = [(identity(chance.below(TRAINING_IDENTITIES)), draw_pose(chance, 1.0)) for _ in range(count)]
    scene, style = chance.pick(SCENES), chance.pick(STYLES)
    said = with_filler(caption(people, scene, style, chance), chance)
    truth: dict[str, Any] = {
        "scene": SCENES.index(scene), "style": STYLES.index(style), "people": count - 1,
        "women": sum(who.woman for who, _ in people),
    }  # fmt: skip
    return said, truth | {name: _answers(name, people) for name in _EACH}


def _answers(name: str, people: Sequence[tuple[Identity, Pose]]) -> list[int]:
    found = [getattr(who if hasattr(who, name) else pose, name) for who, pose in people]
    return [_EACH[name].index(value) for value in found] + [_IGNORED] * (MAX_PEOPLE - len(people))
