"""A trained net as an ONNX file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from anyphoto_cli.files.commit import committed

HALF, LARGE = ".half", 1024
"""How a weight stored in half is called, and from how many numbers on it is."""


def write_onnx(
    module: nn.Module, example: torch.Tensor, given: str, outputs: Sequence[str], file: Path, *,
    batch: str | None = None, facts: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """batch: name of a first dimension that may be any; None: fixed. Convolutions take their batch norms in.

    facts: metadata of the file.
    """
    import onnx

    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        # torch's newer exporter needs a package more and writes operators that our interpreter does not know.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (example,), str(Path(folder, file.name)), dynamo=False, opset_version=17,
            input_names=[given], output_names=list(outputs),
            dynamic_axes={name: {0: batch} for name in (given, *outputs)} if batch else None,
        )  # fmt: skip
        document = onnx.load(str(Path(folder, file.name)))
    onnx.helper.set_model_props(document, dict(facts or {}))
    write_halved(document, file)


def read_whole(file: Path) -> Any:
    """The document of a file that `write_halved` wrote, its weights in float32 again and without casts."""
    import onnx

    document = onnx.load(str(file))
    halves = {weight.name: weight for weight in document.graph.initializer if weight.name.endswith(HALF)}
    kept = []
    for node in document.graph.node:
        if node.op_type == "Cast" and node.input[0] in halves:
            weight = halves[node.input[0]]
            values = onnx.numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    _set_nodes(document, kept)
    return document


def write_halved(document: Any, file: Path) -> None:
    """The document with its large weights stored as float16, half the bytes; it still computes in float32.

    Each weight is cast right before the node that reads it, which onnxruntime does once, when it opens the file.
    """
    import onnx

    document = onnx.ModelProto.FromString(document.SerializeToString())
    halved: dict[str, str] = {}
    for weight in document.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and math.prod(weight.dims) >= LARGE:
            values = onnx.numpy_helper.to_array(weight).astype(np.float16)
            halved[weight.name] = weight.name + HALF
            weight.CopyFrom(onnx.numpy_helper.from_array(values, halved[weight.name]))
    nodes = []
    for node in document.graph.node:
        for name in node.input:
            if name in halved:  # not at the top: insightface reads off the first nodes how pixels are normalised
                half = halved.pop(name)
                nodes.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
        nodes.append(node)
    _set_nodes(document, [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes])
    onnx.checker.check_model(document, full_check=True)
    with committed(file) as out:
        out.write(document.SerializeToString())


def _set_nodes(document: Any, nodes: Sequence[Any]) -> None:
    """nodes: copies, for those of the document are gone with its list."""
    del document.graph.node[:]
    document.graph.node.extend(nodes)
