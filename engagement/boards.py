"""What readers make of the stored totals: spans, order, the numbers of a row. `now` is an argument, in microseconds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import nlargest
from typing import Any, Literal

import numpy as np

from engagement.enrich import ANOMALY_NAMES
from engagement.recent import RecentEvent
from engagement.totals import EVENTS, MEASURES, SCORE, TYPES, WIDTH, Ints

ROLLING_MINUTES = 10
MINUTE_S = 60
# A past window, and minutes of a content, are kept this long.
KEPT_S = 3600
# Stored rows that are held while they are summed up: 20 MB.
HELD_MAX = 100_000

State = Literal["filling", "late_accepted", "closed"]
_COLUMN = {name: column for column, name in enumerate(MEASURES)}


@dataclass(frozen=True, slots=True)
class BoardSpan:
    """What a board covers: [start_s, end_s).

    buckets  (kind, start_s), whose totals are to be added up and whose users to be united: the minutes, then of a
             window its stragglers
    minutes  start_s of each minute of the span
    """

    window: str
    start_s: int
    end_s: int
    buckets: tuple[tuple[str, int], ...]
    minutes: tuple[int, ...]


def rolling(now_us: int) -> BoardSpan:
    """The current minute and the nine before it, whatever the length of the windows."""
    last = now_us // 1_000_000 // MINUTE_S * MINUTE_S
    minutes = _minutes(last - (ROLLING_MINUTES - 1) * MINUTE_S, ROLLING_MINUTES)
    buckets = tuple(("minute", start_s) for start_s in minutes)
    return BoardSpan("rolling", minutes[0], last + MINUTE_S, buckets, minutes)


def tumbling(now_us: int, window_minutes: int) -> BoardSpan:
    """The window that contains now."""
    return window_at(now_us // 1_000_000, window_minutes)


def window_at(time_s: int, window_minutes: int) -> BoardSpan:
    """The tumbling window that contains this time."""
    length_s = window_minutes * MINUTE_S
    start_s = time_s // length_s * length_s
    minutes = _minutes(start_s, window_minutes)
    buckets = (*(("minute", minute) for minute in minutes), ("window", start_s))
    return BoardSpan("tumbling", start_s, start_s + length_s, buckets, minutes)


def last_minutes(now_us: int, count: int) -> tuple[int, ...]:
    """start_s of the current minute and those before it, `count` in all, oldest first."""
    last = now_us // 1_000_000 // MINUTE_S * MINUTE_S
    return _minutes(last - (count - 1) * MINUTE_S, count)


def window_state(end_s: int, now_us: int, watermarks_us: Iterable[int], lateness_seconds: int) -> State:
    """filling: not over yet; late_accepted: some partition would still count an event for it; closed: none would."""
    if now_us < end_s * 1_000_000:
        return "filling"
    closes_us = (end_s + lateness_seconds) * 1_000_000
    return "closed" if all(watermark_us >= closes_us for watermark_us in watermarks_us) else "late_accepted"


def ranked(totals: Mapping[str, Ints]) -> list[str]:
    """Content ids in the order of the board: score, then events, both descending, then content id."""
    return sorted(totals, key=lambda content_id: (-totals[content_id][SCORE], -totals[content_id][EVENTS], content_id))


def contenders(
    lists: Sequence[Sequence[tuple[bytes, float]]], depth: int, places: int
) -> tuple[set[bytes], int | None]:
    """Who may be among the first `places`, and what anybody else may have at most; None: there is nobody else.

    lists  of each bucket the entries with the highest scores, descending; one of `depth` entries may have left some out

    An entry has at least what it is listed with, and at most that and the lowest listed score of each list that may
    have left it out. Of two thousand few survive, and only those are read whole."""
    least: dict[bytes, int] = {}
    listed_cuts: dict[bytes, int] = {}
    rest = 0  # what an entry that no list has may have at most
    for entries in lists:
        cut = int(entries[-1][1]) if len(entries) == depth else 0
        rest += cut
        for entry, score in entries:
            least[entry] = least.get(entry, 0) + int(score)
            listed_cuts[entry] = listed_cuts.get(entry, 0) + cut
    border = nlargest(places, least.values())[-1] if len(least) > places else 0
    kept, bound = set(), rest
    for entry, score in least.items():
        most = score + rest - listed_cuts[entry]
        if most >= border:
            kept.add(entry)
        else:
            bound = max(bound, most)
    return kept, bound or None


def added(rows: Iterable[tuple[Sequence[str], Sequence[bytes | None]]]) -> dict[str, Ints]:
    """Sum stored rows by content id: per bucket the ids, and aligned with them the stored bytes or None."""
    index: dict[str, int] = {}
    places: list[int] = []
    found: list[bytes] = []
    sums = np.zeros((0, WIDTH), dtype=np.int64)

    def summed() -> Ints:
        larger = np.zeros((len(index), WIDTH), dtype=np.int64)
        larger[: len(sums)] = sums
        np.add.at(larger, places, np.frombuffer(b"".join(found), dtype="<i8").reshape(-1, WIDTH))
        places.clear()
        found.clear()
        return larger

    for content_ids, values in rows:
        for content_id, value in zip(content_ids, values, strict=True):
            if value is not None:
                places.append(index.setdefault(content_id, len(index)))
                found.append(value)
        if len(found) > HELD_MAX:
            sums = summed()
    sums = summed()
    return {content_id: sums[row] for content_id, row in index.items()}


def events_of(value: bytes | None) -> int:
    """The number of events in a stored row."""
    return 0 if value is None else int.from_bytes(value[EVENTS * 8 : EVENTS * 8 + 8], "little")


def numbers(total: Ints | None, unique_users: int) -> dict[str, Any]:
    """The numbers of a row; zeros without a total.

    score               points, up to three decimals
    engagement_seconds  up to three decimals
    mean_percentage     of the events that have one: two decimals, half up; null without any
    """
    total = np.zeros(WIDTH, dtype=np.int64) if total is None else total
    percentages, count = int(total[_COLUMN["percentage_sum"]]), int(total[_COLUMN["percentage_count"]])
    return {
        "score": _thousandths(int(total[SCORE])),
        "events": int(total[EVENTS]),
        "unique_users": unique_users,
        "engagement_seconds": _thousandths(int(total[_COLUMN["engagement_ms"]])),
        "mean_percentage": (2 * percentages + count) // (2 * count) / 100 if count else None,
    }


def types(total: Ints | None) -> dict[str, int]:
    """Events by type."""
    return {name: 0 if total is None else int(total[_COLUMN[name]]) for name in TYPES}


def without_percentage(total: Ints | None) -> int:
    """Events that say nothing about how far people get: a click, no duration, or a content without length."""
    return 0 if total is None else int(total[EVENTS]) - int(total[_COLUMN["percentage_count"]])


def content_numbers(
    spans: Sequence[BoardSpan], hour: Sequence[int], users: Sequence[int], held: Mapping[tuple[str, int], list[bytes]]
) -> dict[str, Any]:
    """The numbers of one content on each board, and its events in each minute of the last hour.

    users  of each span;  held  the rows that are stored of it, by bucket"""
    answer: dict[str, Any] = {}
    for span, unique_users in zip(spans, users, strict=True):
        total = _sum(value for bucket in span.buckets for value in held.get(bucket, ()))
        answer[span.window] = {
            "start": iso(span.start_s * 1_000_000),
            "end": iso(span.end_s * 1_000_000),
            **numbers(total, unique_users),
            "types": types(total),
        }
        if span.window == "rolling":
            answer["no_pct"] = without_percentage(total)
    answer["first_minute"] = iso(hour[0] * 1_000_000)
    answer["minutes"] = [sum(map(events_of, held.get(("minute", minute), ()))) for minute in hour]
    return answer


def recent_event(event: RecentEvent) -> dict[str, Any]:
    """A recent event as readers see it."""
    return {
        "event_id": event.event_id,
        "event_type": TYPES[event.type],
        "event_ts": iso(event.event_ts_us),
        "duration_ms": event.duration_ms,
        "engagement_seconds": None if event.duration_ms is None else _thousandths(event.duration_ms),
        "engagement_percentage": None if event.percentage is None else event.percentage / 100,
        "device": event.device,
        "anomalies": list(ANOMALY_NAMES[event.anomalies]),
    }


def iso(time_us: int) -> str:
    """ISO 8601 in UTC; six digits of a second, none where all are zero."""
    return (
        datetime.fromtimestamp(time_us // 1_000_000, UTC)
        .replace(microsecond=time_us % 1_000_000)
        .strftime("%Y-%m-%dT%H:%M:%S.%fZ" if time_us % 1_000_000 else "%Y-%m-%dT%H:%M:%SZ")
    )


def _sum(rows: Iterable[bytes]) -> Ints | None:
    """Stored rows of one content, summed up; None without any."""
    held = b"".join(rows)
    return np.frombuffer(held, dtype="<i8").reshape(-1, WIDTH).sum(axis=0) if held else None


def _minutes(start_s: int, count: int) -> tuple[int, ...]:
    return tuple(start_s + number * MINUTE_S for number in range(count))


def _thousandths(value: int) -> int | float:
    return value // 1000 if value % 1000 == 0 else value / 1000
