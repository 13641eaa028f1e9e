"""Micro-batches as the source hands them over, made by hand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from engagement.parse import Header, Integers, ParsedEvents, parse
from sources.positions import PartitionId, Span

CONTENT_ID = "123e4567-e89b-12d3-a456-426614174000"
KAFKA_TIME = "2025-08-10T14:30:25.678Z"


@dataclass
class Batch:
    span: Span
    offsets: Integers
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: Integers
    headers: list[list[Header] | None] | None


def at_ms(iso: str) -> int:
    return int(datetime.fromisoformat(iso).astimezone(UTC).timestamp() * 1000 + 0.5)


def records(
    values: Sequence[bytes | None],
    *,
    at: str | int = KAFKA_TIME,
    headers: list[list[Header] | None] | None = None,
    first_offset: int = 100,
) -> Batch:
    """Consecutive records of partition 3 of `engagement-events`, all with one Kafka timestamp."""
    count = len(values)
    span = Span(PartitionId("engagement-events", "topic-id", 3), "owner", first_offset, first_offset + count)
    timestamp_ms = at if isinstance(at, int) else at_ms(at)
    return Batch(
        span=span,
        offsets=np.arange(first_offset, first_offset + count, dtype=np.int64),
        keys=[b"key %d" % index for index in range(count)],
        values=list(values),
        timestamps_ms=np.full(count, timestamp_ms, np.int64),
        headers=headers,
    )


def row(**fields: Any) -> dict[str, Any]:
    """A row of engagement_events that is accepted, changed by what is given; ... takes a field out."""
    whole = {
        "id": 7,
        "content_id": CONTENT_ID,
        "user_id": "user_alice_2025",
        "event_type": "pause",
        "event_ts": "2025-08-10T14:30:24.123456Z",
        "duration_ms": 900_000,
        "device": "mobile",
        "raw_payload": {"a": 1},
    } | fields
    return {name: value for name, value in whole.items() if value is not ...}


def plain(**fields: Any) -> bytes:
    return json.dumps(row(**fields), ensure_ascii=False).encode()


def envelope(op: str = "c", /, **fields: Any) -> bytes:
    """The same row as Debezium writes it: raw_payload is a JSON string."""
    after = row(**fields)
    if "raw_payload" in after and after["raw_payload"] is not None:
        after["raw_payload"] = json.dumps(after["raw_payload"], ensure_ascii=False)
    return json.dumps({"before": None, "after": after, "source": {"lsn": 1}, "op": op, "ts_ms": 1}).encode()


def parsed(*values: bytes | None, **options: Any) -> ParsedEvents:
    return parse(records(values, **options))


def reasons(batch: ParsedEvents) -> list[str]:
    return [rejected.reason for rejected in batch.rejected]
