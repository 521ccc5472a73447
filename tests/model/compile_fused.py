"""Compiles the fused kernels for cards that are not there, and prints how many bytes a load takes at most.

Run by test_fused.py in a process of its own: Triton either interprets or compiles.
"""

import inspect
import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from anyphoto_cli.model import fused_kernels

CONSTANTS = {"BLOCK": 4096, "ADD": True, "HEADS": fused_kernels.HEADS, "WIDE": 128}
NAMES = ("_modulated_norm", "_modulated_norm_gradient", "_gated", "_normed_rotated", "_normed_rotated_gradient",
         "_gelu_beside", "_gelu_gradient")  # fmt: skip


def compiled(name: str, capability: int) -> str:
    """PTX as the launchers ask for it at FLUX.1's width, in bfloat16; ptxas is run, too."""
    kernel = getattr(fused_kernels, name)
    types, dense = {}, {}
    for place, key in enumerate(inspect.signature(kernel.fn).parameters):
        types[key] = (
            "constexpr" if key in CONSTANTS else "fp32" if key == "eps"
            else "i32" if key in ("dim", "shared", "heads", "narrow", "wide") or key.endswith("stride")
            else {"numbers": "*i32", "cosines": "*fp32", "sines": "*fp32"}.get(key, "*bf16")
        )  # fmt: skip
        if types[key] != "constexpr" and key not in ("eps", "shared", "heads"):
            dense[(place,)] = [["tt.divisibility", 16]]
    constants = {key: value for key, value in CONSTANTS.items() if key in types}
    if "gelu" in name:
        constants["BLOCK"] = fused_kernels.COLUMNS
    warps = 8 if constants.get("BLOCK") == 4096 else 4
    source = ASTSource(kernel, types, constants, dense)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    assert made.asm["cubin"]
    return made.asm["ptx"]


if __name__ == "__main__":
    found = {}
    for capability in map(int, sys.argv[1:]):
        for name in NAMES:
            loads = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.b(\d+)", compiled(name, capability))
            found[f"{name}, {capability}"] = max(int(many or 1) * int(bits) // 8 for many, bits in loads)
    print(json.dumps(found))
