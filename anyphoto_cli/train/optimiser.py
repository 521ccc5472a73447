"""AdamW on what is trained, its learning rate, clipping, and an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.model.location_lora import lora_parameters
from anyphoto_cli.model.memory import bitsandbytes_install


def trained_parameters(transformer: Any) -> dict[str, nn.Parameter]:
    """LoRA and, where identities modulate, the projector by name, sorted: everything else is frozen."""
    found = lora_parameters(transformer)
    if transformer.method.modulation:
        found |= {f"id_projector.{name}": p for name, p in transformer.id_projector.named_parameters()}
    return dict(sorted(found.items()))


def in_forward_order(parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """By the block they belong to: before the blocks, double blocks, single blocks."""

    def place(name: str) -> tuple[int, int]:
        kind = 2 if "single_transformer_blocks." in name else 1 if "transformer_blocks." in name else 0
        return kind, int(name.split("transformer_blocks.")[1].split(".")[0]) if kind else 0

    return [parameters[name] for name in sorted(parameters, key=place)]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Of an optimiser step, a pure function of it: warm-up, then constant, or a line or a cosine to 0."""
    warm = min(1.0, (step + 1) / max(config.lr_warmup_steps, 1))
    if config.lr_scheduler in ("constant", "constant_with_warmup"):
        return config.learning_rate * warm
    left = max(config.max_train_steps - config.lr_warmup_steps, 1)
    share = min(max(step - config.lr_warmup_steps, 0) / left, 1.0)
    kept = 1 - share if config.lr_scheduler == "linear" else 0.5 * (1 + math.cos(math.pi * share))
    return config.learning_rate * warm * kept


class Optimiser:
    """AdamW, float32 state. Raises EnvironmentFault where 8-bit states are asked for and bitsandbytes is missing."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> None:
        self._config, self.names = config, list(parameters)
        self._parameters = list(parameters.values())
        # One kernel for all parameters, where there are kernels to launch; on a CPU it is no faster.
        self._fused = not config.use_8bit_adam and all(p.is_cuda for p in self._parameters)
        self._adam = _adam_class(config)(
            self._parameters, lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon, weight_decay=config.adam_weight_decay, **({"fused": True} if self._fused else {}),
        )  # fmt: skip
        self.average = [p.detach().clone() for p in self._parameters] if config.ema_decay else []

    def clip(self) -> float:
        """Clip the gradients; their norm before."""
        return float(nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm))

    def step(self, number: int) -> float:
        """One optimiser step; its learning rate. Gradients are cleared."""
        rate = learning_rate(number, self._config)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        if self._config.ema_decay:
            # A short memory at first, so that the untrained start is soon forgotten.
            decay = min(self._config.ema_decay, (number + 1) / (number + 10))
            torch._foreach_lerp_(self.average, [p.detach() for p in self._parameters], 1 - decay)
        return rate

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the parameters have their averages' values; theirs come back. Without averages: nothing."""
        live = [p.detach().clone() for p in self._parameters] if self.average else []
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(live)

    @torch.no_grad()
    def _copy(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=False):
            parameter.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """Everything to go on exactly: name/exp_avg and the like."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in zip(self.names, self._parameters, strict=True):
            for key, value in self._adam.state.get(parameter, {}).items():
                # A clone each: parameters of an 8-bit AdamW share their tables, which safetensors refuses.
                tensors[f"{name}/{key}"] = torch.as_tensor(value).detach().cpu().clone().contiguous()
        tensors |= {f"{name}/average": value.cpu() for name, value in zip(self.names, self.average, strict=False)}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The opposite of `state`. Raises InputError where it was saved by a run with other parameters or averages."""
        known = {key.partition("/")[0] for key in tensors}
        if known and known != set(self.names):
            raise InputError("holds the optimiser of another model", field="optimiser", remedy="Is the rank the same?")
        averaged = any(key.endswith("/average") for key in tensors)
        if tensors and averaged != bool(self.average):
            raise InputError("was saved with another ema_decay", field="ema_decay")
        for k, (name, parameter) in enumerate(zip(self.names, self._parameters, strict=True)):
            mine = {key.partition("/")[2]: v for key, v in tensors.items() if key.partition("/")[0] == name}
            if self.average and "average" in mine:
                self.average[k] = mine.pop("average").to(parameter.device)
            self._adam.state[parameter] = {
                key: self._as_kept(key, value, parameter.device) for key, value in mine.items()
            }

    def _as_kept(self, key: str, value: Tensor, device: torch.device) -> Any:
        """bitsandbytes counts steps in a plain number, torch in a tensor that stays on the CPU unless it is fused."""
        if value.ndim:
            return value.clone().to(device)
        if self._config.use_8bit_adam and key == "step":
            return int(value)
        return value.clone().to(device) if self._fused else value.clone()


def _adam_class(config: TrainConfig) -> Any:
    if not config.use_8bit_adam:
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        remedy = f"Run: {bitsandbytes_install()}, or set use_8bit_adam: false"
        raise EnvironmentFault("needs bitsandbytes", field="use_8bit_adam", remedy=remedy) from error
    return AdamW8bit
