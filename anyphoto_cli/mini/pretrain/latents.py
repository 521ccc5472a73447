"""Drawn pictures as packed latents and captions, made once: the base looks at each of them several times."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from anyphoto_cli.files.commit import sha256_of_bytes, sha256_of_state
from anyphoto_cli.mini.picture import draw_picture
from anyphoto_cli.mini.pretrain.loop import fast_bfloat16, orphaned
from anyphoto_cli.mini.pretrain.vae import as_tensor
from anyphoto_cli.runtime.jobs import batches

CHUNK = 2048
CHUNKS = 32
MADE_OF = "made_of.sha256"
# One chunk in eight each is wider or taller, so that the base has seen more than squares.
SIZES = ((128, 128),) * 5 + ((160, 128), (128, 160), (192, 128))


def size_of(chunk: int) -> tuple[int, int]:
    """(width, height), px, of all pictures in a chunk."""
    return SIZES[chunk % len(SIZES)]


def prepare_latents(
    folder: Path, vae: Any, device: str = "cpu", chunks: int = CHUNKS, minutes: float | None = None
) -> None:  # fmt: skip
    """Write `folder`/latents; every process takes its share; what is there of the same VAE and renderer is kept.

    minutes: begin no further chunk after that long.
    """
    start = time.monotonic()
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if rank == 0:
        _claim(folder / "latents", _made_of(vae))
    if dist.is_initialized():
        dist.barrier()
    vae = vae.to(device, memory_format=torch.channels_last).eval()
    for chunk in range(rank, chunks, world):
        if orphaned() or (minutes is not None and time.monotonic() - start > minutes * 60):
            break
        if not chunk_file(folder, chunk).is_file():
            began = time.monotonic()
            _write_chunk(folder, chunk, vae, device)
            print(f"latents {chunk + 1}/{chunks}: {CHUNK / (time.monotonic() - began):.0f} pictures/s", flush=True)


def _made_of(vae: Any) -> str:
    """A digest of the VAE, whose shift and scale follow from its weights, and of what the renderer draws."""
    drawn = b"".join(draw_picture(number).pixels.tobytes() for number in range(12))
    return sha256_of_bytes(sha256_of_state(vae).encode() + drawn)


def _claim(home: Path, digest: str) -> None:
    """What lies in `home` is made of that: chunks of something else go, for a base would be trained on a mixture."""
    home.mkdir(parents=True, exist_ok=True)
    file = home / MADE_OF
    if file.is_file() and file.read_text(encoding="utf-8") == digest:
        return
    if others := list(home.glob("*.npy")):
        print(f"Latents of another VAE or renderer are removed ({len(others)} of their files)", flush=True)
    for other in others:
        other.unlink()
    file.write_text(digest, encoding="utf-8")


def latents_left(folder: Path, chunks: int = CHUNKS) -> tuple[int, int] | None:
    """(chunks made, chunks in all); None where all are there."""
    made = sum(chunk_file(folder, chunk).is_file() for chunk in range(chunks))
    return (made, chunks) if made < chunks else None


def chunk_file(folder: Path, chunk: int) -> Path:
    """[2048, tokens, 64] float16."""
    return folder / "latents" / f"{chunk:04d}.npy"


def _write_chunk(folder: Path, chunk: int, vae: Any, device: str) -> None:
    numbers, size = range(chunk * CHUNK, (chunk + 1) * CHUNK), size_of(chunk)
    latents, captions = [], []
    for part in batches(numbers, 16):
        drawn = [draw_picture(number, size=size) for number in part]
        captions += [(picture.caption, *picture.paraphrases) for picture in drawn]
        latents.append(encode(vae, np.stack([picture.pixels for picture in drawn]), device))
    file = chunk_file(folder, chunk)
    file.with_suffix(".json").write_text(json.dumps(captions))
    with file.with_suffix(".tmp").open("wb") as out:
        np.save(out, torch.cat(latents).half().numpy())
    file.with_suffix(".tmp").replace(file)


@torch.no_grad()
def encode(vae: Any, pictures: np.ndarray, device: str) -> Tensor:
    """[n, H, W, 3] 0-255 -> [n, H/16 * W/16, 64] normalised and packed as FLUX packs, float32 on the CPU."""
    with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=_fast(device)):
        # Twice as fast on a CPU as rows of planes, and few at a time stay in its caches.
        pixels = as_tensor(pictures).to(device).contiguous(memory_format=torch.channels_last)
        found = vae.encode(pixels).latent_dist.mode()
    found = (found.float() - vae.config.shift_factor) * vae.config.scaling_factor
    n, channels, height, width = found.shape
    grid: Tensor = found.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    packed: Tensor = grid.reshape(n, (height // 2) * (width // 2), channels * 4).cpu()
    return packed


_fast = lru_cache(maxsize=4)(fast_bfloat16)


@lru_cache(maxsize=4)
def chunk_of(folder: Path, chunk: int) -> tuple[Any, list[list[str]]]:
    """(memory-mapped latents, captions) of one chunk; waits, and says so, while another process is still making it.

    Raises FileNotFoundError in a process whose parent was killed: nobody looks on who could make it.
    """
    file, told = chunk_file(folder, chunk), False
    while not file.is_file():
        if orphaned():
            raise FileNotFoundError(file)
        if not told:
            print(f"waiting for {file}: --stages latents makes it", flush=True)
        told = True
        time.sleep(1)
    return np.load(file, mmap_mode="r", allow_pickle=False), json.loads(file.with_suffix(".json").read_text())
