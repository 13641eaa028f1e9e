"""The totals of a partition equal those counted event by event, however its events are cut, replayed or reloaded."""

import itertools
import pickle
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engagement import totals_period, totals_state
from engagement.recent import RECENT_MAX, decoded
from engagement.totals import PartialTotals, partial_totals
from engagement.totals_additions import CROWDED
from engagement.totals_state import COMPACT_FROM, PartitionTotals, stored_periods
from sinks import redis_layout
from tests.unit.engagement.totals_batches import (
    IDS,
    NOON_MS,
    PARTITION,
    Record,
    Store,
    as_read,
    batch,
    count,
    user_number,
)

OPTIONS = {"window_minutes": 10, "lateness_seconds": 600}
SECOND, MINUTE = 1000, 60_000


@st.composite
def streams(draw: st.DrawFn) -> list[Record]:
    """A partition's records: Kafka timestamps rise, event times trail by up to 50 minutes or lead by up to 5."""
    records, kafka_ms = [], 0
    for _ in range(draw(st.integers(1, 40))):
        kafka_ms += draw(st.sampled_from([0, 1, SECOND, MINUTE, 11 * MINUTE]))
        behind = draw(st.sampled_from([-5 * MINUTE, 0, 1, MINUTE, 10 * MINUTE, 15 * MINUTE, 20 * MINUTE, 21 * MINUTE]))
        records.append(
            Record(
                event_ms=kafka_ms - behind - draw(st.sampled_from([0, 1, 59_999])),
                kafka_ms=kafka_ms,
                content=draw(st.sampled_from([*IDS, "unknown", None])),
                type=draw(st.sampled_from(["play", "pause", "finish", "click"])),
                duration_ms=draw(st.one_of(st.none(), st.integers(0, 2_000_000), st.just(35))),
                user=draw(st.sampled_from([None, "ann", "bob", "cy"])),
                target=draw(st.sampled_from([None] * 9 + ["partner"])),
            )
        )
    return records


def cut(records: Sequence[Record], at: Sequence[int]) -> list[PartialTotals]:
    """The records in batches that begin at these offsets, each summed up."""
    edges = sorted({0, len(records), *(each for each in at if each <= len(records))})
    return [
        pickle.loads(pickle.dumps(partial_totals(batch(records[start:end], start), **OPTIONS)))
        for start, end in itertools.pairwise(edges)
    ]


def fresh() -> PartitionTotals:
    return PartitionTotals(PARTITION, 0, **OPTIONS)


def straight(records: Sequence[Record]) -> Store:
    store = Store()
    store.take(fresh().add([partial_totals(batch(records), **OPTIONS)]))
    return store


