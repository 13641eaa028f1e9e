"""What BigQuery holds of enriched events: columns, under the names and in the order of partner_body.FIELDS."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from engagement.enrich import ANOMALY_NAMES, Contents, EnrichedEvents
from engagement.events import NULL, TYPE_NAMES
from engagement.parse import Integers

Indexes = Sequence[int] | Integers

DAY_US: Final = 86_400_000_000

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

_TYPES: Final = pa.array(TYPE_NAMES, pa.string())
_ANOMALIES: Final = pa.array(ANOMALY_NAMES, pa.list_(pa.string()))
_NULL, _NO_TEXT = pa.scalar(NULL.decode(), pa.string()), pa.scalar(None, pa.string())


def event_days(batch: EnrichedEvents) -> Integers:
    """Days since 1970 of event_ts in UTC, per event of the batch: BigQuery's partitions."""
    return batch.event_ts_us // DAY_US


def arrow_rows(batch: EnrichedEvents, indexes: Indexes) -> pa.RecordBatch:
    """The events at these indexes in the columns of ARROW_SCHEMA; a null raw_payload is NULL."""
    at = np.asarray(indexes, np.int64)
    whole = np.array_equal(at, np.arange(len(batch)))
    events = batch.events if whole else [batch.events[index] for index in at.tolist()]
    event_ids = batch.event_ids if whole else [batch.event_ids[index] for index in at.tolist()]
    duration_ms, percentages, rows = batch.duration_ms[at], batch.percentages[at], batch.content_rows[at]
    # What repeats itself is taken from a column that is there already: half the time of building it from objects.
    content_ids, slugs, titles, content_types, lengths = batch.contents.rows.columns.take(np.maximum(rows, 0)).columns
    if rows.min(initial=1) <= Contents.NONE:  # no content_id, or a content that nobody knows
        content_ids = pa.array([event.content_id for event in events], pa.string())
    columns: list[pa.Array[Any]] = [
        pa.array(event_ids, pa.string()),
        content_ids,
        slugs,
        titles,
        content_types,
        lengths,
        pa.array([event.user_id for event in events], pa.string()),
        _TYPES.take(batch.types[at]),
        _timestamps(batch.event_ts_us[at]),
        pa.array(duration_ms, mask=duration_ms < 0),
        pa.array(duration_ms / 1000, mask=duration_ms < 0),
        pa.array(percentages / 100, mask=percentages < 0),
        pa.array([event.device for event in events], pa.string()),
        _payloads([event.raw_payload for event in events]),
        _timestamps(batch.timestamps_ms[at] // 1000 * 1_000_000),
        _ANOMALIES.take(batch.anomaly_bits[at]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ARROW_SCHEMA)


def _payloads(raws: Sequence[Raw]) -> "pa.Array[Any]":
    """The payloads as they came, null where JSON says so; parse has checked their UTF-8."""
    joined = b"".join(raws)  # and the offsets of each: a third of the time of an array of bytes
    ends = np.zeros(len(raws) + 1, np.int32)
    np.cumsum([len(raw) for raw in raws], out=ends[1:])
    texts = pa.StringArray.from_buffers(len(raws), pa.py_buffer(ends.data), pa.py_buffer(joined))
    return texts if NULL not in joined else pc.if_else(pc.not_equal(texts, _NULL), texts, _NO_TEXT)


def _timestamps(microseconds: Integers) -> "pa.Array[Any]":  # generic only in its stubs
    return pa.array(microseconds).view(pa.timestamp("us", tz="UTC"))
