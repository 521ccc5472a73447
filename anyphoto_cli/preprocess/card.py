"""The shards' README.md: what they hold, for people, and the types of their columns, for `datasets`."""

from __future__ import annotations

from typing import Any

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.samples import features
from anyphoto_cli.preprocess.outcome import Tally

_TEXT = """# {kept} pictures of {identities} people

Made by `anyphoto preprocess` {version}. WebDataset shards: `<key>.jpg`, `<key>.json` (caption, people: person box, face
box, five landmarks, identity, scores, location tokens) and `<key>.npz` (`embeddings`, float16, one row a person, no
pickle). Numbers are floats, unknown texts are `""`. Coordinates are px of the stored picture, the centre of its top
left pixel being (0, 0); boxes end before `x1`, `y1`.

```python
from datasets import load_dataset

shards = load_dataset("this/folder", split="train", streaming=True)
```

- `../manifest.json` has every shard's sha256; check it before use: a damaged tar is mostly read without an error.
- `identity` is `""` for people who are not in the bank, or whose face is {flags}.
- Persons: `{person_model}`; faces and embeddings: `{face_pack}`. Embeddings of two face models never mix.
- Captions: `{captioner}`.

The pictures and faces are those of the source, under its terms. Data made from MultiID-2M may be used for
non-commercial research only, must not be redistributed, and removal requests bind every holder: run again with
`--exclude`. antelopev2 is for non-commercial research; YOLO weights are AGPL-3.0.
"""


def shards_card(config: PreprocessConfig, facts: dict[str, Any], tally: Tally) -> str:
    """YAML front matter and the text above."""
    import io

    from ruamel.yaml import YAML

    listed = [{"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"},
              {"name": "jpg", "dtype": "image"}, {"name": "json", "struct": _columns(features())},
              {"name": "npz", "struct": _columns({"embeddings": {"sequence": {"sequence": "float16"}}})}]  # fmt: skip
    front = {"configs": [{"config_name": "default", "data_files": f"{config.split}-*.tar"}],
             "dataset_info": {"features": listed}}  # fmt: skip
    buffer = io.StringIO()
    YAML().dump(front, buffer)
    text = _TEXT.format(
        kept=tally.kept, identities=len(tally.identities), version=facts["anyphoto"],
        flags=" or ".join(config.drop_flags) or "flagged", person_model=config.person_model,
        face_pack=config.face_pack, captioner=config.captioner,
    )  # fmt: skip
    return f"---\n{buffer.getvalue()}---\n{text}"


def _columns(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """name -> type, in the notation of a dataset card."""
    return [{"name": name, **_type(told)} for name, told in columns.items()]


def _type(told: Any) -> dict[str, Any]:
    if isinstance(told, list):
        return {"list": _columns(told[0])}
    return dict(told)
