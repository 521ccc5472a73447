"""An ArcFace recogniser read from its ONNX file as a PyTorch module: differentiable, on any device.

For the face loss (paper 3.5, Eq. 24) and for GPUs without onnxruntime-gpu. The graph is run node by node; iresnets and
MobileFaceNets use the few operators in `_OPERATORS`, anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyphoto_cli.errors import InputError


def to_input(crops: Tensor) -> Tensor:
    """[n, H, W, 3] RGB 0-255 (uint8) -> [n, 3, H, W] in [-1, 1], what insightface recognisers take."""
    return (crops.permute(0, 3, 1, 2).float() - 127.5) / 127.5


def load_recogniser(file: Path) -> RecogniserTorch:
    """The module of a recogniser's ONNX file, frozen, float32. Raises InputError naming an operator it cannot run."""
    import onnx

    try:
        graph = onnx.load(str(file)).graph
    except Exception as error:  # protobuf raises its own kinds
        raise InputError(f"is not an ONNX file ({type(error).__name__})", file=file) from error
    unknown = sorted({node.op_type for node in graph.node} - set(_OPERATORS) - {"Constant"})
    if unknown:
        raise InputError(f"uses operators without a PyTorch twin here: {', '.join(unknown)}", file=file)
    return RecogniserTorch(graph)


class RecogniserTorch(nn.Module):
    """[n, 3, 112, 112] RGB in [-1, 1] -> [n, 512], unit length. Weights are buffers: they move, and never train."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        from onnx import helper, numpy_helper

        self._buffer_of: dict[str, str] = {}
        self._integers: dict[str, list[int]] = {}
        self._own_normalisation = _normalises_itself(graph)
        for value in graph.initializer:
            self._keep(value.name, numpy_helper.to_array(value))
        self._steps: list[tuple[str, list[str], str, dict[str, Any]]] = []
        for node in graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._keep(node.output[0], numpy_helper.to_array(attributes["value"]))
            else:
                self._steps.append((node.op_type, list(node.input), node.output[0], attributes))
        known = set(self._buffer_of) | set(self._integers)
        self._input = next(i.name for i in graph.input if i.name not in known)
        self._output = graph.output[0].name

    def _keep(self, name: str, array: np.ndarray) -> None:
        if array.dtype.kind in "iu":  # shapes and axes: python numbers, so that no device sync is needed
            self._integers[name] = [int(v) for v in array.reshape(-1)]
            return
        self._buffer_of[name] = f"w{len(self._buffer_of)}"
        self.register_buffer(self._buffer_of[name], torch.from_numpy(array.astype(np.float32)))

    def buffer_of(self, name: str) -> str | None:
        """The buffer that holds a number array of the graph; None for shapes and axes."""
        return self._buffer_of.get(name)

    def forward(self, faces: Tensor) -> Tensor:
        """faces: [n, 3, 112, 112] RGB in [-1, 1], float32."""
        if self._own_normalisation:  # old MXNet exports subtract and scale by themselves
            faces = faces * 127.5 + 127.5
        values: dict[str, Any] = {self._input: faces, "": None, **self._integers}
        values |= {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        for operator, inputs, output, attributes in self._steps:
            values[output] = _OPERATORS[operator](*[values[i] for i in inputs], **attributes)
        return F.normalize(values[self._output].float(), dim=-1)


def _normalises_itself(graph: Any) -> bool:
    """insightface's own test for MXNet recognisers, which take 0-255."""
    names = [node.name for node in graph.node[:8]]
    return any(n.startswith(("Sub", "_minus")) for n in names) and any(n.startswith(("Mul", "_mul")) for n in names)


def _conv(x: Tensor, w: Tensor, b: Tensor | None = None, **a: Any) -> Tensor:
    pads, spatial = a.get("pads", [0, 0, 0, 0]), w.dim() - 2
    if spatial != 2 or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise InputError("uses a convolution that is not 2-D with explicit padding")
    if pads[0] != pads[2] or pads[1] != pads[3]:
        x, pads = F.pad(x, (pads[1], pads[3], pads[0], pads[2])), [0, 0]
    return F.conv2d(x, w, b, a.get("strides", 1), tuple(pads[:2]), a.get("dilations", 1), a.get("group", 1))


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    if _one_a_channel(x, slope):  # a call each way, where the literal form has four and seven: a GPU waits for its host
        return F.prelu(x, slope.reshape(-1))
    return torch.clamp(x, min=0) + slope * torch.clamp(x, max=0)


def _one_a_channel(x: Tensor, slope: Tensor) -> bool:
    """Whether a slope that broadcasts against [n, c, ...] is a number for all, or one for each of c."""
    numbers = slope.numel()
    return numbers == 1 or (slope.dim() >= x.dim() - 1 and slope.shape[1 - x.dim()] == numbers == x.shape[1])


def _batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, **a: Any) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=a.get("epsilon", 1e-5))


def _gemm(x: Tensor, w: Tensor, b: Tensor | None = None, **a: Any) -> Tensor:
    x = x.T if a.get("transA") else x
    product: Tensor = a.get("alpha", 1.0) * (x @ (w.T if a.get("transB") else w))
    return product if b is None else product + a.get("beta", 1.0) * b


def _flatten(x: Tensor, axis: int = 1, **_: Any) -> Tensor:
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _cast(x: Tensor, to: int, **_: Any) -> Tensor:
    if to != _ONNX_FLOAT:
        raise InputError("casts to something else than float32")
    return x.float()


def _reshape(x: Tensor, shape: list[int], **a: Any) -> Tensor:
    return x.reshape([x.shape[i] if n == 0 and not a.get("allowzero") else n for i, n in enumerate(shape)])


_ONNX_FLOAT = 1
_OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": _conv,
    "PRelu": _prelu,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Add": lambda x, y, **_: x + y,
    "Sub": lambda x, y, **_: x - y,
    "Mul": lambda x, y, **_: x * y,
    "Relu": lambda x, **_: F.relu(x),
    "Identity": lambda x, **_: x,
    "Cast": _cast,  # weights stored as float16
    "Dropout": lambda x, *_, **__: x,
    "MatMul": lambda x, y, **_: x @ y,
    "Transpose": lambda x, perm, **_: x.permute(*perm),
    "GlobalAveragePool": lambda x, **_: x.mean((2, 3), keepdim=True),
}
