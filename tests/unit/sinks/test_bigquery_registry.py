"""Claims: two processes may do their steps in any order, and at most one goes on to append."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from sinks.bigquery_client import BigQueryPatience
from sinks.bigquery_ledger import Entry
from sinks.bigquery_registry import PRUNE_ABOVE, StreamRegistry
from sources.positions import Fenced
from tests.fakes.bigquery_events import abandon, partition_id
from tests.fakes.bigquery_write import FakeBigQuery


@pytest.fixture
def server() -> Iterator[FakeBigQuery]:
    fake = FakeBigQuery().start()
    yield fake
    fake.stop()


def registry(server: FakeBigQuery, ledger: Any = None) -> StreamRegistry:
    patience = BigQueryPatience(server.ended.is_set, abandon, wait_seconds_max=0.05)
    return StreamRegistry(server.table.write_client(), ledger or server.objects["ledger"], server.table, patience)


class Interrupted:
    """A ledger that lets somebody else act once, before or after one of its calls."""

    def __init__(self, inner: Any, at: int, act: Any) -> None:
        self._inner, self._at, self._act = inner, at, act
        self._calls = itertools.count()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            number = next(self._calls)
            if number == self._at:
                self._act()
            return getattr(self._inner, name)(*arguments)

        return call


def test_a_claim_finalises_all_older_streams_of_its_partitions_only(server: FakeBigQuery) -> None:
    older = registry(server).claim([partition_id(0), partition_id(1)])
    newer = registry(server).claim([partition_id(1)])
    assert server.streams[older[partition_id(1)]].finalised
    assert not server.streams[older[partition_id(0)]].finalised
    assert not server.streams[newer[partition_id(1)]].finalised


def test_claims_count_up(server: FakeBigQuery) -> None:
    for _ in range(3):
        registry(server).claim([partition_id(0)])
    assert [entry.claim for _, _, entry in server.registry] == [1, 2, 3]


@pytest.mark.parametrize("at", range(3))
def test_another_claims_between_any_two_steps(server: FakeBigQuery, at: int) -> None:
    """Whoever is interrupted by a whole claim of another: one owns the partition, the other's stream is closed or it
    has ended before its first append."""
    other: dict[str, Any] = {}

    def act() -> None:
        other.update(streams=registry(server).claim([partition_id(0)]))

    ledger = Interrupted(server.objects["ledger"], at, act)
    try:
        mine = registry(server, ledger).claim([partition_id(0)])[partition_id(0)]
    except Fenced:
        mine = None
    alive = [name for name in (mine, other["streams"][partition_id(0)]) if name and not server.streams[name].finalised]
    assert len(alive) == 1


def test_an_equal_claim_is_decided_by_the_name_of_the_stream(server: FakeBigQuery) -> None:
    """Both read the registry before either writes it."""
    ledger = server.objects["ledger"]

    def act() -> None:
        ledger.register("events", partition_id(0).topic_id, [Entry(0, 1, "zzz")])

    with pytest.raises(Fenced, match="claim 1"):
        registry(server, Interrupted(ledger, 1, act)).claim([partition_id(0)])


def test_a_registered_stream_that_expired_is_no_obstacle(server: FakeBigQuery) -> None:
    older = registry(server).claim([partition_id(0)])
    server.forget(older[partition_id(0)])
    assert registry(server).claim([partition_id(0)])


def test_the_registry_is_pruned_now_and_then(server: FakeBigQuery) -> None:
    for _ in range(PRUNE_ABOVE + 3):
        registry(server).claim([partition_id(0)])
    assert len(server.registry) <= PRUNE_ABOVE


def test_a_prune_that_fails_is_no_obstacle(server: FakeBigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = server.objects["ledger"]

    def collide(*arguments: Any) -> None:
        raise RuntimeError("Could not serialize access")

    monkeypatch.setattr(ledger, "prune", collide)
    for _ in range(PRUNE_ABOVE + 3):
        assert registry(server).claim([partition_id(0)])
