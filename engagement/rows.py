"""What destinations hold of an enriched event: the partner's JSON and BigQuery's columns, as values.

The names and their order are one and the same everywhere: FIELDS.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Raw

from engagement.enrich import ANOMALY_NAMES, ContentRow, Contents, EnrichedEvents
from engagement.events import NULL
from engagement.parse import Integers

Indexes = Sequence[int] | Integers

DAY_US: Final = 86_400_000_000
_NO_CONTENT: Final = ContentRow("", None, None, None, None)


class EnrichedEvent(msgspec.Struct, gc=False):
    """One enriched event as JSON shows it.

    event_ts               ISO 8601 in UTC; six digits of a second, none where all are zero
    engagement_seconds     an integer where whole, such as 900, else a decimal, such as 1.5
    engagement_percentage  a decimal with at most two digits, such as 50.0
    raw_payload            the producer's bytes
    processed_at           the Kafka timestamp, to the second
    """

    event_id: str
    content_id: str | None
    content_slug: str | None
    content_title: str | None
    content_type: str | None
    content_length_seconds: int | None
    user_id: str | None
    event_type: str
    event_ts: str
    duration_ms: int | None
    engagement_seconds: int | float | None
    engagement_percentage: float | None
    device: str | None
    raw_payload: Raw
    processed_at: str
    anomalies: tuple[str, ...]


FIELDS: Final = EnrichedEvent.__struct_fields__

# As BigQuery takes them: seconds and percentages are FLOAT64, whose shortest form is the JSON's; raw_payload is STRING,
# since a JSON column does not keep bytes.
_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("event_id", pa.string()),
    ("content_id", pa.string()),
    ("content_slug", pa.string()),
    ("content_title", pa.string()),
    ("content_type", pa.string()),
    ("content_length_seconds", pa.int64()),
    ("user_id", pa.string()),
    ("event_type", pa.string()),
    ("event_ts", pa.timestamp("us", tz="UTC")),
    ("duration_ms", pa.int64()),
    ("engagement_seconds", pa.float64()),
    ("engagement_percentage", pa.float64()),
    ("device", pa.string()),
    ("raw_payload", pa.string()),
    ("processed_at", pa.timestamp("us", tz="UTC")),
    ("anomalies", pa.list_(pa.string())),
]
ARROW_SCHEMA: Final = pa.schema(_COLUMNS)

_encode: Final = msgspec.json.Encoder().encode


def enriched_events(batch: EnrichedEvents, indexes: Indexes) -> list[EnrichedEvent]:
    """The events at these indexes of the batch, in that order."""
    return list(_enriched_events(batch, np.asarray(indexes, np.int64)))


def partner_bodies(batch: EnrichedEvents, indexes: Indexes) -> list[bytes]:
    """One JSON object per event at these indexes; the sink joins them."""
    return [_encode(event) for event in _enriched_events(batch, np.asarray(indexes, np.int64))]


def event_days(batch: EnrichedEvents) -> Integers:
    """Days since 1970 of event_ts in UTC, per event of the batch: BigQuery's partitions."""
    return batch.event_ts_us // DAY_US


def arrow_rows(batch: EnrichedEvents, indexes: Indexes) -> pa.RecordBatch:
    """The events at these indexes in the columns of ARROW_SCHEMA; a null raw_payload is NULL."""
    at = np.asarray(indexes, np.int64)
    events = [batch.events[index] for index in at.tolist()]
    contents = _contents(batch, at)
    duration_ms, percentages = batch.duration_ms[at], batch.percentages[at]
    payloads = [None if (payload := bytes(event.raw_payload)) == NULL else payload for event in events]
    anomalies = [ANOMALY_NAMES[bits] for bits in batch.anomaly_bits[at].tolist()]
    columns: list[pa.Array[Any]] = [
        pa.array([batch.event_ids[index] for index in at.tolist()], pa.string()),
        pa.array([event.content_id for event in events], pa.string()),
        pa.array([content.slug for content in contents], pa.string()),
        pa.array([content.title for content in contents], pa.string()),
        pa.array([content.content_type for content in contents], pa.string()),
        pa.array([content.length_seconds for content in contents], pa.int64()),
        pa.array([event.user_id for event in events], pa.string()),
        pa.array([event.event_type for event in events], pa.string()),
        _timestamps(batch.event_ts_us[at]),
        pa.array(duration_ms, mask=duration_ms < 0),
        pa.array(duration_ms / 1000, mask=duration_ms < 0),
        pa.array(percentages / 100, mask=percentages < 0),
        pa.array([event.device for event in events], pa.string()),
        pa.array(payloads, pa.binary()).view(pa.string()),  # parse has checked the UTF-8
        _timestamps(batch.timestamps_ms[at] // 1000 * 1_000_000),
        pa.array(anomalies, pa.list_(pa.string())),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ARROW_SCHEMA)


def _enriched_events(batch: EnrichedEvents, at: Integers) -> Iterator[EnrichedEvent]:
    columns = zip(
        at.tolist(),
        _contents(batch, at),
        _iso(batch.event_ts_us[at].astype("M8[us]")),
        batch.duration_ms[at].tolist(),
        batch.percentages[at].tolist(),
        _iso(batch.timestamps_ms[at].astype("M8[ms]").astype("M8[s]")),
        batch.anomaly_bits[at].tolist(),
        strict=True,
    )
    for index, content, event_ts, duration_ms, percentage, processed_at, bits in columns:
        event = batch.events[index]
        yield EnrichedEvent(
            event_id=batch.event_ids[index],
            content_id=event.content_id,
            content_slug=content.slug,
            content_title=content.title,
            content_type=content.content_type,
            content_length_seconds=content.length_seconds,
            user_id=event.user_id,
            event_type=event.event_type,
            event_ts=event_ts,
            duration_ms=event.duration_ms,
            engagement_seconds=_seconds(duration_ms),
            engagement_percentage=None if percentage < 0 else percentage / 100,
            device=event.device,
            raw_payload=event.raw_payload,
            processed_at=processed_at,
            anomalies=ANOMALY_NAMES[bits],
        )


def _contents(batch: EnrichedEvents, at: Integers) -> list[ContentRow]:
    """The content of each event; nulls where it is null or unknown."""
    rows = batch.contents.rows
    known = np.maximum(batch.content_rows[at], Contents.NONE)
    return [rows[row] or _NO_CONTENT for row in known.tolist()]


def _seconds(duration_ms: int) -> int | float | None:
    if duration_ms < 0:
        return None
    return duration_ms / 1000 if duration_ms % 1000 else duration_ms // 1000


def _iso(times: npt.NDArray[np.datetime64]) -> list[str]:
    return [text.removesuffix(".000000") + "Z" for text in np.datetime_as_string(times).tolist()]


def _timestamps(microseconds: Integers) -> "pa.Array[Any]":  # generic only in its stubs
    return pa.array(microseconds).view(pa.timestamp("us", tz="UTC"))
