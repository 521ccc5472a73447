"""What a published adapter says about itself: card, notice, licence. Nothing of the machine it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyphoto_cli.errors import InputError
from anyphoto_cli.model.adapter import AdapterCard
from anyphoto_cli.model.bases import FLUX_DEV, FLUX_SCHNELL, resolve_base
from anyphoto_cli.registry import find, names

FLUX_NOTICE = """\
This FLUX Model is licensed by Black Forest Labs, Inc. under the FLUX.1 [dev] Non-Commercial License. Copyright Black
Forest Labs, Inc.

IN NO EVENT SHALL BLACK FOREST LABS, INC. BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH USE OF THIS MODEL.

This adapter is a Derivative of FLUX.1 [dev]: low-rank changes to its attention and feed-forward layers, and a projector
that it did not have.
"""
_CARD = """\
# {name}

AnyPhoto weights on `{base}`: several people, from one reference face each, at chosen places in a generated picture.

{gallery}```bash
pip install anyphoto
anyphoto generate layout.json --model {base} --adapter {name}
```

```python
{opening}from anyphoto_cli.model.pipeline import AnyPhotoPipeline

pipeline = AnyPhotoPipeline.from_pretrained({opened})
pipeline.load_anyphoto("{name}")
```

`FluxPipeline.load_lora_weights` opens the LoRA file too, but runs it on every token and knows no identity: the
pictures are wrong.

## Training

{trained}

## Limits

It knows people by the face model `{pack}` (sha256 `{pack_hash}`); embeddings of another mean nothing to it. This is not
the paper's checkpoint: none was published.

## Terms

Base: {terms}

Faces are personal: render people who agreed to it. Say that pictures are generated where the law asks for it.
"""
_TAGS = ["anyphoto", "diffusers", "lora", "flux", "flux-diffusers", "diffusers-training", "template:sd-lora"]


@dataclass(frozen=True)
class Story:
    """Of a run, as far as it is known. config: its keys without paths. samples: how many it was trained on, 0 where
    nobody knows any more. scores: the last value of each measure. pictures: names in samples/, with the prompt of each.
    resolved: as `train.resolved` has it.
    """

    config: Mapping[str, Any]
    samples: int
    scores: Mapping[str, float]
    pictures: Sequence[tuple[str, str]]
    resolved: Mapping[str, Any] = field(default_factory=dict)


def base_name(card: AdapterCard) -> str:
    """What to give as --model: a hub id, a known name; of a folder of somebody's machine its last part alone."""
    for name in names("bases"):
        if find("bases", name).source == card.base_model and card.base_model.count("/") != 1:
            return name
    return Path(card.base_model).name if Path(card.base_model).is_absolute() else card.base_model


def terms(card: AdapterCard) -> dict[str, str]:
    """The licence part of the front matter. An adapter is a derivative of its base."""
    if card.base_model == FLUX_DEV.source:
        return {
            "license": "other",
            "license_name": "flux-1-dev-non-commercial-license",
            "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
        }
    base = base_name(card)
    if base == FLUX_SCHNELL.source or base in names("bases"):
        return {"license": "apache-2.0"}
    link = {"license_link": f"https://huggingface.co/{base}"} if base.count("/") == 1 else {}
    return {"license": "other", "license_name": "see-base-model", **link}


def notice(card: AdapterCard) -> str:
    """NOTICE: whose work the weights rest on."""
    base = FLUX_NOTICE if card.base_model == FLUX_DEV.source else f"Trained on {base_name(card)}.\n"
    faces = (
        f"\nIt understands the embeddings of the face model {card.face_pack.name}\n(sha256 {card.face_pack.sha256})\n"
        "and of no other. insightface's packs are for non-commercial research; ask people before you use their faces.\n"
    )
    return base + faces


def front_matter(card: AdapterCard, story: Story) -> Any:
    """huggingface_hub's ModelCardData."""
    from huggingface_hub import ModelCardData

    hub_id = base_name(card).count("/") == 1
    widget = [{"text": prompt, "output": {"url": f"samples/{name}"}} for name, prompt in story.pictures]
    more: dict[str, Any] = {"base_model": card.base_model, "base_model_relation": "adapter"} if hub_id else {}
    more |= {"widget": widget} if widget else {}
    known: dict[str, Any] = {**terms(card), **more}
    return ModelCardData(library_name="diffusers", pipeline_tag="text-to-image", tags=list(_TAGS), **known)


def card_text(card: AdapterCard, story: Story, name: str) -> str:
    """README.md: front matter, how to render, what it was trained on, limits and terms."""
    from huggingface_hub import ModelCard

    opening, opened = _opened(base_name(card))
    body = _CARD.format(
        name=name, base=base_name(card), opening=opening, opened=opened,
        gallery="<Gallery />\n\n" if story.pictures else "",
        trained="\n".join(_trained(card, story)), pack=card.face_pack.name, pack_hash=card.face_pack.sha256[:16],
        terms=_spoken_terms(card),
    )  # fmt: skip
    return str(ModelCard(f"---\n{front_matter(card, story).to_yaml()}\n---\n\n{body}"))


def _opened(base: str) -> tuple[str, str]:
    """(imports, argument of from_pretrained): bases that come with anyphoto have a name here and nowhere else."""
    if base in names("bases") and find("bases", base).source.count("/") != 1:
        return (
            "from anyphoto_cli.model.bases import base_folder, resolve_base\n",
            f'base_folder(resolve_base("{base}"))',
        )
    return "", f'"{base}"'


def _trained(card: AdapterCard, story: Story) -> list[str]:
    flat = _flat(story.config)
    known = [("training samples", story.samples)] if story.samples else []
    told = [*known, ("steps", card.train_step), ("rank", card.method.lora_rank), *(
        (label, flat[key]) for key, label in (
            ("train_batch_size", "samples a device and step"), ("learning_rate", "learning rate"),
            ("data.resolution", "px"), ("loss.face_weight", "lambda"), ("data.replacement", "replacement"),
        ) if key in flat
    ), *_started(story.resolved)]  # fmt: skip
    rows = [f"| {label} | {value} |" for label, value in told]
    scores = [f"| {key.replace('_', ' ')} | {value:.4f} |" for key, value in story.scores.items()]
    more = [] if not story.config else ["", "Every key: `training.yaml`; every choice of the method: `anyphoto.json`."]
    return ["| | |", "|---|---|", *rows, *scores, *more, *_part_of_the_way(card)]


def _started(resolved: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """On how many devices, with how many samples a step, on which data: its name and hash, not where it lies."""
    labels = (("devices", "devices"), ("samples_per_step", "samples a step of all devices"))
    data = [f"{one['name']} (manifest {one['manifest_sha256'][:12]})" for one in resolved.get("shards", ())]
    known = [(label, resolved[key]) for key, label in labels if key in resolved]
    return known + ([("data", ", ".join(data))] if data else [])


def _part_of_the_way(card: AdapterCard) -> list[str]:
    if card.start is None:
        return []
    told = f"The weights lie {card.start.share:g} of the way from those of another adapter ({card.start.sha256[:12]})"
    return ["", f"{told} to this run's."]


def _spoken_terms(card: AdapterCard) -> str:
    try:
        return resolve_base(base_name(card)).licence
    except InputError:  # a folder of somebody's machine
        return f"as {base_name(card)}"


def _flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return found
