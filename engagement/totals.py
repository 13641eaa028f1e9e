"""What one micro-batch adds to the totals of its Kafka partition: sums, user ids and recent events by content id.

Computed before the exchange to the keyed step, where only the batch is known; engagement/totals_state.py adds it up.
Everything is an integer: milliseconds, hundredths of a percent, thousandths of score, so a replay is bit-equal.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engagement.enrich import EnrichedEvents, score_thousandths

Ints = npt.NDArray[np.int64]

TYPES = ("play", "pause", "finish", "click")
# The nine numbers of a content in a minute or a window, in the order in which they are stored.
MEASURES = (
    "events",
    *TYPES,
    "engagement_ms",
    "percentage_sum",
    "percentage_count",
    "score",
)
EVENTS, SCORE, WIDTH = 0, 8, len(MEASURES)

MINUTE_US = 60_000_000
RECENT_MAX = 50
RECENT_MS = 3_600_000
NEVER = -(2**62)  # a watermark before every event


class RecentEvent(msgspec.Struct, array_like=True, frozen=True):
    """A recent event as stored, behind its offset; its event_ts is the entry's score. No user: boards are open."""

    event_id: str
    event_type: str
    duration_ms: int | None
    percentage: int | None  # hundredths of a percent
    device: str | None
    anomalies: list[str]


@dataclass(slots=True)
class Sums:
    """Sums by (period, content), one row each: periods and contents int64 [n], sums int64 [n, 9] (MEASURES).

    periods   number of the minute or window since 1970
    contents  index into `content_ids` of the batch
    """

    periods: Ints
    contents: Ints
    sums: Ints


@dataclass(slots=True)
class PartialTotals:
    """What a batch adds. Plain values and arrays only: a Bytewax cluster pickles it on its way to the state.

    An event late by the batch's own watermark is left out here; the rest of a (period, content) stands or falls as a
    whole with the watermark before the batch, which only the state knows.
    """

    span: Any  # the batch's span: partition, owner, offset_from, offset_next
    content_ids: list[str]
    minutes: Sums
    windows: Sums
    minute_users: list[list[str]]  # aligned with the rows of `minutes`
    late_users: list[tuple[int, int, list[str]]]  # (window, content, users): late for their minute, not their window
    late: dict[int, int]  # window -> events too late for it
    recent: list[tuple[int, int, bytes]]  # (content, event_ts_us, offset and RecentEvent)
    contents: list[tuple[str, bytes]]  # (id, JSON) of contents that the reader does not know yet
    watermark_us: int  # largest min(event_ts, Kafka timestamp) of the batch; NEVER without events
    newest_ms: int  # largest Kafka timestamp of the batch, rejected records included; -1 without records
    events: int
    rejected: int
    skipped: int


def partial_totals(enriched: EnrichedEvents, *, window_minutes: int, lateness_seconds: int) -> PartialTotals:
    """Sum one batch up.

    Events that a header addresses to another sink are passed over. Events without content id are on no board: they
    count in `events` and move the watermark, and are in no totals, hence never late. Contents that PostgreSQL does not
    know are counted; readers show them once they are known.
    """
    taken = _taken(enriched)
    event_ts = enriched.event_ts_us[taken]
    clock = np.minimum(event_ts, enriched.timestamps_ms[taken] * 1000)
    running = np.maximum.accumulate(clock)
    before = np.concatenate(([NEVER], running[:-1])) if len(clock) else clock
    newest_ms = max(
        int(enriched.timestamps_ms.max()) if len(enriched.timestamps_ms) else -1,
        max((rejected.timestamp_ms for rejected in enriched.rejected), default=-1),
    )
    index: dict[str, int] = {}
    events = enriched.events
    content = np.array(
        [
            -1 if (content_id := events[i].content_id) is None else index.setdefault(content_id, len(index))
            for i in taken.tolist()
        ],
        dtype=np.int64,
    )
    listed = content >= 0
    taken, event_ts, before, content = taken[listed], event_ts[listed], before[listed], content[listed]
    minute = event_ts // MINUTE_US
    window = minute // window_minutes
    lateness_us = lateness_seconds * 1_000_000
    in_minute = before < (minute + 1) * MINUTE_US + lateness_us
    in_window = before < (window + 1) * (window_minutes * MINUTE_US) + lateness_us
    measures = _measures(enriched, taken)
    minutes, group = _group(minute[in_minute], content[in_minute], measures[in_minute])
    windows, _ = _group(window[in_window], content[in_window], measures[in_window])
    users = [events[i].user_id for i in taken.tolist()]
    only_window = np.flatnonzero(in_window & ~in_minute)
    late, counts = np.unique(window[~in_window], return_counts=True)
    return PartialTotals(
        span=enriched.span,
        content_ids=list(index),
        minutes=minutes,
        windows=windows,
        minute_users=_users_by_group(len(minutes.periods), group, np.flatnonzero(in_minute), users),
        late_users=_late_users(window[only_window], content[only_window], only_window, users),
        late=dict(zip(late.tolist(), counts.tolist(), strict=True)),
        recent=_recent(enriched, taken, content, event_ts, newest_ms),
        contents=enriched.contents.stored(enriched.contents_changed),
        watermark_us=int(running[-1]) if len(running) else NEVER,
        newest_ms=newest_ms,
        events=len(running),
        rejected=len(enriched.rejected),
        skipped=enriched.skipped,
    )


