"""A CUDA card, or an Apple GPU, that is not there: what torch's build for CPUs lacks before a tensor may name one.

A process calls `summon` before it imports torch; then `fake_card` gives it a card.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")


def why_not() -> str:
    """Why this machine cannot have one, for people; "" where it can. A torch that is built for real ones takes no other
    beside them.
    """
    if not sys.platform.startswith("linux"):
        return "needs Linux"
    if shutil.which("g++") is None:
        return "needs g++"
    built = runpy.run_path(str(_torch() / "version.py"))
    if tuple(map(int, str(built["__version__"]).split(".")[:2])) < (2, 13):
        return "needs torch 2.13: older headers are others"
    found = [name for name in ("cuda", "hip", "xpu") if built.get(name)]
    return f"needs torch's build for CPUs, this one is for {found[0]}" if found else ""


def summon(mac: bool = False) -> None:
    """Build and load a device guard that does nothing. mac: of an Apple GPU; one of the two a process.

    Raises SystemExit with `why_not`, CalledProcessError where it cannot be built.
    """
    if reason := why_not():
        sys.exit(f"Error: a card that is not there {reason}")
    torch = _torch()
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


def _torch() -> Path:
    """Its folder; importing it would come too early."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise ImportError("torch")
    return Path(spec.origin).parent
