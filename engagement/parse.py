"""Bytes -> events or rejections, a micro-batch at a time: a function of each record alone.

No clock, no database and no neighbour in the batch has a say, so every deployment and every replay decides alike.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from engagement.events import (
    DECODE_ERRORS,
    NESTING_MAX,
    TYPE_CODES,
    Event,
    EventError,
    canonical_content_id,
    check_nesting,
    check_utf8,
    decode,
    decode_plain,
    wrong,
)
from engagement.times import microseconds, years_before

Integers = npt.NDArray[np.int64]
T = TypeVar("T")
Header = tuple[str, bytes | None]

AHEAD_MS_MAX: Final = 5 * 60 * 1000
BEHIND_YEARS_MAX: Final = 5
# No five calendar years are shorter; what is older is looked at by the calendar.
_BEHIND_US_AT_LEAST: Final = 1825 * 86_400_000_000

HEADER_FOR: Final = "for"
HEADER_EVENT_ID: Final = "event_id"
HEADER_KAFKA_TIMESTAMP: Final = "kafka_timestamp"
TARGETS: Final = ("bigquery", "partner")  # the destinations that refuse events one by one
_HEADERS: Final = {HEADER_FOR, HEADER_EVENT_ID, HEADER_KAFKA_TIMESTAMP}
_REPLAYED_ID_MAX: Final = 300  # kafka:<topic of up to 249 characters>-<partition>-<offset>
_TIMESTAMP_MS_MAX: Final = 253_402_300_799_999  # the end of the year 9999

# Stands where a record was refused or skipped until the columns are cut, so that no column asks about it.
_NO_EVENT: Final = Event(None, "play")


class Records(Protocol):
    """A micro-batch of one Kafka partition, in offset order, as the source hands it over."""

    span: Any
    offsets: Integers
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: Integers
    headers: list[list[Header] | None] | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is no event: its own bytes, a stable reason code and a sentence that says what to fix.

    timestamp_ms      Kafka timestamp; the original's where the record is a replayed dead letter
    target, event_id  the headers of a replayed dead letter, so that a second replay keeps them
    """

    offset: int
    key: bytes | None
    value: bytes | None
    reason: str
    detail: str
    timestamp_ms: int
    target: str | None = None
    event_id: str | None = None


@dataclass(slots=True)
class ParsedEvents:
    """The accepted events of one micro-batch, column by column, and what became of its other records.

    span           what the batch covers, passed through
    offsets, keys, values, timestamps_ms, events, content_ids, event_ids, event_ts_us, duration_ms, types, targets
                   one entry per accepted event, in offset order
    timestamps_ms  Kafka timestamp, milliseconds since 1970 (the original's for replayed dead letters)
    content_ids    of `events`, once for all who look contents up
    event_ids      text of `id`, or kafka:<topic>-<partition>-<offset>
    event_ts_us    microseconds since 1970; the Kafka timestamp where the event has none
    duration_ms    -1: null
    types          codes, see engagement.events.TYPE_CODES
    targets        the only sink that takes the event, or None; None as a whole when no event has one
    rejected       in offset order
    skipped        number of tombstones and of Debezium updates and deletes
    content_rows   what looking the contents up has found (see engagement.enrich); None before
    """

    span: Any
    offsets: Integers
    keys: list[bytes | None]
    values: list[bytes]
    timestamps_ms: Integers
    events: list[Event]
    content_ids: list[str | None]
    event_ids: list[str]
    event_ts_us: Integers
    duration_ms: Integers
    types: Integers
    targets: list[str | None] | None
    rejected: list[Rejected]
    skipped: int
    content_rows: Integers | None = None

    def __len__(self) -> int:
        return len(self.events)


@dataclass(slots=True)
class _Replay:
    """The headers of a replayed dead letter."""

    target: str | None = None
    event_id: str | None = None
    timestamp_ms: int | None = None


def parse(records: Records) -> ParsedEvents:
    """Each record becomes an event, a rejection or is skipped; never raises for what a record holds."""
    refused: dict[int, EventError] = {}
    events, skipped = _decoded(records.values, refused)
    content_ids = _canonical_content_ids(events)
    replays = _replays(records.headers, refused)
    timestamps_ms = _original_timestamps(_arrivals(records.timestamps_ms, refused), replays)
    event_ts_us = _event_times(events, timestamps_ms, refused)
    for index in skipped:  # no fact either way: its headers and times do not matter
        refused.pop(index, None)
    partition = records.span.partition
    prefix = f"kafka:{partition.topic}-{partition.partition}-"
    parsed = ParsedEvents(
        span=records.span,
        offsets=records.offsets,
        keys=records.keys,
        values=records.values,  # type: ignore[arg-type]  # tombstones are cut below
        timestamps_ms=timestamps_ms,
        events=events,
        content_ids=content_ids,
        event_ids=_event_ids(events, prefix, records.offsets, replays),
        event_ts_us=event_ts_us,
        duration_ms=np.array([-1 if event.duration_ms is None else event.duration_ms for event in events], np.int64),
        types=np.array([TYPE_CODES[event.event_type] for event in events], np.int64),
        targets=_targets(len(events), replays),
        rejected=[],
        skipped=len(skipped),
    )
    if not refused and not skipped:
        return parsed
    gone = np.array(sorted({*refused, *skipped}), np.int64)
    rejected = [_rejected(records, timestamps_ms, replays, index, refused[index]) for index in sorted(refused)]
    return _without(parsed, gone, rejected)


