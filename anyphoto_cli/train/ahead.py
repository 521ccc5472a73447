"""VAE and text encoders work on the next batch while the transformer works on this one: CUDA streams side by side.

Each of the encoders' kernels fills a large GPU badly on its own, and the transformer's do not need them: with two
streams the card runs both. Nothing changes in the numbers, whatever the order: each batch is encoded by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.frozen import Encoded

Batch = Sequence[Example]
Encode = Callable[[Batch, int], Encoded]


def encoded(
    batches: Iterator[Batch], encode: Encode, numbers: range, device: torch.device, overlap: bool = True
) -> Iterator[tuple[Batch, Encoded]]:
    """A batch and `encode(batch, number)` for each of `numbers`, in order; no batch more is taken than there are.

    overlap: on a GPU the encoding of the next batch is under way, on a stream of its own, when this one is given.
    """
    if not overlap or device.type != "cuda":
        yield from _in_turn(batches, encode, numbers)
        return
    side, waiting = torch.cuda.Stream(device), None
    for number in numbers:
        launched = _launched(next(batches), encode, number, side)
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = launched
    if waiting is not None:
        yield _arrived(*waiting)


def _in_turn(batches: Iterator[Batch], encode: Encode, numbers: range) -> Iterator[tuple[Batch, Encoded]]:
    """The literal twin."""
    for number in numbers:
        batch = next(batches)
        yield batch, encode(batch, number)


def _launched(
    batch: Batch, encode: Encode, number: int, side: torch.cuda.Stream
) -> tuple[Batch, Encoded, torch.cuda.Event]:
    """What is in hand on `side` waits for what the main stream was told before: the optimiser's step, or a validation
    that used the same encoders.
    """
    side.wait_stream(torch.cuda.current_stream(side.device))
    with torch.cuda.stream(side):
        found = encode(batch, number)
        return batch, found, side.record_event()


def _arrived(batch: Batch, found: Encoded, done: torch.cuda.Event) -> tuple[Batch, Encoded]:
    """The main stream waits for it on the device; the host does not."""
    main = torch.cuda.current_stream(found.clean.device)
    main.wait_event(done)
    found.used_on(main)
    return batch, found
