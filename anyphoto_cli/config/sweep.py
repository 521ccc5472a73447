"""Several runs from one file: which keys vary, and over what. `anyphoto train sweep`."""

from __future__ import annotations

from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Value = float | int | bool | str | None


class SweepConfig(BaseModel):
    """config: the run that all have in common. vary: key -> values; every combination is a run of its own."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    config: str = Field(min_length=1, description="The YAML file of `anyphoto train`, beside this one or absolute.")
    output_dir: str = Field(min_length=1, description="Folder of all runs; it takes the place of each one's.")
    vary: dict[str, tuple[Value, ...]] = Field(
        min_length=1, strict=False, description="Keys with dots, and the values that each takes."
    )

    @field_validator("vary")
    @classmethod
    def _some(cls, vary: dict[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
        for key, values in vary.items():
            if not values or len({_told(value) for value in values}) < len(values):
                raise ValueError(f"{key} needs values, each once")
            if key == "output_dir":
                raise ValueError("output_dir follows from the values")
        return vary

    def runs(self) -> list[tuple[str, dict[str, Any]]]:
        """(folder name, changes) of every run; the last key varies fastest."""
        combinations = [dict(zip(self.vary, values, strict=True)) for values in product(*self.vary.values())]
        return [(run_name(changes), changes) for changes in combinations]


def run_name(changes: dict[str, Any]) -> str:
    """face_weight=0.1,lora_rank=64: the last part of each key; folders sort and read well."""
    return ",".join(f"{key.rpartition('.')[2]}={_told(value)}" for key, value in changes.items())


def _told(value: Value) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return "".join(letter if letter.isalnum() or letter in ".-+_" else "_" for letter in text)