def _taken(enriched: EnrichedEvents) -> Ints:
    """Indexes of the events that no header addresses to another sink."""
    if enriched.targets is None:
        return np.arange(len(enriched.events), dtype=np.int64)
    return np.flatnonzero([target in (None, "redis") for target in enriched.targets])


def _measures(enriched: EnrichedEvents, taken: Ints) -> Ints:
    """int64 [len(taken), 9], one row per event."""
    types, percentages = enriched.types[taken], enriched.percentages[taken]
    rows = np.zeros((len(taken), WIDTH), dtype=np.int64)
    rows[:, EVENTS] = 1
    rows[np.arange(len(taken)), 1 + types] = 1
    rows[:, 5] = np.maximum(enriched.duration_ms[taken], 0)
    rows[:, 6] = np.maximum(percentages, 0)
    rows[:, 7] = percentages >= 0
    rows[:, SCORE] = score_thousandths(types, percentages)
    return rows


def _group(periods: Ints, contents: Ints, measures: Ints) -> tuple[Sums, Ints]:
    """Sum by (period, content); also the row of each event among the sums."""
    if not len(periods):
        empty = np.empty(0, dtype=np.int64)
        return Sums(empty, empty, np.empty((0, WIDTH), dtype=np.int64)), empty
    key = (periods << 32) + contents
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    first = np.flatnonzero(starts)
    group = np.empty(len(key), dtype=np.int64)
    group[order] = np.cumsum(starts) - 1
    unique = ordered[first]
    return Sums(unique >> 32, unique & 0xFFFFFFFF, np.add.reduceat(measures[order], first, axis=0)), group


def _users_by_group(groups: int, group: Ints, positions: Ints, users: list[str | None]) -> list[list[str]]:
    collected: list[list[str]] = [[] for _ in range(groups)]
    for row, position in zip(group.tolist(), positions.tolist(), strict=True):
        if (user := users[position]) is not None:
            collected[row].append(user)
    return collected


def _late_users(
    windows: Ints, contents: Ints, positions: Ints, users: list[str | None]
) -> list[tuple[int, int, list[str]]]:
    collected: dict[tuple[int, int], list[str]] = {}
    for window, content, position in zip(windows.tolist(), contents.tolist(), positions.tolist(), strict=True):
        if (user := users[position]) is not None:
            collected.setdefault((window, content), []).append(user)
    return [(window, content, found) for (window, content), found in collected.items()]


def _recent(
    enriched: EnrichedEvents, taken: Ints, content: Ints, event_ts: Ints, newest_ms: int
) -> list[tuple[int, int, bytes]]:
    """The newest RECENT_MAX events per content, by event_ts, then offset; none that no reader would show any more."""
    fresh = np.flatnonzero(event_ts > (newest_ms - RECENT_MS) * 1000)
    taken, content, event_ts = taken[fresh], content[fresh], event_ts[fresh]
    offsets = enriched.offsets[taken]
    order = np.lexsort((offsets, event_ts, content))
    ordered = content[order]
    # How many events of the same content follow: below RECENT_MAX, the event is kept.
    following = np.searchsorted(ordered, ordered, side="right") - np.arange(len(ordered)) - 1
    kept = order[following < RECENT_MAX]
    encode = msgspec.json.encode
    return [
        (index, ts, b"%020d" % offset + encode(_recent_event(enriched, i)))
        for index, ts, offset, i in zip(
            content[kept].tolist(), event_ts[kept].tolist(), offsets[kept].tolist(), taken[kept].tolist(), strict=True
        )
    ]


def _recent_event(enriched: EnrichedEvents, i: int) -> RecentEvent:
    event = enriched.events[i]
    percentage = int(enriched.percentages[i])
    return RecentEvent(
        event_id=enriched.event_ids[i],
        event_type=event.event_type,
        duration_ms=event.duration_ms,
        percentage=None if percentage < 0 else percentage,
        device=event.device,
        anomalies=enriched.anomalies(i),
    )
