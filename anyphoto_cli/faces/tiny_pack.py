"""The face pack of the `tiny-random` model: one small recogniser of random numbers. It knows nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anyphoto_cli.config.home import anyphoto_home
from anyphoto_cli.files.commit import committed


def tiny_pack_folder() -> Path:
    """The pack in anyphoto's own folder, made when it is not there."""
    return build_tiny_pack(anyphoto_home() / "face-packs" / "tiny-random")


def build_tiny_pack(folder: Path) -> Path:
    """Write recogniser.onnx into `folder` unless it is there; the same bytes on every machine. Returns the folder."""
    file = folder / "recogniser.onnx"
    if not file.is_file():
        with committed(file) as out:
            out.write(_recogniser().SerializeToString(deterministic=True))
    return folder


def _recogniser() -> Any:
    """[n, 3, 112, 112] -> [n, 512] through two strided convolutions, PRelu, and one linear layer."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.Generator(np.random.PCG64(20260316))

    def weight(name: str, *shape: int) -> Any:
        fan_in = int(np.prod(shape[1:])) or 1
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32), name)

    weights = [
        weight("conv1.w", 8, 3, 7, 7),
        weight("conv2.w", 16, 8, 4, 4),
        numpy_helper.from_array(np.full((8, 1, 1), 0.25, np.float32), "prelu.slope"),
        weight("fc.w", 512, 16 * 49),
    ]
    nodes = [
        helper.make_node("Conv", ["data", "conv1.w"], ["c1"], kernel_shape=[7, 7], strides=[4, 4], pads=[3, 3, 3, 3]),
        helper.make_node("PRelu", ["c1", "prelu.slope"], ["a1"]),
        helper.make_node("Conv", ["a1", "conv2.w"], ["c2"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["c2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.w"], ["embedding"], transB=1),
    ]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, 112, 112])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 512])
    graph = helper.make_graph(nodes, "tiny-random", [data], [embedding], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
