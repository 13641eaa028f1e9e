"""A set of ids answers as Python's does, in far less memory."""

import random

import numpy as np
import pytest

from sources import id_set
from sources.id_set import IdSet


@pytest.mark.parametrize("seed", range(20))
def test_it_holds_what_a_set_holds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_set, "WAITING_MAX", 7)
    rng = random.Random(seed)
    it, truth = IdSet(), set[int]()
    for _ in range(30):
        ids = [rng.randrange(-20, 120) for _ in range(rng.randrange(6))]
        truth.update(ids)
        if rng.random() < 0.2:
            it.update(IdSet(ids))
        else:
            it.add(np.array(ids, np.int64))
    asked = range(-25, 125)
    assert it.holds(np.array(asked)).tolist() == [each in truth for each in asked]
    assert len(it) == len(truth)
    assert (it.lowest, it.highest) == (min(truth), max(truth))


def test_an_empty_set_holds_nothing() -> None:
    it = IdSet()
    it.update(IdSet())
    assert it.holds(np.array([1, 2])).tolist() == [False, False]
    assert (len(it), it.lowest, it.highest) == (0, None, None)


def test_a_sequence_with_gaps_is_a_few_stretches() -> None:
    ids = np.arange(1, 2_000_001)
    ids = ids[ids % 1000 != 0]
    rng = np.random.default_rng(1)
    rng.shuffle(ids)
    it = IdSet()
    for part in np.array_split(ids, 400):
        it.add(part)
    assert len(it) == 1_998_000
    assert it._starts.size == 2000


def test_the_ends_of_64_bits_are_ids_too() -> None:
    it = IdSet([-(2**63), 2**63 - 1, 2**63 - 2])
    assert len(it) == 3
