"""What one micro-batch adds to the totals of its Kafka partition: sums, users and recent events by content id.

An event counts in its minute. A straggler, too late for its minute but not for its window, counts in the window's own
bucket: the totals of a window are those of its minutes and of its stragglers.
Computed before the exchange to the keyed step, where only the batch is known; engagement/totals_state.py adds it up.
Everything is an integer: milliseconds, hundredths of a percent, thousandths of score, so a replay is bit-equal.
"""

from dataclasses import dataclass
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from engagement.content_rows import BatchContents
from engagement.enrich import Contents, EnrichedEvents, score_thousandths
from engagement.recent import RECENT_MAX, RECENT_MS, EncodedEvents, encoded

T = TypeVar("T")
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

MINUTE_S = 60
MINUTE_US = 60_000_000
NEVER = -(2**62)  # a watermark before every event


@dataclass(slots=True)
class Sums:
    """Sums by (period, content), one row each: periods and contents int64 [n], sums int64 [n, 9] (MEASURES).

    periods   number of the minute or window since 1970
    contents  index into the batch's contents
    """

    periods: Ints
    contents: Ints
    sums: Ints


@dataclass(slots=True)
class Users:
    """A row per event with a user: periods and contents as in Sums, users int64 [n], see `user_numbers`."""

    periods: Ints
    contents: Ints
    users: Ints


@dataclass(slots=True)
class Recent:
    """Events to show, one row each: minutes and contents as in Sums, event_ts_us int64 [n], the events in step."""

    minutes: Ints
    contents: Ints
    event_ts_us: Ints
    events: EncodedEvents


@dataclass(slots=True)
class PartialTotals:
    """What a batch adds. Plain values and arrays only: a Bytewax cluster pickles it on its way to the state.

    What is late and what straggles is said here by the batch's own watermark. The rest of a (period, content) stands or
    falls as a whole with the watermark before the batch, which only the state knows.
    """

    span: Any  # the batch's span: partition, owner, offset_from, offset_next
    batch_contents: BatchContents
    minutes: Sums
    windows: Sums  # of stragglers; mostly empty
    minute_users: Users
    window_users: Users  # likewise
    late: dict[int, int]  # window -> events too late for it
    recent: Recent
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
    listed = enriched.content_rows[taken] != Contents.NONE
    taken, event_ts, before = taken[listed], event_ts[listed], before[listed]
    contents, content = _contents(enriched, taken)
    minute = event_ts // MINUTE_US
    window = minute // window_minutes
    lateness_us = lateness_seconds * 1_000_000
    in_minute = before < (minute + 1) * MINUTE_US + lateness_us
    in_window = before < (window + 1) * (window_minutes * MINUTE_US) + lateness_us
    straggles = in_window & ~in_minute
    measures = _measures(enriched, taken)
    users = user_numbers([event.user_id for event in _of(enriched.events, taken)])
    somebody = users >= 0
    fresh = np.flatnonzero(event_ts > (newest_ms - RECENT_MS) * 1000)
    newest = fresh[_newest(content[fresh], event_ts[fresh], enriched.offsets[taken[fresh]])]
    late, counts = np.unique(window[~in_window], return_counts=True)
    return PartialTotals(
        span=enriched.span,
        batch_contents=contents,
        minutes=summed(minute, content, measures, in_minute),
        windows=summed(window, content, measures, straggles),
        minute_users=_users(minute, content, users, in_minute & somebody),
        window_users=_users(window, content, users, straggles & somebody),
        late=dict(zip(late.tolist(), counts.tolist(), strict=True)),
        recent=Recent(minute[newest], content[newest], event_ts[newest], encoded(enriched, taken[newest])),
        contents=enriched.contents.stored(enriched.contents_changed),
        watermark_us=int(running[-1]) if len(running) else NEVER,
        newest_ms=newest_ms,
        events=len(running),
        rejected=len(enriched.rejected),
        skipped=enriched.skipped,
    )


def user_numbers(user_ids: list[str | None]) -> Ints:
    """A number below 2^32 for each user id, the same in every process; -1 for null.

    CRC-32: of the users of one content in a minute two share a number less than once in a million where they are
    counted exactly, and a hundredth of the HyperLogLog's own error where they are estimated."""
    if None in user_ids:
        return np.array([-1 if user_id is None else crc32(user_id.encode()) for user_id in user_ids], dtype=np.int64)
    return np.fromiter(map(crc32, map(str.encode, user_ids)), np.int64, len(user_ids))  # type: ignore[arg-type]


def _of(values: list[T], chosen: Ints) -> list[T]:
    """The chosen ones; mostly all are."""
    return values if len(chosen) == len(values) else [values[i] for i in chosen.tolist()]


def _taken(enriched: EnrichedEvents) -> Ints:
    """Indexes of the events that no header addresses to another sink."""
    if enriched.targets is None:
        return np.arange(len(enriched.events), dtype=np.int64)
    return np.flatnonzero([target in (None, "redis") for target in enriched.targets])


def _contents(enriched: EnrichedEvents, chosen: Ints) -> tuple[BatchContents, Ints]:
    """Distinct contents of the chosen events, and for each event the index of its own.

    By row number, not by id: a fifth of the time. Only contents that nobody knows have no row."""
    distinct, index = np.unique(enriched.content_rows[chosen], return_inverse=True)
    first = int(len(distinct) > 0 and distinct[0] == Contents.UNKNOWN)
    known = distinct[first:]
    index -= first
    unknown: dict[str | None, int] = {}
    for place in np.flatnonzero(index < 0).tolist():
        content_id = enriched.events[chosen[place]].content_id
        index[place] = unknown.setdefault(content_id, len(known) + len(unknown))
    ids = [content_id for content_id in unknown if content_id is not None]
    return BatchContents(ids, known, enriched.contents.rows), index


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


def summed(periods: Ints, contents: Ints, measures: Ints, chosen: npt.NDArray[np.bool_]) -> Sums:
    """The sums of the chosen rows by (period, content)."""
    if not chosen.all():
        periods, contents, measures = periods[chosen], contents[chosen], measures[chosen]
    if not len(periods):
        return Sums(periods, contents, measures)
    earliest, width = int(periods.min()), int(contents.max()) + 1
    key = (periods - earliest) * width + contents
    # 16 bits are sorted by radix; a batch of 2,000 events in a few minutes fits.
    order = np.argsort(key.astype(np.int16) if key.max() < 2**15 else key, kind="stable")
    ordered = key[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    unique = ordered[first]
    sums = np.add.reduceat(measures.take(order, axis=0), first, axis=0)
    return Sums(unique // width + earliest, unique % width, sums)


def _users(periods: Ints, contents: Ints, users: Ints, chosen: npt.NDArray[np.bool_]) -> Users:
    return Users(periods[chosen], contents[chosen], users[chosen])


def _newest(contents: Ints, event_ts: Ints, offsets: Ints) -> Ints:
    """Indexes of the newest RECENT_MAX events per content, by event_ts, then offset; those of one content rising."""
    crowded = np.bincount(contents)[contents] > RECENT_MAX if len(contents) else np.empty(0, dtype=bool)
    if not crowded.any():
        return np.arange(len(contents), dtype=np.int64)
    many = np.flatnonzero(crowded)  # only these need to be sorted
    order = many[np.lexsort((offsets[many], event_ts[many], contents[many]))]
    ordered = contents[order]
    # How many events of the same content follow: below RECENT_MAX, the event is kept.
    following = np.searchsorted(ordered, ordered, side="right") - np.arange(len(ordered)) - 1
    return np.concatenate([np.flatnonzero(~crowded), order[following < RECENT_MAX]])
