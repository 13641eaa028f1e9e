"""Users and recent events of one Update, gathered over its batches as arrays and grouped once.

Most contents have few events in a minute: those are stored together, a field per content, so that a write needs two
commands for all of them. A content with many has keys of its own, which bound what is kept and what is written again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engagement.totals import MINUTE_S, Ints
from engagement.totals_update import Addition, Kind, Update

# Of a content with more events than this in a minute, users are estimated and recent events cut to the newest.
CROWDED = 128
NUMBER_BYTES = 4  # of a user

Counted = Callable[[int, Ints], Ints]
Readable = Callable[[Kind, int], bool]
Columns = tuple[Ints, Ints, Ints]


@dataclass(slots=True)
class Additions:
    """What the batches bring, columns in step, a row per event.

    minute_users  (minute, content row, user number) of events in open minutes
    window_users  (window, content row, user number) of events in closed minutes of open windows
    recent        (minute, content row, event_ts_us), and their entries
    """

    minute_users: list[Columns] = field(default_factory=list)
    window_users: list[Columns] = field(default_factory=list)
    recent: list[Columns] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)

    def into(
        self, update: Update, ids: Sequence[str], window_minutes: int, counted: Counted, readable: Readable
    ) -> None:
        """Put into the update what somebody can read.

        ids       content ids by row
        counted   (minute, content rows) -> the events counted there by now, 0 where none is counted any more
        readable  whether a minute or window is shown to anybody
        """
        if self.minute_users:
            self._users_of_minutes(update, ids, counted, readable)
        if self.window_users:
            self._users_of_windows(update, ids, window_minutes, readable)
        if self.entries:
            self._recent_events(update, ids, counted)

    def _users_of_minutes(self, update: Update, ids: Sequence[str], counted: Counted, readable: Readable) -> None:
        minutes, rows, users = _together(self.minute_users)
        for minute, chosen in _by_period(minutes):
            if not readable("minute", minute):
                continue
            raw, runs = _distinct(rows[chosen], users[chosen])
            few = _few(counted(minute, runs.rows))
            update.added.append(
                Addition(
                    "users",
                    minute * MINUTE_S,
                    [ids[row] for row in runs.rows[few].tolist()],
                    [raw[NUMBER_BYTES * start : NUMBER_BYTES * end] for start, end in runs.edges(few)],
                )
            )
            update.crowded_users += [
                ("minute", minute * MINUTE_S, ids[row], _numbers(raw, start, end))
                for row, (start, end) in zip(runs.rows[~few].tolist(), runs.edges(~few), strict=True)
            ]

    def _users_of_windows(self, update: Update, ids: Sequence[str], window_minutes: int, readable: Readable) -> None:
        windows, rows, users = _together(self.window_users)
        for window, chosen in _by_period(windows):
            if not readable("window", window):
                continue
            raw, runs = _distinct(rows[chosen], users[chosen])
            start_s = window * window_minutes * MINUTE_S
            update.crowded_users += [
                ("window", start_s, ids[row], _numbers(raw, start, end))
                for row, (start, end) in zip(runs.rows.tolist(), runs.edges(), strict=True)
            ]

    def _recent_events(self, update: Update, ids: Sequence[str], counted: Counted) -> None:
        minutes, rows, event_ts_us = _together(self.recent)
        entries, times = self.entries, event_ts_us.tolist()
        for minute, chosen in _by_period(minutes):
            order = chosen[np.argsort(rows[chosen], kind="stable")]
            runs = Runs.of(rows[order])
            few = _few(counted(minute, runs.rows))
            places = order.tolist()
            update.added.append(
                Addition(
                    "recent",
                    minute * MINUTE_S,
                    [ids[row] for row in runs.rows[few].tolist()],
                    [b"".join([entries[i] for i in places[start:end]]) for start, end in runs.edges(few)],
                )
            )
            update.crowded_recent += [
                (minute * MINUTE_S, ids[row], [(times[i], entries[i]) for i in places[start:end]])
                for row, (start, end) in zip(runs.rows[~few].tolist(), runs.edges(~few), strict=True)
            ]


@dataclass(slots=True)
class Runs:
    """Runs of the same content row in a sorted column: rows [n], each from `starts` to `ends`."""

    rows: Ints
    starts: Ints
    ends: Ints

    @classmethod
    def of(cls, ordered: Ints) -> "Runs":
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        return cls(ordered[starts], starts, np.append(starts[1:], len(ordered)))

    def edges(self, chosen: npt.NDArray[np.bool_] | slice = slice(None)) -> Iterator[tuple[int, int]]:
        return zip(self.starts[chosen].tolist(), self.ends[chosen].tolist(), strict=True)


def _together(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    first, second, third = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return first, second, third


def _by_period(periods: Ints) -> Iterator[tuple[int, Ints]]:
    """Each period, and the indexes of its events."""
    for period in np.unique(periods).tolist():
        yield period, np.flatnonzero(periods == period)


def _distinct(rows: Ints, users: Ints) -> tuple[bytes, Runs]:
    """The distinct user numbers of each row: joined, little-endian, and the runs of the rows among them."""
    pairs = np.unique((rows << 32) | users)
    return pairs.astype("<u4").tobytes(), Runs.of(pairs >> 32)


def _few(events: Ints) -> npt.NDArray[np.bool_]:
    few: npt.NDArray[np.bool_] = (events > 0) & (events <= CROWDED)
    return few


def _numbers(raw: bytes, start: int, end: int) -> list[bytes]:
    return [
        raw[place : place + NUMBER_BYTES] for place in range(NUMBER_BYTES * start, NUMBER_BYTES * end, NUMBER_BYTES)
    ]
