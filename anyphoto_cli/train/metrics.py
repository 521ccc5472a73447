"""What a run says about itself: one line every `logging_steps`, over all ranks and all steps since the last one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.train.distributed import Ranks
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.flops import memory_gb, peak_flops, step_flops
from anyphoto_cli.train.objective import Terms
from anyphoto_cli.train.replacement import replacement_probability
from anyphoto_cli.train.sections import Sections

SECONDS = "seconds"
"""Since the last line: of the run, not of each rank."""


class Meter:
    """Sums since the last line, and the clock. transformer, device: to count operations by, and memory. before: what
    `since_line` gave at the checkpoint that the run goes on from.
    """

    def __init__(
        self, config: TrainConfig, ranks: Ranks, transformer: Any, device: torch.device,
        before: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self._config, self._ranks, self._transformer, self._device = config, ranks, transformer, device
        sums = dict(before or {})
        self._seconds = sums.pop(SECONDS, 0.0)
        # Of all ranks together: one of them has what was, the others nothing of the same.
        self._sums: dict[str, float] = sums if ranks.first else dict.fromkeys(sums, 0.0)
        self._unread: list[tuple[str, Tensor]] = []
        self._began = time.monotonic()
        self.sections = Sections(device)

    def add(self, terms: Terms, examples: Sequence[Example]) -> None:
        """One micro-step of this rank."""
        noise = (self._config.data.resolution // 16) ** 2
        faces = [example.masks.reshape(len(example.masks), -1).sum(1).tolist() for example in examples]
        text = self._config.method.t5_length
        told: dict[str, Any] = {
            "micro": 1.0, "samples": float(len(examples)), "flow": terms.flow, "face": terms.face,
            "asked": float(terms.with_faces), "valid": float(terms.valid), "shown": float(terms.shown),
            "cosines": terms.cosines, "time": terms.time,
            "flops": sum(step_flops(self._transformer, noise, text, counts) for counts in faces),
        }  # fmt: skip
        for key, value in told.items():
            if isinstance(value, Tensor):
                self._unread.append((key, value))  # on the device until a line is asked for
            else:
                self._sums[key] = self._sums.get(key, 0.0) + value

    def since_line(self) -> dict[str, float]:
        """Sums over all ranks, which ask together, and `SECONDS`; they go on. Empty where nothing was done."""
        for key, value in self._unread:  # summed in float64, which Apple's GPUs do not have
            self._sums[key] = self._sums.get(key, 0.0) + float(value)
        self._unread = []
        for name, taken in self.sections.take().items():
            self._sums[f"s_{name}"] = self._sums.get(f"s_{name}", 0.0) + taken
        if "micro" not in self._sums:
            return {}
        keys = sorted(self._sums)
        total = dict(zip(keys, self._ranks.sum([self._sums[key] for key in keys]), strict=True))
        return {**total, SECONDS: self._seconds + time.monotonic() - self._began}

    def line(self, step: int, norm: float, rate: float) -> dict[str, float]:
        """Of all ranks; the sums begin anew. step: done so far. `loss`: mean of what was minimised. `face`: mean of the
        micro-steps that asked for it, `faces`: those that counted there, of `faces_shown`. `data_wait`: share of the
        time. `mfu` on known GPUs. `s_<section>`: seconds of an optimiser step, in the mean of all ranks.
        """
        total = self.since_line()
        seconds = max(total.pop(SECONDS), 1e-9)
        self._sums, self._seconds, self._began = {}, 0.0, time.monotonic()
        asked, valid, data = max(total["asked"], 1.0), total["valid"], self._config.data
        flow, face = total["flow"] / total["micro"], total["face"] / asked
        loss = (total["flow"] + self._config.loss.face_weight * total["face"]) / total["micro"]
        p = replacement_probability(step - 1, self._config.max_train_steps, data.replacement, data.replacement_max)
        told = {
            "step": step, "loss": loss, "flow": flow, "face": face,
            "faces": valid, "faces_shown": total["shown"], "cosine": total["cosines"] / valid if valid else 0.0,
            "t": total["time"] / total["micro"], "norm": norm, "lr": rate, "p": p,
            "samples_per_s": total["samples"] / seconds,
            "data_wait": total["s_data"] / self._ranks.world / seconds, "memory_gb": memory_gb(self._device),
        }  # fmt: skip
        steps = total["micro"] / self._config.gradient_accumulation_steps  # of all ranks together
        told |= {key: value / steps for key, value in total.items() if key.startswith("s_")}
        if peak := peak_flops(self._device):
            told["mfu"] = total["flops"] / seconds / (peak * self._ranks.world)
        return told


def spoken(line: Mapping[str, float]) -> str:
    """A line of metrics for people beside the bar."""
    counted, shown = (f"{line[key]:.0f}" for key in ("faces", "faces_shown"))
    of = counted if counted == shown else f"{counted} of {shown}"
    faces = f", id {line['face']:.3f} of {of} faces" if line["faces_shown"] else ""
    parts = [
        f"loss {line['loss']:.4f} (flow {line['flow']:.4f}{faces})", f"lr {line['lr']:.1e}", f"p {line['p']:.2f}",
        f"norm {line['norm']:.2f}", f"{line['samples_per_s']:.2g} samples/s", f"{line['memory_gb']:.1f} GB",
    ]  # fmt: skip
    if math.isfinite(line.get("mfu", math.nan)):
        parts.append(f"MFU {line['mfu']:.0%}")
    return ", ".join(parts)
