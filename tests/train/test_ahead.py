"""Encoding ahead: the next batch is in hand before this one is given, nothing is used before it is there, and nothing
changes but the order.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from anyphoto_cli.model.token_pruning import LocationTokens
from anyphoto_cli.train.ahead import encoded
from anyphoto_cli.train.frozen import Encoded

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def encoded_of(number: int) -> Encoded:
    faces = [LocationTokens(torch.zeros(2, 64), torch.zeros(2, 3), (2,), torch.zeros(1, 512))] * 2
    return Encoded(torch.full((1, 16, 2, 2), float(number)), faces, torch.zeros(1, 4, 8), torch.zeros(1, 8))


@pytest.fixture
def told(monkeypatch):
    """Every call on streams in order, with stand-ins for CUDA's."""
    calls: list = []

    class Stream:
        def __init__(self, device=None, name="side"):
            self.device, self.name = device, name

        def wait_stream(self, other):
            calls.append((self.name, "waits for all of", other.name))

        def record_event(self):
            return SimpleNamespace(after=calls[-1])

        def wait_event(self, event):
            calls.append((self.name, "waits for", event.after))

    main = Stream(name="main")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: main)

    class On:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            calls.append(("on", self.stream.name))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(torch.cuda, "stream", On)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: calls.append(("kept for", stream.name)))
    return calls


def run(device, overlap, calls, numbers=range(3, 6)):
    source = iter([f"batch {n}" for n in numbers])

    def encode(batch, number):
        calls.append(("encodes", number))
        return encoded_of(number)

    given = []
    for batch, found in encoded(source, encode, numbers, device, overlap):
        calls.append(("step", batch))
        given.append((batch, float(found.clean.mean())))
    return given, list(source)


WANTED = [("batch 3", 3.0), ("batch 4", 4.0), ("batch 5", 5.0)]


def test_in_turn_on_a_cpu_and_where_it_is_turned_off(told):
    for device, overlap in ((CPU, True), (CUDA, False)):
        told.clear()
        assert run(device, overlap, told) == (WANTED, [])
        assert told == [(kind, what) for n in (3, 4, 5) for kind, what in (("encodes", n), ("step", f"batch {n}"))]


def test_the_next_batch_is_in_hand_before_this_one_is_given(told):
    assert run(CUDA, True, told) == (WANTED, [])
    order = [call for call in told if call[0] in ("encodes", "step")]
    assert order == [
        ("encodes", 3), ("encodes", 4), ("step", "batch 3"), ("encodes", 5), ("step", "batch 4"), ("step", "batch 5"),
    ]  # fmt: skip


def test_streams_wait_for_each_other(told):
    run(CUDA, True, told)
    for n in (3, 4, 5):
        begins, step = told.index(("encodes", n)), told.index(("step", f"batch {n}"))
        # The encoders begin after what the main stream was told, on the side stream ...
        assert told[begins - 2 : begins] == [("side", "waits for all of", "main"), ("on", "side")]
        # ... the step after that very batch, and everything of it stays until the step is through.
        waits = told.index(("main", "waits for", ("encodes", n)))
        assert begins < waits < step
        assert told[waits + 1 : step] == [("kept for", "main")] * 9


def test_nothing_to_do_takes_no_batch(told):
    assert run(CUDA, True, told, range(3, 3)) == ([], [])
