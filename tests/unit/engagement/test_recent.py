"""Recent events come back from their bytes as they were, alone, joined, and among those of other contents."""

import pickle
from dataclasses import dataclass

import numpy as np

from engagement.content_rows import (
    EVENT_SHARDS,
    USER_SHARDS,
    BatchContents,
    ContentRows,
    shard_of,
    tag_of,
    user_shard_of,
)
from engagement.recent import EncodedEvents, RecentEvent, decoded, encoded, together
from engagement.shards import event_records, events_of, user_records, users_of
from tests.unit.engagement.totals_batches import IDS, NOON_MS, Record, batch

RECORDS = [
    Record(-5, 0, IDS[0], "play"),
    Record(0, 0, IDS[0], "finish", 0),
    Record(7, 8, IDS[1], "pause", 86_400_000),
    Record(9, 9, "unknown", "click", 1234),
]
DEVICES = [None, "", "t\u00e9l\u00e9phone \U0001f4f1", "x" * 64]


@dataclass
class Table:
    """Of contents, by number."""

    ids: list[str]


def events() -> list[RecentEvent]:
    return [
        RecentEvent(0, (NOON_MS - 5) * 1000, None, None, 0, 0, "e0", None),
        RecentEvent(1, NOON_MS * 1000, 0, 0, 2, 2, "kafka:\u00fc-1-2", ""),
        RecentEvent(2, (NOON_MS + 7) * 1000, 86_400_000, 123_428_571, 1, 1, "e2", DEVICES[2]),
        RecentEvent(3, (NOON_MS + 9) * 1000, 1234, None, 3, 8, "e3", DEVICES[3]),
    ]


def stored() -> EncodedEvents:
    enriched = batch(RECORDS)
    for event, device in zip(enriched.events, DEVICES, strict=True):
        event.device = device
    enriched.event_ids[1] = "kafka:\u00fc-1-2"
    return encoded(enriched, np.arange(len(RECORDS), dtype=np.int64))


def one_by_one(of: EncodedEvents) -> list[bytes]:
    return [of.bytes_of(row) for row in range(len(of.texts))]


def test_events_come_back_as_they_were() -> None:
    assert decoded(b"".join(one_by_one(stored()))) == events()
    assert decoded(b"") == []
    assert [decoded(each) for each in one_by_one(stored())] == [[event] for event in events()]
    assert [decoded(each) for each in one_by_one(together([stored(), stored()]))] == 2 * [[each] for each in events()]


def test_events_of_one_time_sort_by_offset_as_bytes() -> None:
    many = one_by_one(encoded(batch([Record(0, 0)] * 300, 2**40 - 150), np.arange(300, dtype=np.int64)))
    assert sorted(many) == many


def test_no_event_is_encoded_where_none_is_chosen() -> None:
    assert encoded(batch(RECORDS), np.empty(0, dtype=np.int64)).texts == []


def test_a_shared_field_tells_contents_apart() -> None:
    contents = ContentRows()
    rows = contents.rows([IDS[0], IDS[1], IDS[0], "unknown"])
    assert contents.tags(rows).tolist() == [tag_of(each) for each in (IDS[0], IDS[1], IDS[0], "unknown")]
    field = b"".join(event_records(contents.tags(rows), stored(), np.arange(4)))
    assert list(events_of(field, tag_of(IDS[0]))) == [events()[0], events()[2]]
    assert list(events_of(field, tag_of("unknown"))) == [events()[3]]
    assert list(events_of(field, tag_of("another"))) == []
    users = np.array([1, 2**32 - 1, 1, 0], dtype=np.int64)
    field = user_records(contents.tags(rows), users).tobytes()
    assert users_of(field, tag_of(IDS[0])).tolist() == [1, 1]
    assert users_of(field, tag_of(IDS[1])).tolist() == [2**32 - 1]
    assert users_of(b"", tag_of(IDS[0])).tolist() == []


def test_a_content_has_its_shard_whatever_its_row() -> None:
    assert shard_of(IDS[0]) == str(tag_of(IDS[0]) % EVENT_SHARDS)
    assert user_shard_of(IDS[0]) == str(tag_of(IDS[0]) % USER_SHARDS)
    contents = ContentRows(["a", "b", "c"])
    tags = contents.tags(np.arange(3))
    contents.rows(["d"])
    kept = contents.only(np.array([False, True, False, True]))
    assert kept.ids == ["b", "d"]
    assert kept.rows(["d", "e", "b"]).tolist() == [1, 2, 0]
    assert kept.tags(np.arange(3)).tolist() == [tags[1], tag_of("d"), tag_of("e")]


def test_contents_known_by_number_have_the_rows_of_their_ids() -> None:
    table, contents = Table(["", "a", "b", "c"]), ContentRows(["c"])
    assert contents.rows_of(BatchContents(["x"], np.array([2, 3]), table)).tolist() == [1, 0, 2]
    table.ids += ["d", "b"]  # b has changed
    assert contents.rows_of(BatchContents([], np.array([2, 4, 5]), table)).tolist() == [1, 3, 1]
    elsewhere = pickle.loads(pickle.dumps(BatchContents(["x"], np.array([1, 5]), table)))
    assert elsewhere.table is None
    assert contents.rows_of(elsewhere).tolist() == contents.rows(["a", "b", "x"]).tolist() == [4, 1, 2]
    assert contents.rows_of(BatchContents([], np.array([1]), Table(["", "c"]))).tolist() == [0]
