"""The totals of one Kafka partition: absolute numbers per content for each open minute, and for each open tumbling
window those of its stragglers.

The state takes PartialTotals in offset order and answers with an Update: the absolute values of what it touched, so
that writing twice changes nothing. Time is the watermark, the running maximum of min(event_ts, Kafka timestamp).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engagement.content_rows import ContentRows
from engagement.totals import EVENTS, MINUTE_US, NEVER, SCORE, WIDTH, Ints, PartialTotals, Sums, summed
from engagement.totals_additions import Additions
from engagement.totals_period import Period
from engagement.totals_update import Kind, PeriodUpdate, Stored, Update

# Buckets whose window ended longer before the newest Kafka timestamp can be read by nobody, and are not kept.
READABLE_MS = 7_200_000
# An event may lie this far after its Kafka timestamp (engagement/parse.py).
AHEAD_MS = 300_000
SNAPSHOT_VERSION = 2
COMPACT_FROM = 4096  # content ids


class _Snapshot(msgspec.Struct, array_like=True):
    """The state as bytes: content ids once, then per period (kind, number, *Period.encode())."""

    version: int
    window_minutes: int
    topic: str
    topic_id: str
    partition: int
    offset_next: int
    watermark_us: int
    newest_ms: int
    counters: dict[str, int]
    windows: dict[int, tuple[int, int]]
    ids: list[str]
    periods: list[tuple[str, int, bytes, bytes]]


@dataclass(slots=True)
class _Touched:
    """What a call to `add` changed, gathered over its batches: content rows by (kind, number)."""

    periods: dict[tuple[Kind, int], list[Ints]] = field(default_factory=dict)
    windows: set[int] = field(default_factory=set)
    additions: Additions = field(default_factory=Additions)
    contents: dict[str, bytes] = field(default_factory=dict)


class PartitionTotals:
    """State of one Kafka partition: `offset_next` is the first offset not in it yet."""

    def __init__(self, partition: Any, offset_next: int, *, window_minutes: int, lateness_seconds: int) -> None:
        self.partition = partition
        self.offset_next = offset_next
        self.watermark_us = NEVER
        self.newest_ms = -1
        self.counters = {"events": 0, "late": 0, "rejected": 0, "skipped": 0}
        # window -> (its stragglers, events too late for it), as long as it can be read
        self._windows: dict[int, tuple[int, int]] = {}
        self._window_minutes = window_minutes
        self._lateness_us = lateness_seconds * 1_000_000
        self._contents = ContentRows()
        self._periods: dict[tuple[Kind, int], Period] = {}
        self._compact_at = COMPACT_FROM

    def add(self, partials: Sequence[PartialTotals]) -> Update:
        """Add consecutive batches, at least one; the first begins at `offset_next`."""
        touched = _Touched()
        late_before = self.counters["late"]
        for partial in partials:
            self._add(partial, touched)
        first, last = partials[0].span, partials[-1].span
        update = Update(
            span=replace(last, offset_from=first.offset_from),
            periods=self._period_updates(touched),
            contents=list(touched.contents.items()),
            watermark_us=self.watermark_us,
            newest_ms=self.newest_ms,
            counters=dict(self.counters),
            events=sum(partial.events for partial in partials),
            late=self.counters["late"] - late_before,
        )
        touched.additions.into(update, self._contents, self._window_minutes, self._counted, self._readable)
        self._evict()
        return update

    def unchanged(self, span: Any) -> Update:
        """An update without a change, at `offset_next`; owner and partition are those of `span`."""
        return Update(
            span=replace(span, offset_from=self.offset_next, offset_next=self.offset_next),
            periods=[],
            contents=[],
            watermark_us=self.watermark_us,
            newest_ms=self.newest_ms,
            counters=dict(self.counters),
            events=0,
            late=0,
        )

    def load(self, stored: Stored) -> None:
        """Take over what the destination holds: the open buckets, their late counts, watermark and counters."""
        if stored.offset_next is None:
            return
        self.offset_next = stored.offset_next
        self.watermark_us = stored.watermark_us
        self.newest_ms = stored.newest_ms
        self.counters |= stored.counters
        for period in stored.periods:
            kind: Kind = "window" if period.kind == "window" else "minute"
            number = period.start_s // (self._length_us(kind) // 1_000_000)
            if kind == "window":
                self._windows[number] = (period.events, period.late)
            if period.members and self._open(kind, number):
                totals = np.frombuffer(period.values, dtype="<i8").reshape(-1, WIDTH)
                self._period((kind, number)).add(self._contents.rows(period.members), totals)
        self._evict()

    def encode(self) -> bytes:
        """The state for a snapshot."""
        return msgspec.msgpack.encode(
            _Snapshot(
                version=SNAPSHOT_VERSION,
                window_minutes=self._window_minutes,
                topic=self.partition.topic,
                topic_id=self.partition.topic_id,
                partition=self.partition.partition,
                offset_next=self.offset_next,
                watermark_us=self.watermark_us,
                newest_ms=self.newest_ms,
                counters=self.counters,
                windows=self._windows,
                ids=self._contents.ids,
                periods=[(*key, *period.encode()) for key, period in self._periods.items()],
            )
        )

    @classmethod
    def decode(
        cls, snapshot: bytes, partition: Any, *, window_minutes: int, lateness_seconds: int
    ) -> "PartitionTotals | None":
        """The state of a snapshot; None where it cannot serve: another format, partition, topic id or window length."""
        try:
            saved = msgspec.msgpack.decode(snapshot, type=_Snapshot)
        except msgspec.MsgspecError:
            return None
        identity = (saved.version, saved.window_minutes, saved.topic, saved.topic_id, saved.partition)
        if identity != (
            SNAPSHOT_VERSION,
            window_minutes,
            partition.topic,
            partition.topic_id,
            partition.partition,
        ):
            return None
        state = cls(partition, saved.offset_next, window_minutes=window_minutes, lateness_seconds=lateness_seconds)
        state.watermark_us, state.newest_ms = saved.watermark_us, saved.newest_ms
        state.counters, state._windows = saved.counters, saved.windows
        state._contents = ContentRows(saved.ids)
        for kind, number, rows, totals in saved.periods:
            state._periods["window" if kind == "window" else "minute", number] = Period.decode(rows, totals)
        return state

    def _add(self, partial: PartialTotals, touched: _Touched) -> None:
        rows = self._contents.rows_of(partial.batch_contents)
        minutes = partial.minutes
        closed = ~self._merge("minute", minutes, rows, touched)
        if closed.any():
            windows = minutes.periods // self._window_minutes
            self._add_stragglers(summed(windows, minutes.contents, minutes.sums, closed), rows, touched)
        if len(partial.windows.periods):
            self._add_stragglers(partial.windows, rows, touched)
        for window, events in partial.late.items():
            self._count(window, touched, late=events)
        self._add_users(partial, rows, touched.additions)
        recent = partial.recent
        touched.additions.recent.append((recent.minutes, rows[recent.contents], recent.event_ts_us))
        touched.additions.events.append(recent.events)
        touched.contents.update(partial.contents)
        for name in ("events", "rejected", "skipped"):
            self.counters[name] += getattr(partial, name)
        self.watermark_us = max(self.watermark_us, partial.watermark_us)
        self.newest_ms = max(self.newest_ms, partial.newest_ms)
        self.offset_next = partial.span.offset_next

    def _add_stragglers(self, windows: Sums, rows: Ints, touched: _Touched) -> None:
        """Count them in their windows, or as late where these are closed."""
        in_time = self._merge("window", windows, rows, touched)
        for window in np.unique(windows.periods).tolist():
            events, of = windows.sums[:, EVENTS], windows.periods == window
            self._count(window, touched, events=int(events[of & in_time].sum()), late=int(events[of & ~in_time].sum()))

    def _add_users(self, partial: PartialTotals, rows: Ints, additions: Additions) -> None:
        users, stragglers = partial.minute_users, partial.window_users
        in_time = self._in_time("minute", users.periods)
        if in_time.any():
            additions.minute_users.append((users.periods[in_time], rows[users.contents[in_time]], users.users[in_time]))
        for windows, contents, numbers in (
            (users.periods[~in_time] // self._window_minutes, users.contents[~in_time], users.users[~in_time]),
            (stragglers.periods, stragglers.contents, stragglers.users),
        ):
            in_time = self._in_time("window", windows)
            if in_time.any():
                additions.window_users.append((windows[in_time], rows[contents[in_time]], numbers[in_time]))

    def _counted(self, minute: int, rows: Ints) -> Ints:
        """Events of these content rows in a minute that is open; 0 where none is counted, or the minute is closed."""
        period = self._periods.get(("minute", minute))
        return np.zeros(len(rows), dtype=np.int64) if period is None else period.events_of(rows)

    def _count(self, window: int, touched: _Touched, *, events: int = 0, late: int = 0) -> None:
        before = self._windows.get(window, (0, 0))
        self._windows[window] = (before[0] + events, before[1] + late)
        self.counters["late"] += late
        touched.windows.add(window)

    def _merge(self, kind: Kind, partial: Sums, rows: Ints, touched: _Touched) -> Any:
        """Add the sums of the periods still open; which of the partial's rows those were: bool [n]."""
        open_rows = self._in_time(kind, partial.periods)
        for number in np.unique(partial.periods[open_rows]).tolist():
            chosen = np.flatnonzero((partial.periods == number) & open_rows)
            content_rows = rows[partial.contents[chosen]]
            self._period((kind, number)).add(content_rows, partial.sums[chosen])
            touched.periods.setdefault((kind, number), []).append(content_rows)
        return open_rows

    def _period_updates(self, touched: _Touched) -> list[PeriodUpdate]:
        updates: dict[tuple[Kind, int], PeriodUpdate] = {}
        for key, changed in touched.periods.items():
            if not self._readable(*key):
                continue
            period = self._periods[key]
            rows = np.unique(np.concatenate(changed)) if len(changed) > 1 else changed[0]
            values = period.values(rows)
            scores = values[:, SCORE]
            high = np.flatnonzero(scores >= period.floor())
            best = zip(scores[high].tolist(), rows[high].tolist(), strict=True)
            updates[key] = PeriodUpdate(
                kind=key[0],
                start_s=self._start_s(*key),
                members=[self._contents.ids[row] for row in rows.tolist()],
                values=values.astype("<i8", copy=False).tobytes(),
                listed=[(score, self._contents.ids[row]) for score, row in best],
                events=period.events,
                late=0,
            )
        for number in touched.windows:
            if self._readable("window", number):
                start_s = self._start_s("window", number)
                updates.setdefault(("window", number), PeriodUpdate("window", start_s, [], b"", [], 0, 0))
        for (kind, number), update in updates.items():
            if kind == "window":
                update.events, update.late = self._windows[number]
        return list(updates.values())

    def _evict(self) -> None:
        """Forget what is closed, what nobody can read, and content ids without a total."""
        for key in [key for key in self._periods if not (self._open(*key) and self._readable(*key))]:
            del self._periods[key]
        for number in [number for number in self._windows if not self._readable("window", number)]:
            del self._windows[number]
        if len(self._contents) > self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Number the content ids anew, without those that are in no period any more."""
        live = np.zeros(len(self._contents), dtype=bool)
        for period in self._periods.values():
            live[period.rows[: period.lines]] = True
        renumbered = np.cumsum(live) - 1
        self._contents = self._contents.only(live)
        for key, old in self._periods.items():
            period = Period(max(16, len(self._contents)))
            period.add(renumbered[old.rows[: old.lines]], old.totals[: old.lines])
            self._periods[key] = period
        self._compact_at = COMPACT_FROM + 2 * len(self._contents)

    def _period(self, key: tuple[Kind, int]) -> Period:
        period = self._periods.get(key)
        if period is None:
            period = self._periods[key] = Period()
        return period

    def _length_us(self, kind: Kind) -> int:
        return MINUTE_US if kind == "minute" else MINUTE_US * self._window_minutes

    def _start_s(self, kind: Kind, number: int) -> int:
        return number * self._length_us(kind) // 1_000_000

    def _open(self, kind: Kind, number: int) -> bool:
        return (number + 1) * self._length_us(kind) + self._lateness_us > self.watermark_us

    def _in_time(self, kind: Kind, numbers: Ints) -> npt.NDArray[np.bool_]:
        """Which of these periods are open."""
        in_time: npt.NDArray[np.bool_] = (numbers + 1) * self._length_us(kind) + self._lateness_us > self.watermark_us
        return in_time

    def _readable(self, kind: Kind, number: int) -> bool:
        """A minute as long as its window, of which it is a part."""
        window = number // self._window_minutes if kind == "minute" else number
        return (window + 1) * self._length_us("window") >= (self.newest_ms - READABLE_MS) * 1000


def stored_periods(
    watermark_us: int, newest_ms: int, *, window_minutes: int, lateness_seconds: int
) -> list[tuple[Kind, int]]:
    """(kind, start_s) of every bucket that `PartitionTotals.load` needs: open, or a window with a late count."""
    newest_us = (newest_ms + AHEAD_MS) * 1000
    window_us = MINUTE_US * window_minutes
    readable_us = ((newest_ms - READABLE_MS) * 1000 // window_us - 1) * window_us  # whole windows
    open_us = max(readable_us, watermark_us - lateness_seconds * 1_000_000)
    kinds: tuple[tuple[Kind, int, int], ...] = (("minute", MINUTE_US, open_us), ("window", window_us, readable_us))
    return [
        (kind, number * length_us // 1_000_000)
        for kind, length_us, from_us in kinds
        for number in range(from_us // length_us, newest_us // length_us + 1)
    ]
