"""Enriched batches of one Kafka partition, what they must add up to, counted one by one, and a store in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

from engagement import boards
from engagement.content_rows import tag_of, user_shard_of
from engagement.enrich import ContentRow, Contents, EnrichedEvents, enrich
from engagement.events import Event
from engagement.parse import ParsedEvents
from engagement.recent import RecentEvent, decoded
from engagement.shards import USER_RECORD, events_of
from engagement.totals import TYPES, user_numbers
from engagement.totals_update import Update
from sources.positions import PartitionId, Span

PARTITION = PartitionId("events", "topic-id", 0)
OWNER = "owner"
MINUTE_US = 60_000_000
NOON_MS = 1_760_004_000_000 // 600_000 * 600_000  # a window begins here
IDS = tuple(f"00000000-0000-4000-8000-00000000000{number}" for number in range(4))
LENGTHS = {IDS[0]: 1800, IDS[1]: 7, IDS[2]: 333, IDS[3]: None}
WEIGHTS = {"play": 1000, "pause": 500, "finish": 3000, "click": 300}


@dataclass(frozen=True)
class Record:
    """One event: event_ts and Kafka timestamp in milliseconds after NOON_MS."""

    event_ms: int
    kafka_ms: int
    content: str | None = IDS[0]
    type: str = "play"
    duration_ms: int | None = None
    user: str | None = None
    target: str | None = None


def contents() -> Contents:
    known = Contents()
    known.put([ContentRow(content_id, "slug", "Title", "video", length) for content_id, length in LENGTHS.items()])
    return known


CONTENTS = contents()


def batch(records: Sequence[Record], offset_from: int = 0, partition: PartitionId = PARTITION) -> EnrichedEvents:
    """The records as one batch, at consecutive offsets."""
    count = len(records)
    events = [
        Event(content_id=each.content, event_type=each.type, user_id=each.user, duration_ms=each.duration_ms)  # type: ignore[arg-type]
        for each in records
    ]
    targets = [each.target for each in records]
    return enrich(
        ParsedEvents(
            span=Span(partition, OWNER, offset_from, offset_from + count),
            offsets=np.arange(offset_from, offset_from + count, dtype=np.int64),
            keys=[None] * count,
            values=[b""] * count,
            timestamps_ms=np.array([NOON_MS + each.kafka_ms for each in records], dtype=np.int64),
            events=events,
            content_ids=[event.content_id for event in events],
            event_ids=[f"e{offset_from + i}" for i in range(count)],
            event_ts_us=np.array([(NOON_MS + each.event_ms) * 1000 for each in records], dtype=np.int64),
            duration_ms=np.array(
                [-1 if each.duration_ms is None else each.duration_ms for each in records], dtype=np.int64
            ),
            types=np.array([TYPES.index(each.type) for each in records], dtype=np.int64),
            targets=targets if any(targets) else None,
            rejected=[],
            skipped=0,
        ),
        CONTENTS,
    )


@dataclass
class Store:
    """What a destination holds after its updates: absolute rows replace, users and recent events join."""

    offset_next: int | None = None
    watermark_us: int = 0
    newest_ms: int = -1
    counters: dict[str, int] = field(default_factory=dict)
    rows: dict[tuple[str, int, str], tuple[int, ...]] = field(default_factory=dict)
    buckets: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    listed: dict[tuple[str, int, str], int] = field(default_factory=dict)
    users: dict[tuple[str, int, str], set[int]] = field(default_factory=dict)  # numbers, see `user_number`
    everybody: dict[tuple[str, int], set[int]] = field(default_factory=dict)  # of all contents, likewise
    recent: dict[str, dict[tuple[int, int], RecentEvent]] = field(default_factory=dict)  # by event_ts_us and offset
    contents: set[str] = field(default_factory=set, compare=False)  # all that were ever named

    def take(self, update: Update) -> None:
        assert self.offset_next is None or update.span.offset_from <= self.offset_next
        for period in update.periods:
            key = (period.kind, period.start_s)
            self.buckets[key] = (period.events, period.late)
            numbers = np.frombuffer(period.values, dtype="<i8").reshape(-1, 9)
            for member, row in zip(period.members, numbers.tolist(), strict=True):
                self.rows[(*key, member)] = tuple(row)
            for score, member in period.listed:
                assert score == self.rows[(*key, member)][8]
                self.listed[(*key, member)] = score
        self.contents |= {content_id for period in update.periods for content_id in period.members}
        self.contents |= {content_id for _, content_id, _ in update.crowded_recent}
        tags = {tag_of(content_id): content_id for content_id in self.contents}
        for added in update.added:
            for shard, value in zip(added.shards, added.values, strict=True):
                if added.what == "users":
                    for tag, user in np.frombuffer(value, USER_RECORD).tolist():
                        assert user_shard_of(tags[tag]) == shard
                        self.users.setdefault(("minute", added.start_s, tags[tag]), set()).add(user)
                else:
                    for tag, content_id in tags.items():
                        self._show(content_id, events_of(value, tag))
        for kind, start_s, content_id, found in update.crowded_users:
            crowded = self.users.setdefault((kind, start_s, content_id), set())
            crowded.update(int.from_bytes(number, "little") for number in found)
        for kind, start_s, found in update.everybody:
            everybody = self.everybody.setdefault((kind, start_s), set())
            everybody.update(np.frombuffer(found, "<u4").tolist())
        for _, content_id, timed in update.crowded_recent:
            events = [event for _, entry in timed for event in decoded(entry)]
            assert [event.event_ts_us for event in events] == [event_ts_us for event_ts_us, _ in timed]
            self._show(content_id, events)
        self.offset_next = update.span.offset_next
        self.watermark_us, self.newest_ms, self.counters = update.watermark_us, update.newest_ms, update.counters

    def _show(self, content_id: str, events: Iterable[RecentEvent]) -> None:
        held = self.recent.setdefault(content_id, {})
        held |= {(event.event_ts_us, event.offset): event for event in events}
        self.recent[content_id] = dict(sorted(held.items())[-50:])
        if not held:
            del self.recent[content_id]

    @property
    def periods(self) -> list[Any]:
        """As PartitionTotals.load takes them."""
        return [
            StoredPeriod(
                kind,
                start_s,
                [member for (k, s, member) in self.rows if (k, s) == (kind, start_s)],
                b"".join(
                    np.array(row, dtype="<i8").tobytes()
                    for (k, s, _), row in self.rows.items()
                    if (k, s) == (kind, start_s)
                ),
                *counts,
            )
            for (kind, start_s), counts in self.buckets.items()
        ]


@dataclass(frozen=True)
class StoredPeriod:
    kind: str
    start_s: int
    members: list[str]
    values: bytes
    events: int
    late: int


@dataclass
class Counted:
    """The same numbers, counted event by event with Decimal.

    rows    of each minute and window all that counts in it
    stored  the same events, each once: in its minute, or in its window where it is too late for the minute
    """

    rows: dict[tuple[str, int, str], tuple[int, ...]] = field(default_factory=dict)
    stored: dict[tuple[str, int, str], tuple[int, ...]] = field(default_factory=dict)
    users: dict[tuple[str, int, str], set[int]] = field(default_factory=dict)
    late: dict[int, int] = field(default_factory=dict)  # start_s of the window
    events: int = 0


def user_number(user: str) -> int:
    """How a user is stored."""
    return int(user_numbers([user])[0])


def percentage(record: Record) -> int | None:
    length = LENGTHS.get(record.content or "")
    if record.duration_ms is None or not length:
        return None
    share = Decimal(record.duration_ms) / 1000 / length * 100
    return int(share.quantize(Decimal("0.01"), ROUND_HALF_UP) * 100)


def score(record: Record) -> int:
    share = min(Decimal(percentage(record) or 0) / 100, Decimal(100))
    return int((WEIGHTS[record.type] * (1 + share / 100)).quantize(Decimal(1), ROUND_HALF_UP))


def count(records: Iterable[Record], window_minutes: int = 10, lateness_seconds: int = 600) -> Counted:
    """Event time by its definition: the running maximum of min(event_ts, Kafka timestamp), before each event."""
    counted = Counted()
    watermark_us: int | None = None
    for record in records:
        if record.target not in (None, "redis"):
            continue
        counted.events += 1
        event_us, kafka_us = (NOON_MS + record.event_ms) * 1000, (NOON_MS + record.kafka_ms) * 1000
        in_time = {}
        for kind, length_us in (("minute", MINUTE_US), ("window", window_minutes * MINUTE_US)):
            start_us = event_us // length_us * length_us
            closes_us = start_us + length_us + lateness_seconds * 1_000_000
            in_time[kind] = (watermark_us is None or watermark_us < closes_us, start_us // 1_000_000)
        watermark_us = max(min(event_us, kafka_us), min(event_us, kafka_us) if watermark_us is None else watermark_us)
        if record.content is None:
            continue
        share = percentage(record)
        added = (
            1,
            *(int(record.type == name) for name in TYPES),
            record.duration_ms or 0,
            share or 0,
            int(share is not None),
            score(record),
        )
        for kind, (counts, start_s) in in_time.items():
            if counts:
                add_row(counted.rows, (kind, start_s, record.content), added)
            elif kind == "window":
                counted.late[start_s] = counted.late.get(start_s, 0) + 1
        if in_time["window"][0]:
            kind = "minute" if in_time["minute"][0] else "window"
            key = (kind, in_time[kind][1], record.content)
            add_row(counted.stored, key, added)
            if record.user is not None:
                counted.users.setdefault(key, set()).add(user_number(record.user))
    return counted


def add_row(rows: dict[tuple[str, int, str], tuple[int, ...]], key: tuple[str, int, str], row: Sequence[int]) -> None:
    rows[key] = tuple(a + b for a, b in zip(rows.get(key, (0,) * 9), row, strict=True))


def as_read(
    stored: dict[tuple[str, int, str], tuple[int, ...]], window_minutes: int = 10
) -> dict[tuple[str, int, str], tuple[int, ...]]:
    """Stored rows as readers take them: those of the minutes, and of each window the sum of its buckets."""
    rows: dict[tuple[str, int, str], tuple[int, ...]] = {}
    for (kind, start_s, content_id), row in stored.items():
        if kind == "minute":
            rows[kind, start_s, content_id] = row
        window = boards.window_at(start_s, window_minutes)
        assert (kind, start_s) in window.buckets
        add_row(rows, ("window", window.start_s, content_id), row)
    return rows
