"""Users and recent events of one Update, gathered over its batches as arrays and grouped once.

Most contents have few events in a minute: those share strings (engagement/shards.py), so that a write has a few
hundred values for all of them. A content with many has keys of its own, which bound what is kept and read of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engagement.content_rows import EVENT_SHARDS, SHARD_NAMES, USER_SHARDS, ContentRows, Tags
from engagement.recent import RECENT_MAX, EncodedEvents, together
from engagement.shards import event_records, user_records
from engagement.totals import MINUTE_S, Ints
from engagement.totals_update import Addition, Kind, Update

# Of a content with more events than this in a minute, users are estimated and recent events cut to the newest.
CROWDED = 128

Counted = Callable[[int, Ints], Ints]
Readable = Callable[[Kind, int], bool]
Columns = tuple[Ints, Ints, Ints]


@dataclass(slots=True)
class Additions:
    """What the batches bring, columns in step, a row per event.

    minute_users  (minute, content row, user number) of events in open minutes
    window_users  (window, content row, user number) of stragglers, in open windows
    recent        (minute, content row, event_ts_us), and those events
    """

    minute_users: list[Columns] = field(default_factory=list)
    window_users: list[Columns] = field(default_factory=list)
    recent: list[Columns] = field(default_factory=list)
    events: list[EncodedEvents] = field(default_factory=list)

    def into(
        self, update: Update, contents: ContentRows, window_minutes: int, counted: Counted, readable: Readable
    ) -> None:
        """Put into the update what somebody can read.

        counted   (minute, content rows) -> the events counted there by now, 0 where none is counted any more
        readable  whether a minute or window is shown to anybody
        """
        for minute, (rows, users) in _by_period(self.minute_users):
            if readable("minute", minute):
                _users(update, contents, minute * MINUTE_S, rows, users, counted(minute, rows))
                update.everybody.append(("minute", minute * MINUTE_S, _joined(users)))
        for window, (rows, users) in _by_period(self.window_users):
            if readable("window", window):
                start_s = window * window_minutes * MINUTE_S
                update.crowded_users += _crowded_users("window", start_s, contents, rows, users)
                update.everybody.append(("window", start_s, _joined(users)))
        self._events(update, contents, counted)

    def _events(self, update: Update, contents: ContentRows, counted: Counted) -> None:
        minutes, rows, times = (np.concatenate(columns) for columns in zip(*self.recent, strict=True))
        events = together(self.events)
        places = np.arange(len(rows), dtype=np.int64)
        for minute, (chosen, of) in _by_period([(minutes, places, rows)]):
            few = _few(counted(minute, of))
            start_s = minute * MINUTE_S
            tags = contents.tags(of[few])
            order, shards = _by_shard(tags, EVENT_SHARDS)
            parts = event_records(tags[order], events, chosen[few][order])
            values = [b"".join(parts[2 * start : 2 * end]) for start, end in shards.edges()]
            update.added.append(Addition("recent", start_s, shards.names(), values))
            for row, newest in _newest(of[~few], chosen[~few], times):
                shown = [(int(times[i]), events.bytes_of(i)) for i in newest.tolist()]
                update.crowded_recent.append((start_s, contents.ids[row], shown))


@dataclass(slots=True)
class Runs:
    """Runs of the same number in a sorted column: numbers [n], each from `starts` to `ends`."""

    numbers: Ints
    starts: Ints
    ends: Ints

    @classmethod
    def of(cls, ordered: Ints) -> "Runs":
        if not len(ordered):
            return cls(ordered, ordered, ordered)
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        return cls(ordered[starts], starts, np.append(starts[1:], len(ordered)))

    def edges(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts.tolist(), self.ends.tolist(), strict=True)

    def names(self) -> list[str]:
        """Of shards."""
        return [SHARD_NAMES[number] for number in self.numbers.tolist()]


def _users(update: Update, contents: ContentRows, start_s: int, rows: Ints, users: Ints, events: Ints) -> None:
    """Who is there twice is stored twice: readers look for the distinct ones anyhow, and few are."""
    few = _few(events)
    tags = contents.tags(rows[few])
    order, shards = _by_shard(tags, USER_SHARDS)
    records = user_records(tags[order], users[few][order])
    raw, size = records.tobytes(), records.itemsize
    values = [raw[size * start : size * end] for start, end in shards.edges()]
    update.added.append(Addition("users", start_s, shards.names(), values))
    if not few.all():
        update.crowded_users += _crowded_users("minute", start_s, contents, rows[~few], users[~few])


def _crowded_users(
    kind: Kind, start_s: int, contents: ContentRows, rows: Ints, numbers: Ints
) -> Iterator[tuple[Kind, int, str, list[bytes]]]:
    order = np.argsort(rows, kind="stable")
    runs = Runs.of(rows[order])
    told = numbers[order].astype("<u4").view("V4").tolist()
    for row, (start, end) in zip(runs.numbers.tolist(), runs.edges(), strict=True):
        yield kind, start_s, contents.ids[row], told[start:end]


def _newest(rows: Ints, places: Ints, times: Ints) -> Iterator[tuple[int, Ints]]:
    """Of each content row the places of its newest events, RECENT_MAX at most, by event time, then offset."""
    order = np.lexsort((times[places], rows))  # stable, and places rise with the offset
    runs = Runs.of(rows[order])
    for row, (start, end) in zip(runs.numbers.tolist(), runs.edges(), strict=True):
        yield row, places[order[max(start, end - RECENT_MAX) : end]]


def _joined(numbers: Ints) -> bytes:
    """Four bytes each."""
    return numbers.astype("<u4").tobytes()


def _by_period(parts: list[Columns]) -> Iterator[tuple[int, tuple[Ints, Ints]]]:
    """Each period of the first columns, and what stands beside it in the others."""
    if not parts:
        return
    periods, first, second = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    if not len(periods):
        return
    if (periods == periods[0]).all():  # the rule where batches are small
        yield int(periods[0]), (first, second)
        return
    for period in np.unique(periods).tolist():
        chosen = periods == period
        yield period, (first[chosen], second[chosen])


def _by_shard(tags: Tags, count: int) -> tuple[Ints, Runs]:
    """The order in which the tags lie shard by shard, and the runs of the shards in it."""
    shards = (tags % np.uint64(count)).astype(np.int16)  # sorted by radix
    order = np.argsort(shards, kind="stable")
    return order, Runs.of(shards[order].astype(np.int64))


def _few(events: Ints) -> npt.NDArray[np.bool_]:
    few: npt.NDArray[np.bool_] = (events > 0) & (events <= CROWDED)
    return few
