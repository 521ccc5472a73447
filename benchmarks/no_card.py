"""A CUDA card, or an Apple GPU, that is not there: what torch's build for CPUs lacks before a tensor may name one.

A process calls `summon` before it imports torch; then `fake_card` gives it a card.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")


def summon(mac: bool = False) -> None:
    """Build and load a device guard that does nothing. mac: of an Apple GPU; one of the two a process.

    Raises CalledProcessError, or FileNotFoundError without g++.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise ImportError("torch")
    torch = Path(spec.origin).parent
    told = str(mac) + SOURCE.read_text() + str(torch) + (torch / "version.py").read_text()
    built = Path(tempfile.gettempdir()) / f"anyphoto-no-card-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if not built.exists():
        fresh = built.with_suffix(f".{os.getpid()}")
        command = [
            "g++", "-std=c++20", "-w", "-shared", "-fPIC", *(["-DMAC"] if mac else []), f"-I{torch}/include",
            f"-L{torch}/lib", str(SOURCE), "-o", str(fresh), "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch}/lib",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        fresh.replace(built)
    ctypes.CDLL(str(built))
