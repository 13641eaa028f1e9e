"""The boards counted anew from the records of a Kafka partition, and compared with what Redis holds of it.

What is judged are the minutes, and the stragglers of windows, that begin at or after `since`: all their events lie
behind the offset at which the count begins, and no record before it can have made them late. The stored state plays no
part in the count.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engagement.enrich import percentage_hundredths, score_thousandths
from engagement.parse import AHEAD_MS_MAX, ParsedEvents
from engagement.totals import EVENTS, NEVER, SCORE, WIDTH
from engagement.totals_period import Period
from engagement.totals_state import READABLE_MS
from engagement.totals_update import Kind
from operations.audit.problem import CouldNotLook, looking_at
from operations.audit.report import Findings, Sums
from operations.audit.scan import Range
from sinks.redis_layout import SUMMARY, SUMMARY_FIELD, Group

Ints = npt.NDArray[np.int64]
Bucket = tuple[Kind, int]  # start in seconds

KINDS: Final[tuple[Kind, Kind]] = ("minute", "window")
BY_LENGTH: Final = 6  # from this column on, a content's length has a say
CLOCKS_S: Final = 30  # what Redis expires is not called missing so much before its time
READ_MAX: Final = 20  # buckets per round trip


@dataclass(frozen=True)
class Judged:
    """Which buckets are judged, and by which rules: those that begin at or after `since_s` and end by `until_s`."""

    since_s: int
    until_s: int
    window_minutes: int
    lateness_us: int

    @classmethod
    def now(cls, wanted: Range, window_minutes: int, lateness_s: int) -> "Judged":
        """Buckets inside the range that no flow can have begun in the middle of: one that starts on an empty Redis
        reads the last two hours, and an event may lie five minutes ahead of its record."""
        now_ms = int(time.time() * 1000)
        since_s = max(wanted.begin_us // 1_000_000, (now_ms - READABLE_MS + AHEAD_MS_MAX) // 1000)
        latest_s = (now_ms + AHEAD_MS_MAX) // 1000 + 60 * window_minutes
        until_s = latest_s if wanted.end_us > now_ms * 1000 else wanted.end_us // 1_000_000
        return cls(since_s, until_s, window_minutes, lateness_s * 1_000_000)

    def length_s(self, kind: Kind) -> int:
        return 60 if kind == "minute" else 60 * self.window_minutes

    def buckets(self) -> Iterator[Bucket]:
        """All of them."""
        for kind in KINDS:
            length = self.length_s(kind)
            first = -(-self.since_s // length) * length
            yield from ((kind, start) for start in range(first, self.until_s - length + 1, length))

    def holds(self, kind: Kind, periods: Any) -> Any:
        """Which of these buckets, by their number since 1970, are judged: bool [n], or of one whether it is."""
        length = self.length_s(kind)
        return (periods * length >= self.since_s) & ((periods + 1) * length <= self.until_s)

    def whole_window(self, bucket: Bucket) -> bool:
        """Whether its window is judged, and so everything of that window."""
        return bool(self.holds("window", bucket[1] // self.length_s("window")))


class PartitionCount:
    """Counts the events of one Kafka partition, in offset order: each in its minute, stragglers in their windows.

    offset_next  Redis has counted what lies below; lengths: content -> seconds, today
    """

    def __init__(self, judged: Judged, offset_next: int, lengths: Mapping[str, int | None]) -> None:
        self.judged, self._offset_next, self._lengths = judged, offset_next, lengths
        self.contents: list[str] = []
        self.periods: dict[Bucket, Period] = {}
        self.late: dict[int, int] = {}
        self.newest_ms: dict[Bucket, int] = {}  # Kafka timestamp of the last event in it
        self.not_due = 0
        self._row_of: dict[str, int] = {}
        self._watermark = NEVER

    def take(self, parsed: ParsedEvents) -> None:
        """Count one batch."""
        if not len(parsed):
            return
        ours = np.ones(len(parsed), bool)
        if parsed.targets is not None:
            ours = np.array([target in (None, "redis") for target in parsed.targets], bool)
        listed = np.array([event.content_id is not None for event in parsed.events], bool)
        event_ts = parsed.event_ts_us
        judged = self.judged.holds("window", event_ts // (self.judged.length_s("window") * 1_000_000))
        below = parsed.offsets < self._offset_next
        self.not_due += int((ours & listed & judged & ~below).sum())
        at = np.flatnonzero(ours & below)
        if not len(at):
            return
        clock = np.minimum(event_ts, parsed.timestamps_ms * 1000)[at]
        running = np.maximum(np.maximum.accumulate(clock), self._watermark)
        before = np.concatenate(([self._watermark], running[:-1]))
        self._watermark = int(running[-1])
        before, at = before[listed[at]], at[listed[at]]
        self._count(parsed, at, before)

    def _count(self, parsed: ParsedEvents, at: Ints, before: Ints) -> None:
        content = np.array([self._row(parsed.events[index].content_id or "") for index in at.tolist()], np.int64)
        measures = self._measures(parsed, at)
        stamps = parsed.timestamps_ms[at]
        left = np.ones(len(at), bool)  # windows take what is too late for the minutes, which come first
        for kind in KINDS:
            length_us = self.judged.length_s(kind) * 1_000_000
            period = parsed.event_ts_us[at] // length_us
            late = before >= (period + 1) * length_us + self.judged.lateness_us
            for number in np.unique(period[left & self.judged.holds(kind, period)]).tolist():
                start_s = number * length_us // 1_000_000
                here = left & (period == number)
                chosen = np.flatnonzero(here & ~late)
                if len(chosen):
                    rows, sums = _summed(content[chosen], measures[chosen])
                    self.periods.setdefault((kind, start_s), Period()).add(rows, sums)
                if kind == "window":
                    self.late[start_s] = self.late.get(start_s, 0) + int((here & late).sum())
                else:
                    here &= ~late
                newest = int(stamps[here].max(initial=0))
                self.newest_ms[kind, start_s] = max(self.newest_ms.get((kind, start_s), 0), newest)
            left &= late

    def rows(self, bucket: Bucket) -> dict[str, bytes]:
        """content_id -> nine little-endian int64, of the contents with events in it."""
        period = self.periods.get(bucket)
        if period is None:
            return {}
        totals = period.totals[: period.lines].astype("<i8", copy=False)
        rows = period.rows[: period.lines].tolist()
        return {self.contents[row]: totals[line].tobytes() for line, row in enumerate(rows)}

    def events(self, bucket: Bucket) -> int:
        """In this bucket, of all contents."""
        period = self.periods.get(bucket)
        return 0 if period is None else period.events

    def late_of(self, bucket: Bucket) -> int:
        """Events too late for it; a minute has none."""
        return self.late.get(bucket[1], 0) if bucket[0] == "window" else 0

    def _measures(self, parsed: ParsedEvents, at: Ints) -> Ints:
        """int64 [len(at), 9], as engagement.totals.MEASURES lists them."""
        types, durations = parsed.types[at], parsed.duration_ms[at]
        contents = [parsed.events[index].content_id or "" for index in at.tolist()]
        lengths = np.array([self._lengths.get(each) or -1 for each in contents], np.int64)
        percentages = percentage_hundredths(durations, lengths)
        rows = np.zeros((len(at), WIDTH), np.int64)
        rows[:, EVENTS] = 1
        rows[np.arange(len(at)), 1 + types] = 1
        rows[:, 5] = np.maximum(durations, 0)
        rows[:, 6] = np.maximum(percentages, 0)
        rows[:, 7] = percentages >= 0
        rows[:, SCORE] = score_thousandths(types, percentages)
        return rows

    def _row(self, content_id: str) -> int:
        row = self._row_of.get(content_id)
        if row is None:
            row = self._row_of[content_id] = len(self.contents)
            self.contents.append(content_id)
        return row


def _summed(contents: Ints, measures: Ints) -> tuple[Ints, Ints]:
    """One row per content."""
    order = np.argsort(contents, kind="stable")
    ordered = contents[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[first], np.add.reduceat(measures[order], first, axis=0)


class StoredBoards:
    """What Redis holds of one Kafka partition: the open buckets and the position at one moment, the closed ones when
    they are asked for, since they no longer change. Raises redis.RedisError."""

    def __init__(self, client: Any, layout: Group, partition: int, topic_id: str, judged: Judged) -> None:
        self._client, self.keys = client, layout.partition(partition)
        self._judged, self._ttl_s = judged, layout.ttl_s
        position = _texts(client.hgetall(self.keys.position))
        if position.get("topic_id", topic_id) != topic_id:
            raise CouldNotLook(
                f"Could not look into Redis: it holds totals of another incarnation of topic {layout.topic} "
                f"(topic id {position['topic_id']}, now {topic_id})"
            )
        watermark_us = int(position.get("watermark_us", NEVER))
        open_ones = [bucket for bucket in judged.buckets() if self._is_open(bucket, watermark_us)]
        pipeline = client.pipeline(transaction=True)
        pipeline.hget(self.keys.position, "next")
        for kind, start_s in open_ones:
            pipeline.hgetall(self.keys.totals(kind, start_s))
        stored, *rows = pipeline.execute()
        self.offset_next: int | None = None if stored is None else int(stored)
        self._open: dict[Bucket, dict[bytes, bytes]] = dict(zip(open_ones, rows, strict=True))

    def buckets(self) -> Iterator[tuple[Bucket, dict[bytes, bytes]]]:
        """Each judged bucket with its hash, {} where it has none."""
        yield from self._open.items()
        closed = [bucket for bucket in self._judged.buckets() if bucket not in self._open]
        for first in range(0, len(closed), READ_MAX):
            pipeline = self._client.pipeline(transaction=False)
            for kind, start_s in closed[first : first + READ_MAX]:
                pipeline.hgetall(self.keys.totals(kind, start_s))
            yield from zip(closed[first : first + READ_MAX], pipeline.execute(), strict=True)

    def may_have_expired(self, newest_ms: int) -> bool:
        """Of a bucket whose last event came at this Kafka time."""
        return newest_ms < (time.time() - self._ttl_s + CLOCKS_S) * 1000

    def _is_open(self, bucket: Bucket, watermark_us: int) -> bool:
        end_us = (bucket[1] + self._judged.length_s(bucket[0])) * 1_000_000
        return end_us + self._judged.lateness_us > watermark_us


@dataclass
class BoardDifferences:
    """What differs, partition by partition; judged when all is known about the contents.

    by_length  (content_id, name) of rows that differ only in what the content's length has a say in
    wrong      Kafka partitions that a repair must rebuild
    """

    findings: Findings
    sums: Sums = field(default_factory=lambda: Sums("redis"))
    by_length: list[tuple[str, str, int]] = field(default_factory=list)
    wrong: set[int] = field(default_factory=set)

    def compare(self, partition: int, stored: StoredBoards, count: PartitionCount) -> None:
        """One Kafka partition."""
        self.sums.not_due += count.not_due
        self.sums.records += count.not_due
        for bucket, found in stored.buckets():
            if not found and stored.may_have_expired(count.newest_ms.get(bucket, 0)):
                continue
            rows = dict(found)
            events, late = SUMMARY.unpack(rows.pop(SUMMARY_FIELD, bytes(SUMMARY.size)))
            if count.judged.whole_window(bucket):
                self.sums.records += count.late_of(bucket) + count.events(bucket)
                self.sums.delivered += late + sum(_events(row) for row in rows.values())
            self._rows(partition, bucket, count.rows(bucket), {member.decode(): row for member, row in rows.items()})
            if found and (events, late) != (count.events(bucket), count.late_of(bucket)):
                self._differs(partition, "altered", f"{_named(bucket)} as a whole")

    def settle(self, stale_lengths: set[str]) -> None:
        """What a changed length explains is stale; the rest is wrong."""
        for content_id, name, partition in self.by_length:
            if content_id in stale_lengths:
                self.findings.add("redis", "stale", [name])
            else:
                self._differs(partition, "altered", name)

    def _rows(self, partition: int, bucket: Bucket, expected: dict[str, bytes], found: dict[str, bytes]) -> None:
        for content_id in expected.keys() | found.keys():
            wanted, got = expected.get(content_id), found.get(content_id)
            if wanted == got:
                continue
            name = f"{content_id} {_named(bucket)}"
            if got is None:
                self._differs(partition, "missing", name)
            elif wanted is None:
                self._differs(partition, "unexpected", name)
            elif wanted[: BY_LENGTH * 8] == got[: BY_LENGTH * 8]:
                self.by_length.append((content_id, name, partition))
            else:
                kind = "doubled" if _events(got) > _events(wanted) else "altered"
                self._differs(partition, kind, f"{name} ({_events(got)} of {_events(wanted)} events)")

    def _differs(self, partition: int, kind: str, name: str) -> None:
        self.findings.add("redis", kind, [f"{name} [{partition}]"])
        self.wrong.add(partition)


def _named(bucket: Bucket) -> str:
    what = "minute" if bucket[0] == "minute" else "stragglers of window"
    return f"{what} {datetime.fromtimestamp(bucket[1], UTC):%Y-%m-%dT%H:%MZ}"


def _events(row: bytes) -> int:
    return int.from_bytes(row[:8], "little", signed=True)


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


class Boards:
    """The boards of all Kafka partitions, one after the other: `begin`, `take` every batch, `end`; at last `settle`.

    lengths  content -> seconds, today. Raises CouldNotLook."""

    def __init__(
        self, client: Any, layout: Group, topic_id: str, judged: Judged, lengths: Mapping[str, int | None], to: Findings
    ) -> None:
        self._client, self._layout, self._topic_id = client, layout, topic_id
        self._judged, self._lengths = judged, lengths
        self.differences = BoardDifferences(to)
        self.empty: list[int] = []  # Kafka partitions of which Redis holds no position
        self._partition = 0
        self._stored: StoredBoards | None = None
        self._count: PartitionCount | None = None

    def begin(self, partition: int) -> int:
        """Look at what may change before it is counted. Answers the offset behind what Redis has counted."""
        with looking_at("Redis"):
            self._stored = StoredBoards(self._client, self._layout, partition, self._topic_id, self._judged)
        self._partition = partition
        if self._stored.offset_next is None:
            self.empty.append(partition)
        offset_next = self._stored.offset_next or 0
        self._count = PartitionCount(self._judged, offset_next, self._lengths)
        return offset_next

    def take(self, parsed: ParsedEvents) -> None:
        assert self._count is not None
        self._count.take(parsed)

    def end(self) -> None:
        """Compare the partition."""
        assert self._stored is not None
        assert self._count is not None
        with looking_at("Redis"):
            self.differences.compare(self._partition, self._stored, self._count)

    def settle(self, stale_lengths: set[str]) -> Sums:
        """See BoardDifferences.settle."""
        self.differences.settle(stale_lengths)
        return self.differences.sums