def readable(store: Store) -> Store:
    """Without windows that ended more than two hours before the newest record: what remains there depends on the
    cuts."""

    def kept(kind: str, start_s: int) -> bool:
        return (start_s // 600 * 600 + 600) * 1000 >= store.newest_ms - 7_200_000

    store.rows = {key: row for key, row in store.rows.items() if kept(key[0], key[1])}
    store.buckets = {key: counts for key, counts in store.buckets.items() if kept(*key)}
    store.users = {key: users for key, users in store.users.items() if kept(key[0], key[1])}
    store.everybody = {key: users for key, users in store.everybody.items() if kept(*key)}
    since_us = (store.newest_ms - 3_600_000) * 1000
    store.recent = {
        content: fresh
        for content, events in store.recent.items()
        if (fresh := {place: event for place, event in events.items() if place[0] > since_us})
    }
    store.listed = {key: score for key, score in store.listed.items() if kept(key[0], key[1])}
    return store


@settings(max_examples=300, deadline=None)
@given(streams(), st.lists(st.integers(1, 40)), st.integers(1, 4))
def test_totals_of_any_batching_equal_those_counted_one_by_one(
    records: list[Record], at: list[int], together: int
) -> None:
    state, store, partials = fresh(), Store(), cut(records, at)
    for start in range(0, len(partials), together):
        store.take(state.add(partials[start : start + together]))
    counted = count(records)
    whole = readable(Store(newest_ms=store.newest_ms, rows=counted.rows))
    stored = readable(Store(newest_ms=store.newest_ms, rows=counted.stored, users=counted.users))
    readable(store)
    assert as_read(store.rows) == whole.rows
    assert store.rows == stored.rows
    assert store.users == stored.users
    for kind, start_s, _ in store.users:
        of_contents = [users for key, users in store.users.items() if key[:2] == (kind, start_s)]
        assert store.everybody[kind, start_s] == set().union(*of_contents)
    assert store.counters["late"] == sum(counted.late.values())
    assert store.counters["events"] == counted.events
    for (kind, start_s), (events, late) in store.buckets.items():
        assert events == sum(row[0] for key, row in stored.rows.items() if key[:2] == (kind, start_s))
        assert late == (counted.late.get(start_s, 0) if kind == "window" else 0)
    assert store == readable(straight(records))


@settings(max_examples=150, deadline=None)
@given(streams(), st.lists(st.integers(1, 40)), st.data())
def test_a_snapshot_or_a_reload_anywhere_changes_no_number(
    records: list[Record], at: list[int], data: st.DataObject
) -> None:
    partials = cut(records, at)
    kill = data.draw(st.integers(0, len(partials)))
    state, store, updates, snapshots = fresh(), Store(), [], [fresh().encode()]
    for partial in partials[:kill]:
        updates.append(state.add([partial]))
        store.take(updates[-1])
        snapshots.append(state.encode())
    state = fresh()
    state.load(store)
    # An older snapshot counts again, and its updates, taken twice, change nothing either.
    behind = data.draw(st.integers(0, kill))
    restored = PartitionTotals.decode(snapshots[behind], PARTITION, **OPTIONS)
    assert restored is not None
    replayed = Store()
    for update in updates[:behind]:
        replayed.take(update)
    for partial in partials[behind:]:
        replayed.take(restored.add([partial]))
    for partial in partials[kill:]:
        store.take(state.add([partial]))
    assert readable(store) == readable(straight(records))
    assert readable(replayed) == readable(straight(records))


def test_an_event_counts_until_the_watermark_reaches_the_end_of_its_bucket_plus_lateness() -> None:
    minute_closes = MINUTE + 600 * SECOND
    for before, counts in ((minute_closes - 1, True), (minute_closes, False)):
        for cuts in ([], [1]):
            late = Record(event_ms=0, kafka_ms=before)
            store = totals_of([Record(before, before, IDS[1]), late], cuts)
            assert (("minute", NOON_MS // 1000, IDS[0]) in store.rows) is counts
            assert (("window", NOON_MS // 1000, IDS[0]) in store.rows) is not counts
            assert store.counters["late"] == 0


def test_an_event_late_for_its_window_is_counted_as_late_once() -> None:
    closes = 600 * SECOND + 600 * SECOND
    for before, late in ((closes - 1, 0), (closes, 1)):
        for cuts in ([], [1]):
            store = totals_of([Record(before, before, IDS[1]), Record(0, before)], cuts)
            assert store.counters["late"] == late
            assert (("window", NOON_MS // 1000, IDS[0]) in store.rows) is (late == 0)
            assert store.buckets[("window", NOON_MS // 1000)][1] == late


# Three in time, then, once their minutes are closed: two stragglers of other minutes, one more, and one that is late.
STRAGGLING = [
    *(Record(0, 0, IDS[0], "play", 900), Record(MINUTE, MINUTE, IDS[1]), Record(12 * MINUTE, 12 * MINUTE, IDS[2])),
    *(Record(1, 12 * MINUTE, IDS[0], "finish", 900, "ann"), Record(MINUTE, 12 * MINUTE, IDS[0], "click")),
    *(Record(20 * MINUTE - 1, 20 * MINUTE - 1, IDS[2]), Record(5 * MINUTE, 20 * MINUTE, IDS[1], user="bob")),
    *(Record(20 * MINUTE, 20 * MINUTE, IDS[2]), Record(2, 21 * MINUTE, IDS[1])),
]


@pytest.mark.parametrize("cuts", [[], [3], [3, 4, 6, 8], [4, 7]], ids=["by the batch", "by the state", "apart", "both"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_window_is_the_sum_of_its_minutes_and_its_stragglers(cuts: list[int], restarted: bool) -> None:
    state, store = fresh(), Store()
    for partial in cut(STRAGGLING, cuts):
        if restarted:
            state = fresh()
            state.load(store)
        store.take(state.add([partial]))
    start = NOON_MS // 1000
    assert {key: row[0] for key, row in store.rows.items() if key[0] == "window"} == {
        ("window", start, IDS[0]): 2,
        ("window", start, IDS[1]): 1,
    }
    assert store.buckets["window", start] == (3, 1)
    assert {key: row[0] for key, row in as_read(store.rows).items() if key[:2] == ("window", start)} == {
        ("window", start, IDS[0]): 3,
        ("window", start, IDS[1]): 2,
    }
    assert as_read(store.rows) == count(STRAGGLING).rows
    assert store == straight(STRAGGLING)


def test_where_nobody_straggles_a_window_has_no_bucket_of_its_own() -> None:
    store = totals_of([Record(i * MINUTE, i * MINUTE) for i in range(40)], [20])
    assert {kind for kind, _ in store.buckets} == {"minute"}


def test_users_of_an_event_late_for_its_minute_alone_count_in_its_window() -> None:
    ahead = MINUTE + 600 * SECOND
    for cuts in ([], [1]):
        store = totals_of([Record(ahead, ahead, IDS[1]), Record(0, ahead, user="ann")], cuts)
        assert store.users == {("window", NOON_MS // 1000, IDS[0]): {user_number("ann")}}


def test_an_event_from_the_future_does_not_drag_the_watermark() -> None:
    store = totals_of([Record(5 * MINUTE, 0), Record(0, 1)], [1])
    assert store.watermark_us == (NOON_MS) * 1000


def test_events_without_content_or_for_another_sink_are_in_no_totals() -> None:
    store = totals_of([Record(0, 0, content=None), Record(0, 0, target="bigquery"), Record(0, 0, target="redis")])
    assert [row[0] for row in store.rows.values()] == [1]
    assert store.counters == {"events": 2, "late": 0, "rejected": 0, "skipped": 0}


def test_buckets_that_nobody_can_read_are_not_written() -> None:
    state = fresh()
    old = [Record(-3 * 24 * 60 * MINUTE + i, 0) for i in range(3)]
    update = state.add([partial_totals(batch(old), **OPTIONS)])
    assert not update.periods
    assert not update.added
    assert not update.crowded_recent
    assert update.counters["events"] == 3


def test_the_fifty_newest_events_of_a_content_are_kept_by_event_time_then_offset() -> None:
    records = [Record(event_ms=i % 3, kafka_ms=100) for i in range(120)]
    recent = partial_totals(batch(records), **OPTIONS).recent
    stored = b"".join(map(recent.events.bytes_of, range(len(recent.events.texts))))
    kept = [(event.event_ts_us, event.offset) for event in decoded(stored)]
    assert [event_ts_us for event_ts_us, _ in kept] == recent.event_ts_us.tolist()
    expected = sorted(((NOON_MS + i % 3) * 1000, i) for i in range(120))[-50:]
    assert kept == expected


def test_an_empty_batch_moves_the_position_and_changes_nothing() -> None:
    state = fresh()
    state.add([partial_totals(batch([Record(0, 0)]), **OPTIONS)])
    update = state.add([partial_totals(batch([], 1), **OPTIONS)])
    assert (update.span.offset_from, update.span.offset_next, len(update)) == (1, 1, 0)
    assert not update.periods
    assert update.newest_ms == NOON_MS


def test_contents_without_a_total_are_forgotten() -> None:
    state = fresh()
    for number in range(3):
        start = number * COMPACT_FROM
        kafka_ms = number * 3 * 60 * MINUTE
        records = [Record(kafka_ms, kafka_ms, f"x{start + i}") for i in range(COMPACT_FROM)]
        state.add([partial_totals(batch(records, start), **OPTIONS)])
    assert len(state.encode()) < 2 * COMPACT_FROM * 2 * 100
    update = state.add([partial_totals(batch([Record(kafka_ms, kafka_ms, f"x{start}")], 3 * COMPACT_FROM), **OPTIONS)])
    assert {tuple(period.members) for period in update.periods} == {(f"x{start}",)}
    assert {period.values[:8] for period in update.periods} == {(2).to_bytes(8, "little")}


def test_a_snapshot_of_another_topic_id_window_or_format_does_not_serve() -> None:
    snapshot = fresh().encode()
    other = type(PARTITION)(PARTITION.topic, "recreated", PARTITION.partition)
    assert PartitionTotals.decode(snapshot, PARTITION, **OPTIONS) is not None
    assert PartitionTotals.decode(snapshot, other, **OPTIONS) is None
    assert PartitionTotals.decode(snapshot, PARTITION, window_minutes=5, lateness_seconds=600) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(totals_state, "SNAPSHOT_VERSION", 1)  # held whole windows
        former = fresh().encode()
    assert PartitionTotals.decode(former, PARTITION, **OPTIONS) is None
    assert PartitionTotals.decode(b"\xc1 not a snapshot", PARTITION, **OPTIONS) is None
    assert PartitionTotals.decode(b"", PARTITION, **OPTIONS) is None


@settings(max_examples=100, deadline=None)
@given(streams())
def test_a_reload_asks_for_every_bucket_that_it_needs(records: list[Record]) -> None:
    store = straight(records)
    asked = set(stored_periods(store.watermark_us, store.newest_ms, **OPTIONS))
    needed = {
        (kind, start_s)
        for kind, start_s in readable(store).buckets  # closed windows have late counts
        if kind == "window" or (start_s + 60 + 600) * 1_000_000 > store.watermark_us
    }
    assert needed <= asked


@pytest.mark.parametrize("window_minutes", [1, 7, 10, 60])
def test_windows_of_any_length_hold_their_minutes(window_minutes: int) -> None:
    options = {"window_minutes": window_minutes, "lateness_seconds": 3600}
    records = [Record(i * MINUTE, i * MINUTE) for i in range(70)]
    store = Store()
    store.take(PartitionTotals(PARTITION, 0, **options).add([partial_totals(batch(records), **options)]))
    counted = count(records, **options)
    assert store.rows == counted.stored
    assert as_read(store.rows, window_minutes) == counted.rows


def totals_of(records: list[Record], cuts: Sequence[int] = ()) -> Store:
    state, store = fresh(), Store()
    for partial in cut(records, cuts):
        store.take(state.add([partial]))
    return store


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["play", "finish"])), max_size=12), max_size=12))
def test_the_first_of_each_bucket_are_listed_whatever_is_left_out(batches: list[list[tuple[int, str]]]) -> None:
    """Listed and cut to the first LISTED_MAX after each write, a bucket's list is that of all its contents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(totals_period, "LISTED_MAX", 3)
        state, store, offset = fresh(), Store(), 0
        lists: dict[tuple[str, int], dict[str, int]] = {}
        for events in batches:
            update = state.add(
                [partial_totals(batch([Record(0, 0, f"c{n}", kind) for n, kind in events], offset), **OPTIONS)]
            )
            offset += len(events)
            store.take(update)
            for period in update.periods:
                ranked = lists.setdefault((period.kind, period.start_s), {})
                ranked |= {member: score for score, member in period.listed}
                lists[period.kind, period.start_s] = dict(_first(ranked, 3))
            if offset % 2:
                restored = PartitionTotals.decode(state.encode(), PARTITION, **OPTIONS)
                assert restored is not None
                state = restored
            for bucket, listed in lists.items():
                scores = {member: row[8] for (*key, member), row in store.rows.items() if tuple(key) == bucket}
                assert listed == dict(_first(scores, 3))


def _first(scores: dict[str, int], count: int) -> list[tuple[str, int]]:
    """As a sorted set cut by rank keeps them: by score, then member, both descending."""
    return sorted(scores.items(), key=lambda ranked: (ranked[1], ranked[0]), reverse=True)[:count]


def test_a_crowded_content_is_kept_apart_from_the_event_that_makes_it_so() -> None:
    state = fresh()
    few = state.add([partial_totals(batch([Record(0, 0, user=f"u{i}") for i in range(CROWDED)]), **OPTIONS)])
    assert {added.what: len(added.shards) for added in few.added} == {"users": 1, "recent": 1}
    assert not few.crowded_users
    assert not few.crowded_recent
    many = state.add([partial_totals(batch([Record(0, 0, user="u0"), Record(0, 0, IDS[1])], CROWDED), **OPTIONS)])
    assert [(added.what, len(added.shards)) for added in many.added if added.shards] == [("recent", 1)]
    number = user_number("u0").to_bytes(4, "little")
    assert many.crowded_users == [("minute", NOON_MS // 1000, IDS[0], [number])]
    ((start_s, content_id, events),) = many.crowded_recent
    assert (start_s, content_id, [event.offset for _, entry in events for event in decoded(entry)]) == (
        NOON_MS // 1000,
        IDS[0],
        [CROWDED],
    )


def test_recent_events_of_a_closed_minute_have_no_count_that_bounds_them() -> None:
    state = fresh()
    later = 11 * MINUTE
    state.add([partial_totals(batch([Record(later, later, IDS[1])]), **OPTIONS)])
    update = state.add([partial_totals(batch([Record(0, later)], 1), **OPTIONS)])
    assert [content_id for _, content_id, _ in update.crowded_recent] == [IDS[0]]
    assert not any(added.shards for added in update.added)


def test_boards_and_recent_events_are_as_long_here_as_in_redis() -> None:
    assert (totals_period.LISTED_MAX, RECENT_MAX) == (redis_layout.SCORES_MAX, redis_layout.RECENT_MAX)
