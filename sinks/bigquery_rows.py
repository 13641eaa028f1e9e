"""Rows on their way to BigQuery: which row of which batch, and the frozen requests made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from sinks.batches import Batch, Integers

REQUEST_BYTES = 2_000_000  # aimed at: a request may hold 20 MB, connections are fastest from 1 MB up
REQUEST_BYTES_MAX = 18_000_000  # a row above cannot be sent at all
UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
ORIGIN: list[tuple[str, pa.DataType]] = [
    ("source_topic", pa.string()),
    ("source_epoch", pa.string()),  # the topic id
    ("kafka_partition", pa.int64()),
    ("kafka_offset", pa.int64()),
    ("kafka_timestamp", UTC_MICROSECONDS),
    ("ingest_timestamp", UTC_MICROSECONDS),
]

ToArrow = Callable[[Any, Integers], pa.RecordBatch]  # (batch, rows) -> their columns, always the same schema


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of consecutive batches, in offset order; all columns have length n.

    which    number of the batch in `batches`;  indexes: row within that batch
    days     event day, days since 1970"""

    batches: Sequence[Any]
    which: Integers
    indexes: Integers
    offsets: Integers
    days: Integers

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, chosen: Any) -> "Rows":
        """Some of the rows, by slice or mask."""
        return Rows(self.batches, self.which[chosen], self.indexes[chosen], self.offsets[chosen], self.days[chosen])

    def at(self, row: int) -> tuple[Any, int]:
        """(batch, index within it) of one row."""
        return self.batches[int(self.which[row])], int(self.indexes[row])


def rows_of(batches: Sequence[Batch], day_of: Callable[[Any], Integers], sink: str, offset_from: int) -> Rows:
    """All rows at or above `offset_from` that `sink` takes."""
    which, indexes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    offsets, days = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number, batch in enumerate(batches):
        wanted = batch.offsets >= offset_from
        if batch.targets is not None:
            wanted &= np.array([target in (None, sink) for target in batch.targets], bool)
        chosen = np.flatnonzero(wanted)
        if len(chosen):
            which.append(np.full(len(chosen), number, np.int64))
            indexes.append(chosen.astype(np.int64))
            offsets.append(batch.offsets[chosen])
            days.append(np.asarray(day_of(batch))[chosen].astype(np.int64))
    return Rows(batches, *(np.concatenate(each) for each in (which, indexes, offsets, days)))


def frozen(rows: Rows, to_arrow: ToArrow, now_us: int) -> list[tuple[Rows, bytes]]:
    """Rows as request bodies of about REQUEST_BYTES, each with the rows it holds.

    Only a single row can be larger than REQUEST_BYTES_MAX: the caller must not send it."""
    parts = []
    starts = np.flatnonzero(np.diff(rows.which, prepend=-1)).tolist()  # rows stand in the order of their batches
    for start, end in pairwise([*starts, len(rows)]):
        part = rows[start:end]
        parts.append(_with_origin(to_arrow(part.batches[int(part.which[0])], part.indexes), part, now_us))
    whole = pa.Table.from_batches(parts).combine_chunks().to_batches()[0] if len(parts) > 1 else parts[0]
    return _cut(rows, whole)


def schema_bytes(rows: Rows, to_arrow: ToArrow) -> bytes:
    """The writer schema that all requests of these columns share, serialised."""
    first = rows[:1]
    batch, _ = first.at(0)
    return bytes(_with_origin(to_arrow(batch, first.indexes), first, 0).schema.serialize())


def _cut(rows: Rows, whole: pa.RecordBatch) -> list[tuple[Rows, bytes]]:
    """Cut by the average row first, then halve what is still too large."""
    per_request = max(1, len(rows) * REQUEST_BYTES // max(int(whole.nbytes), 1))
    made: list[tuple[Rows, bytes]] = []
    waiting = [(at, min(at + per_request, len(rows))) for at in range(0, len(rows), per_request)][::-1]
    while waiting:
        start, end = waiting.pop()
        body = bytes(whole.slice(start, end - start).serialize())
        if len(body) > 2 * REQUEST_BYTES and end - start > 1:
            middle = (start + end) // 2
            waiting += [(middle, end), (start, middle)]
        else:
            made.append((rows[start:end], body))
    return made


def _with_origin(columns: pa.RecordBatch, rows: Rows, now_us: int) -> pa.RecordBatch:
    """Add which Kafka record each row came from; `rows` are all of one batch."""
    batch = rows.batches[int(rows.which[0])]
    count, partition = len(rows), batch.span.partition
    origin = [
        pa.repeat(partition.topic, count),
        pa.repeat(partition.topic_id, count),
        pa.repeat(pa.scalar(partition.partition, pa.int64()), count),
        pa.array(rows.offsets),
        pa.array(batch.timestamps_ms[rows.indexes] * 1000).view(UTC_MICROSECONDS),
        pa.repeat(pa.scalar(now_us, UTC_MICROSECONDS), count),
    ]
    return pa.RecordBatch.from_arrays([*columns.columns, *origin], schema=_schema_with_origin(columns.schema))


@cache
def _schema_with_origin(columns: pa.Schema) -> pa.Schema:
    return pa.schema([*columns, *(pa.field(*each) for each in ORIGIN)])
