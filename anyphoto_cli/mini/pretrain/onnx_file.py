"""A trained net as an ONNX file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from anyphoto_cli.files.commit import committed


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
    onnx.checker.check_model(document, full_check=True)
    with committed(file) as out:
        out.write(document.SerializeToString())
