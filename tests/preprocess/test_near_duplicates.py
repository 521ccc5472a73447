"""Near-duplicates: the banded search against its literal twin."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anyphoto_cli.preprocess.near_duplicates import first_of_each


def literal(hashes, distance):
    """Every photo against every one kept before it."""
    kept, found = [], []
    for number, value in enumerate(hashes):
        near = [k for k in kept if (int(value) ^ int(hashes[k])).bit_count() <= distance]
        found.append(near[0] if near else -1)
        if not near:
            kept.append(number)
    return found


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 63), max_size=5)), max_size=40),
    st.integers(0, 6),
)
def test_equals_its_literal_twin(bases, changes, distance):
    hashes = []
    for which, bits in changes:
        value = bases[which % len(bases)]
        for bit in bits:
            value ^= 1 << bit
        hashes.append(value)
    assert first_of_each(np.array(hashes, np.uint64), distance).tolist() == literal(hashes, distance)


def test_nothing_is_dropped_when_asked_so():
    assert first_of_each(np.zeros(5, np.uint64), -1).tolist() == [-1] * 5
    assert first_of_each(np.zeros(0, np.uint64), 4).tolist() == []


def test_a_hundred_thousand_equal_pictures_are_cheap():
    found = first_of_each(np.full(100_000, 7, np.uint64), 4)
    assert found[0] == -1 and (found[1:] == 0).all()


def test_hashes_that_share_a_part_of_their_bits_cost_no_more_memory():
    """All agree in 12 bits, as drawings on white do, so that one band tells nothing; 300 repeat another in 1 to 5 bits."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**52, 6000, np.uint64) << np.uint64(12)
    for place in range(5700, 6000):
        bits = rng.choice(64, rng.integers(1, 6), replace=False).astype(np.uint64)
        hashes[place] = hashes[place - 5700] ^ np.bitwise_xor.reduce(np.uint64(1) << bits)
    plain = [np.bitwise_count(hashes[:k] ^ hashes[k]) <= 4 for k in range(len(hashes))]
    tracemalloc.start()
    found = first_of_each(hashes, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 200 < (found >= 0).sum() < 300 and peak < 64 * 2**20, peak
    assert found.tolist() == [int(near.argmax()) if near.any() else -1 for near in plain]
