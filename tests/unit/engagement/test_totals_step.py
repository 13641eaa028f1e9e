"""Which state counts at a start: the snapshot where it fits the first batch and Redis, else what Redis holds."""

from typing import Any

import pytest

from engagement.totals import PartialTotals, partial_totals
from engagement.totals_step import TotalsStep
from sources.positions import PartitionId, PositionGap, Span
from tests.unit.engagement.totals_batches import CONTENTS, IDS, PARTITION, Record, Store, batch

OPTIONS = {"window_minutes": 10, "lateness_seconds": 600}


def partial(offset_from: int, events: int = 1, partition: PartitionId = PARTITION) -> PartialTotals:
    return partial_totals(batch([Record(0, 0)] * events, offset_from, partition), **OPTIONS)


def step(snapshot: bytes | None, stored: Store) -> TotalsStep:
    def load(span: Span) -> Any:
        assert span.partition.topic == PARTITION.topic
        return stored

    return TotalsStep(snapshot, load, gap=PositionGap, **OPTIONS)


def after(events: int, **changes: Any) -> tuple[bytes, Store]:
    """The snapshot and the store once this many events are counted."""
    store, counting = Store(), step(None, Store())
    for update in counting.on_batch([partial(0, events)]):
        store.take(update)
    return counting.snapshot(), store


def counted(step: TotalsStep, *partials: PartialTotals) -> tuple[int, int, int]:
    """offset_from and offset_next of the one update, and the events of the window after it."""
    (update,) = step.on_batch(list(partials))
    (events,) = {period.events for period in update.periods}
    return update.span.offset_from, update.span.offset_next, events


def test_a_snapshot_that_ends_where_batches_begin_is_kept() -> None:
    snapshot, _ = after(5)
    _, further = after(8)
    assert counted(step(snapshot, further), partial(5)) == (5, 6, 6)


def test_a_snapshot_ahead_of_redis_is_replaced_by_what_redis_holds() -> None:
    snapshot, _ = after(8)
    _, behind = after(5)
    assert counted(step(snapshot, behind), partial(5)) == (5, 6, 6)


def test_a_start_beyond_what_redis_holds_is_a_gap_even_where_the_snapshot_fits() -> None:
    snapshot, _ = after(8)
    _, behind = after(5)
    with pytest.raises(PositionGap, match="need offset 5 next"):
        step(snapshot, behind).on_batch([partial(8)])


def test_a_snapshot_that_the_start_has_passed_is_replaced() -> None:
    snapshot, _ = after(3)
    _, stored = after(5)
    assert counted(step(snapshot, stored), partial(5)) == (5, 6, 6)


def test_batches_below_what_redis_holds_are_passed_over_but_their_contents_are_shown() -> None:
    snapshot, _ = after(4)
    _, stored = after(5)
    counting = step(snapshot, stored)
    assert counting.on_batch([partial(0, 2), partial(2, 1)]) == []
    below = partial(3, 2)
    below.contents = CONTENTS.stored([1])
    (update,) = counting.on_batch([below])
    assert (update.span.offset_from, update.span.offset_next, update.periods) == (5, 5, [])
    assert [content_id for content_id, _ in update.contents] == [IDS[0]]
    assert counted(counting, partial(4, 1), partial(5, 2)) == (5, 7, 7)


def test_an_empty_redis_begins_anew_whatever_the_snapshot_says() -> None:
    snapshot, _ = after(5)
    assert counted(step(snapshot, Store()), partial(5)) == (5, 6, 1)


def test_a_snapshot_of_a_recreated_topic_is_replaced() -> None:
    snapshot, _ = after(5)
    recreated = PartitionId(PARTITION.topic, "another", PARTITION.partition)
    assert counted(step(snapshot, Store()), partial(0, 1, recreated)) == (0, 1, 1)


@pytest.mark.parametrize("wrong", [partial(6), partial(4, 2)], ids=["records missing", "records counted already"])
def test_a_batch_that_does_not_continue_stops_the_flow(wrong: PartialTotals) -> None:
    snapshot, stored = after(5)
    counting = step(snapshot, stored)
    counting.on_batch([partial(5, 0)])
    with pytest.raises(PositionGap, match="need offset 5 next"):
        counting.on_batch([wrong])


def test_a_snapshot_before_the_first_batch_is_the_one_resumed_from() -> None:
    snapshot, stored = after(5)
    assert step(snapshot, stored).snapshot() == snapshot
    assert step(None, stored).snapshot() == b""
    assert counted(step(b"", stored), partial(5)) == (5, 6, 6)