def _decoded(values: Sequence[bytes | None], refused: dict[int, EventError]) -> tuple[list[Event], list[int]]:
    """Events in the order of the values, _NO_EVENT where refused or skipped, and the indexes of what is skipped."""
    skipped: list[int] = []
    events: list[Event] = []
    left = map(decode_plain if _plain_enough(values) else _checked, values)  # type: ignore[arg-type]  # None: TypeError
    while len(events) < len(values):
        try:
            events.extend(left)  # a step of the interpreter per refusal, not per value
        except DECODE_ERRORS:  # what came before the refused value is in the list by now
            index = len(events)
            events.append(_decoded_otherwise(values[index], index, refused, skipped))
    return events, skipped


def _plain_enough(values: Sequence[bytes | None]) -> bool:
    """Whether all values are UTF-8 and too short to nest too deep: two looks at the batch instead of two per value."""
    try:
        b"\n".join(values).decode()  # type: ignore[arg-type]  # a tombstone raises TypeError
    except (TypeError, UnicodeDecodeError):
        return False
    return max(map(len, values), default=0) <= 2 * NESTING_MAX  # type: ignore[arg-type]


def _checked(value: bytes) -> Event:
    check_utf8(value)
    check_nesting(value)
    return decode_plain(value)


def _decoded_otherwise(value: bytes | None, index: int, refused: dict[int, EventError], skipped: list[int]) -> Event:
    try:
        event = decode(value)
    except EventError as error:
        refused[index] = error
        return _NO_EVENT
    if event is None:
        skipped.append(index)
        return _NO_EVENT
    return event


def _canonical_content_ids(events: list[Event]) -> list[str | None]:
    """The content ids, those in UUID form in lower case; one look at the whole batch where none is in upper case."""
    content_ids = [event.content_id for event in events]
    joined = "".join(filter(None, content_ids))
    if joined == joined.lower():
        return content_ids
    for event in events:
        if event.content_id is not None:
            event.content_id = canonical_content_id(event.content_id)
    return [event.content_id for event in events]


def _replays(headers: Sequence[Sequence[Header] | None] | None, refused: dict[int, EventError]) -> dict[int, _Replay]:
    """The replayed dead letters among the records, by index. Of a repeated header the last counts."""
    if headers is None or not any(headers):
        return {}
    replays: dict[int, _Replay] = {}
    for index, pairs in enumerate(headers):
        ours = {name: value for name, value in pairs or () if name in _HEADERS}
        if not ours:
            continue
        try:
            replays[index] = _replay(ours)
        except EventError as error:
            refused.setdefault(index, error)
    return replays


def _replay(headers: dict[str, bytes | None]) -> _Replay:
    texts: dict[str, str] = {}
    for name, value in headers.items():
        try:
            texts[name] = str(value or b"", "utf-8")
        except UnicodeDecodeError:
            raise _wrong_header(name, "is not UTF-8") from None
    target, event_id = texts.get(HEADER_FOR), texts.get(HEADER_EVENT_ID)
    timestamp = texts.get(HEADER_KAFKA_TIMESTAMP)
    if target is not None and target not in TARGETS:
        raise _wrong_header(HEADER_FOR, f"must be one of {', '.join(TARGETS)}, {target!r} would reach no sink")
    if event_id is not None and not 1 <= len(event_id) <= _REPLAYED_ID_MAX:
        raise _wrong_header(HEADER_EVENT_ID, f"must have 1 to {_REPLAYED_ID_MAX} characters, it has {len(event_id)}")
    if timestamp is None:
        return _Replay(target, event_id)
    if not re.fullmatch("[0-9]{1,15}", timestamp) or int(timestamp) > _TIMESTAMP_MS_MAX:
        raise _wrong_header(HEADER_KAFKA_TIMESTAMP, f"must be milliseconds since 1970, {timestamp!r} is not")
    return _Replay(target, event_id, int(timestamp))


def _wrong_header(name: str, why: str) -> EventError:
    return EventError("wrong_header", f"The header {name} of a replayed dead letter {why}.")


