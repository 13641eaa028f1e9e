"""What the topic and the dead letters hold, as fingerprints: every record judged by `parse`, as the flows do."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engagement.parse import HEADER_FOR, ParsedEvents, Rejected, parse
from operations.audit.fingerprints import (
    HEADER_REPAIRS,
    REPLAY_HEADERS,
    event_columns,
    loose_columns,
    prints_of,
)
from operations.audit.spool import BUCKETS, Keys, Rows, Spool, places, rows_of, text_keys
from operations.letters import PARSE, Letter
from sources.kafka_records import Records

IN_RANGE: Final = 1  # its event time lies in the audited range
REJECTED: Final = 2  # parse does not take it
REPLAYED: Final = 4  # brought back by hand, from a dead letter or by a repair
FOR: Final = {"bigquery": 8, "partner": 16}  # for this sink alone
AFTER_EXPORT: Final = 32  # came to Kafka after the partner had said what it holds
TARGETED: Final = 8 | 16


Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Range:
    """Event time in microseconds since 1970: [begin, end)."""

    begin_us: int
    end_us: int

    def holds(self, times: npt.NDArray[np.int64]) -> Any:
        return (times >= self.begin_us) & (times < self.end_us)


@dataclass
class Scanned:
    """What was read of the topic.

    records   a row per record: key of its event id, its columns, place and Kafka timestamp
    rejected  a row per rejected record: key of its place, its bytes
    repairs   a row per record that a repair wrote: key of its event id, place of the record it stands for
    skipped   Debezium updates and deletes, tombstones
    ends      Kafka partition -> the offset behind what was read
    whole     from its first record on: an id that is in none of them never was in the topic
    """

    records: Spool
    rejected: Spool
    repairs: Spool
    exported_s: float | None  # when the partner said what it holds, seconds since 1970
    skipped: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    whole: bool = False

    @classmethod
    def empty(cls, folder: Path, exported_s: float | None = None) -> "Scanned":
        return cls(Spool(folder, "records"), Spool(folder, "rejected"), Spool(folder, "repairs"), exported_s)

    def take(self, records: Records, wanted: Range) -> ParsedEvents:
        """Judge a batch and keep its fingerprints; what parse made of it."""
        parsed = parse(records)
        partition = records.span.partition.partition
        replayed = _replayed(records)
        self._events(parsed, partition, wanted, replayed, self._after_export(records))
        if parsed.rejected:
            self._rejected(parsed.rejected, partition, wanted, replayed, records.span.partition.topic)
        if len(replayed):
            self._repairs(records, parsed)
        self.skipped += parsed.skipped
        return parsed

    def absent(self, rows: Spool) -> Keys:
        """Keys of rows of PostgreSQL that no record has."""
        found = [np.empty(0, np.uint64)]
        for number in range(BUCKETS):
            keys = rows.bucket(number)["key"]
            found.append(keys[~np.isin(keys, self.records.bucket(number)["key"])])
        return np.sort(np.concatenate(found))

    def search(self, records: Records, wanted: Range, keys: Keys) -> None:
        """Of a batch take only the records whose event ids have one of these keys."""
        parsed = parse(records)
        offsets = parsed.offsets[np.isin(text_keys(parsed.event_ids)[0], keys)].tolist()
        loose = [(each.offset, each.event_id or loose_columns(each.value)[0]) for each in parsed.rejected]
        named = [(offset, event_id) for offset, event_id in loose if event_id is not None]
        found = np.isin(text_keys([event_id for _, event_id in named])[0], keys)
        offsets += [offset for (offset, _), is_wanted in zip(named, found.tolist(), strict=True) if is_wanted]
        if offsets:
            self.take(only(records, np.isin(records.offsets, offsets)), wanted)

    def _after_export(self, records: Records) -> Offsets:
        late_ms = np.inf if self.exported_s is None else self.exported_s * 1000
        return records.offsets[records.timestamps_ms > late_ms]

    def _events(self, parsed: ParsedEvents, partition: int, wanted: Range, replayed: Offsets, late: Offsets) -> None:
        if not len(parsed):
            return
        keys, named = text_keys(parsed.event_ids)
        times = parsed.event_ts_us.tolist()
        prints = prints_of([event_columns(event, at) for event, at in zip(parsed.events, times, strict=True)])
        flags = np.where(wanted.holds(parsed.event_ts_us), IN_RANGE, 0)
        if parsed.targets is not None:
            flags |= np.array([FOR.get(target or "", 0) for target in parsed.targets], np.int64)
        flags |= np.where(np.isin(parsed.offsets, replayed), REPLAYED, 0)
        flags |= np.where(np.isin(parsed.offsets, late), AFTER_EXPORT, 0)
        rows = rows_of(
            keys,
            prints,
            partitions=partition,
            offsets=parsed.offsets,
            stamps=parsed.timestamps_ms,
            flags=flags,
        )
        self.records.append(rows, named)

    def _rejected(self, rejected: list[Rejected], partition: int, wanted: Range, replayed: Offsets, topic: str) -> None:
        offsets = np.array([each.offset for each in rejected], np.int64)
        loose = [loose_columns(each.value) for each in rejected]
        times = np.array(
            [each.timestamp_ms * 1000 if at is None else at for each, (_, at, _) in zip(rejected, loose, strict=True)],
            np.int64,
        )
        keys, named = text_keys(
            [
                each.event_id or event_id or f"kafka:{topic}-{partition}-{each.offset}"
                for each, (event_id, _, _) in zip(rejected, loose, strict=True)
            ]
        )
        flags = REJECTED | np.where(wanted.holds(times), IN_RANGE, 0)
        flags |= np.where(np.isin(offsets, replayed), REPLAYED, 0)
        flags |= np.array([FOR.get(each.target or "", 0) for each in rejected], np.int64)
        rows = rows_of(
            keys,
            prints_of([columns for _, _, columns in loose]),
            partitions=partition,
            offsets=offsets,
            stamps=[each.timestamp_ms for each in rejected],
            flags=flags,
        )
        self.records.append(rows, named)
        where = places(np.full(len(rejected), partition), offsets)
        self.rejected.append(
            rows_of(
                spread(where),
                prints_of([(each.value,) for each in rejected]),
                partitions=partition,
                offsets=offsets,
            )
        )

    def _repairs(self, records: Records, parsed: ParsedEvents) -> None:
        """Which records stand for which: told by a header."""
        assert records.headers is not None
        of_offset = dict(zip(records.offsets.tolist(), records.headers, strict=True))
        for event_id, offset in zip(parsed.event_ids, parsed.offsets.tolist(), strict=True):
            headers = {name: (value or b"").decode(errors="replace") for name, value in of_offset[offset] or ()}
            target = headers.get(HEADER_FOR, "")
            partition, _, repaired = headers.get(HEADER_REPAIRS, "").partition("/")
            if target in FOR and partition.isdigit() and repaired.isdigit():
                keys, _ = text_keys([event_id])
                row = rows_of(keys, partitions=int(partition), offsets=int(repaired), flags=FOR[target])
                self.repairs.append(row)


def spread(where: Keys) -> Keys:
    """Places as keys: mixed, so that neighbours fall into all buckets."""
    keys = where * np.uint64(0x9E3779B97F4A7C15)
    return keys ^ (keys >> np.uint64(29))


def only(records: Records, chosen: npt.NDArray[np.bool_]) -> Records:
    """Some of the records of a batch."""
    at = np.flatnonzero(chosen).tolist()
    return replace(
        records,
        offsets=records.offsets[chosen],
        keys=[records.keys[index] for index in at],
        values=[records.values[index] for index in at],
        timestamps_ms=records.timestamps_ms[chosen],
        headers=None if records.headers is None else [records.headers[index] for index in at],
    )


def _replayed(records: Records) -> Offsets:
    """Offsets of the records that carry a header of a replay."""
    if records.headers is None:
        return records.offsets[:0]
    return records.offsets[[any(name in REPLAY_HEADERS for name, _ in headers or ()) for headers in records.headers]]


@dataclass
class Letters:
    """The dead letters about one topic.

    parse    a row per letter of a rejected record: key of the record's place, the bytes in the letter
    refused  a row per letter of a sink's refusal: key of the event id, the record's place, flag of the sink
    """

    parse: Spool
    refused: Spool
    foreign: int = 0

    @classmethod
    def read(cls, folder: Path, letters: Iterator[Letter], topic: str) -> "Letters":
        found = cls(Spool(folder, "letters"), Spool(folder, "refusals"))
        for letter in letters:
            found._take(letter, topic)
        return found

    def _take(self, letter: Letter, topic: str) -> None:
        partition, offset = letter.headers.get("partition", ""), letter.headers.get("offset", "")
        if letter.headers.get("topic") != topic or not (partition.isdigit() and offset.isdigit()):
            self.foreign += 1
            return
        where = np.array([int(partition)]), np.array([int(offset)], np.int64)
        if letter.sink == PARSE:
            row = rows_of(spread(places(*where)), prints_of([(letter.value,)]), partitions=where[0], offsets=where[1])
            self.parse.append(row)
        elif letter.sink in FOR:
            event_id = letter.headers.get("event_id") or f"kafka:{topic}-{partition}-{offset}"
            keys, named = text_keys([event_id])
            self.refused.append(rows_of(keys, partitions=where[0], offsets=where[1], flags=FOR[letter.sink]), named)


def event_rows(
    event_ids: list[str], columns: list[tuple[Any, ...]], flags: Any = 0, **more: Any
) -> tuple[Rows, list[tuple[int, str]]]:
    """Rows of events that a sink holds, and the names of their keys."""
    keys, named = text_keys(event_ids)
    return rows_of(keys, prints_of(columns), flags=flags, **more), named
