"""Material for the BigQuery tests: batches as the flow makes them, their columns, and a sink on top of all that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sinks.bigquery import BigQuerySink
from sinks.fenced_commit import Committed
from sources.positions import PartitionId, Span
from tests.fakes.bigquery_write import FakeBigQuery
from tests.fakes.positions import FakeBroker, FakeFencedCommit

NOW = 1_800_000_000  # seconds since 1970
TODAY = NOW // 86_400
SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string()),
        pa.field("event_type", pa.string()),
        pa.field("event_ts", pa.timestamp("us", tz="UTC")),
        pa.field("raw_payload", pa.string()),
    ]
)


class Abandoned(BaseException):
    """The flow's abandon(): the process would end with 0."""


def partition_id(number: int = 0, topic: str = "events", topic_id: str = "AAAAAAAAAAAAAAAAAAAAAQ") -> PartitionId:
    return PartitionId(topic, topic_id, number)


@dataclass
class EventBatch:
    """What the sink uses of an enriched batch; days: event day of each row, since 1970."""

    span: Span
    offsets: Any
    keys: list[bytes | None]
    values: list[bytes]
    timestamps_ms: Any
    event_ids: list[str]
    targets: list[str | None] | None
    days: Any
    payload: str = ""


def batch(
    offset_from: int,
    offset_next: int,
    offsets: Sequence[int] | None = None,
    *,
    partition: PartitionId | None = None,
    owner: str = "me",
    targets: dict[int, str] | None = None,
    days: dict[int, int] | None = None,
    payload: str = "",
) -> EventBatch:
    """Events at `offsets` (default: every offset) of [offset_from, offset_next). targets: offset -> sink;
    days: offset -> days since 1970 (default: today)."""
    partition = partition or partition_id()
    offsets = list(range(offset_from, offset_next)) if offsets is None else list(offsets)
    return EventBatch(
        Span(partition, owner, offset_from, offset_next),
        np.array(offsets, np.int64),
        [f"k{offset}".encode() for offset in offsets],
        [f"v{offset}".encode() for offset in offsets],
        np.full(len(offsets), NOW * 1000, np.int64),
        [f"e{partition.partition}-{offset}" for offset in offsets],
        [targets.get(offset) for offset in offsets] if targets else None,
        np.array([(days or {}).get(offset, TODAY) for offset in offsets], np.int64),
        payload,
    )


def arrow_rows(events: EventBatch, indexes: Sequence[int]) -> pa.RecordBatch:
    event_ts = (events.days[list(indexes)] * 86_400 + 3600) * 1_000_000
    return pa.RecordBatch.from_arrays(
        [
            pa.array([events.event_ids[index] for index in indexes], pa.string()),
            pa.array(["play"] * len(indexes), pa.string()),
            pa.array(event_ts).view(pa.timestamp("us", tz="UTC")),
            pa.array([events.payload] * len(indexes), pa.string()),
        ],
        schema=SCHEMA,
    )


def day_of(events: EventBatch) -> Any:
    return events.days


def abandon() -> None:
    raise Abandoned


def bigquery_sink(
    server: FakeBigQuery,
    broker: FakeBroker,
    *,
    partitions: int = 1,
    stopping: Callable[[], bool] | None = None,
    passed: Callable[[PartitionId, int], bool] = lambda partition, offset: False,
    topic_id: str = "AAAAAAAAAAAAAAAAAAAAAQ",
    clock: Callable[[], float] = lambda: NOW,
    owner: str = "me",
    ack_seconds: float = 0.5,
) -> BigQuerySink:
    """A sink over the fakes that has claimed its partitions; short waits."""
    for number in range(partitions):
        broker.positions.setdefault(number, _first())
    sink = BigQuerySink(
        server.table,
        rows=arrow_rows,
        day_of=day_of,
        position=lambda partition: FakeFencedCommit(broker, partition),
        dead_letters="dead",
        stopping=stopping or server.ended.is_set,
        abandon=abandon,
        passed=passed,
        ledger=server.objects["ledger"],
        clock=clock,
        wait_seconds_max=0.05,
        ack_seconds=ack_seconds,
    )
    for number in range(partitions):
        sink.claim(partition_id(number, topic_id=topic_id), owner)
    return sink


def _first() -> Any:
    return Committed(0, "", 0.0)