def _arrivals(timestamps_ms: Integers, refused: dict[int, EventError]) -> Integers:
    """The Kafka timestamps; refuses what is none, which only a producer can write, and has 1970 in its place."""
    wrong_ones = np.flatnonzero((timestamps_ms < 0) | (timestamps_ms > _TIMESTAMP_MS_MAX))
    if not len(wrong_ones):
        return timestamps_ms
    for index in wrong_ones.tolist():
        refused.setdefault(
            index,
            EventError(
                "wrong_kafka_timestamp",
                f"The record has no usable Kafka timestamp ({timestamps_ms[index]} ms): "
                "set message.timestamp.type=LogAppendTime on the topic.",
            ),
        )
    timestamps_ms = timestamps_ms.copy()
    timestamps_ms[wrong_ones] = 0
    return timestamps_ms


def _original_timestamps(timestamps_ms: Integers, replays: dict[int, _Replay]) -> Integers:
    originals = {index: at for index, replay in replays.items() if (at := replay.timestamp_ms) is not None}
    if not originals:
        return timestamps_ms
    timestamps_ms = timestamps_ms.copy()
    timestamps_ms[list(originals)] = list(originals.values())
    return timestamps_ms


def _event_ids(events: list[Event], prefix: str, offsets: Integers, replays: dict[int, _Replay]) -> list[str]:
    ids = [
        f"{prefix}{offset}" if event.id is None else str(event.id)
        for event, offset in zip(events, offsets.tolist(), strict=True)
    ]
    for index, replay in replays.items():
        if replay.event_id is not None:
            ids[index] = replay.event_id
    return ids


def _targets(count: int, replays: dict[int, _Replay]) -> list[str | None] | None:
    if not any(replay.target for replay in replays.values()):
        return None
    return [replays[index].target if index in replays else None for index in range(count)]


def _event_times(events: list[Event], timestamps_ms: Integers, refused: dict[int, EventError]) -> Integers:
    """Microseconds since 1970; refuses what is no time with a zone, or too far from the Kafka timestamp."""
    texts = [event.event_ts for event in events]
    kafka_us = timestamps_ms * 1000
    times, unreadable = microseconds(texts)
    for index in unreadable:
        refused.setdefault(index, wrong("event_ts", f"{texts[index]!r} is not"))
    if None in texts or unreadable:
        absent = np.array([text is None for text in texts], bool)
        absent[unreadable] = True
        times = np.where(absent, kafka_us, times)
    distance = times - kafka_us
    for index in np.flatnonzero(distance > AHEAD_MS_MAX * 1000).tolist():
        refused.setdefault(index, _too_far("event_ts_in_future", "5 minutes after", texts[index], timestamps_ms[index]))
    for index in np.flatnonzero(distance < -_BEHIND_US_AT_LEAST).tolist():
        if times[index] < years_before(int(kafka_us[index]), BEHIND_YEARS_MAX):
            refused.setdefault(
                index, _too_far("event_ts_too_old", "5 years before", texts[index], timestamps_ms[index])
            )
    return times


def _too_far(reason: str, border: str, text: str | None, timestamp_ms: int) -> EventError:
    arrival = datetime.fromtimestamp(int(timestamp_ms) / 1000, UTC).isoformat(timespec="seconds")
    return EventError(reason, f"event_ts {text} is more than {border} the Kafka timestamp {arrival}: check the clock.")


def _rejected(
    records: Records, timestamps_ms: Integers, replays: dict[int, _Replay], index: int, error: EventError
) -> Rejected:
    replay = replays.get(index, _Replay())
    return Rejected(
        offset=int(records.offsets[index]),
        key=records.keys[index],
        value=records.values[index],
        reason=error.reason,
        detail=error.detail,
        timestamp_ms=int(timestamps_ms[index]),
        target=replay.target,
        event_id=replay.event_id,
    )


def _without(parsed: ParsedEvents, gone: Integers, rejected: list[Rejected]) -> ParsedEvents:
    """The columns cut down to the accepted events."""
    lost = set(gone.tolist())
    kept = [index for index in range(len(parsed.events)) if index not in lost]

    def take(column: Iterable[T]) -> list[T]:
        return [entry for index, entry in enumerate(column) if index not in lost]

    return ParsedEvents(
        span=parsed.span,
        offsets=parsed.offsets[kept],
        keys=take(parsed.keys),
        values=take(parsed.values),
        timestamps_ms=parsed.timestamps_ms[kept],
        events=take(parsed.events),
        content_ids=take(parsed.content_ids),
        event_ids=take(parsed.event_ids),
        event_ts_us=parsed.event_ts_us[kept],
        duration_ms=parsed.duration_ms[kept],
        types=parsed.types[kept],
        targets=None if parsed.targets is None else take(parsed.targets),
        rejected=rejected,
        skipped=parsed.skipped,
    )
