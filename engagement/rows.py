"""What destinations hold of an enriched event: the partner's JSON and BigQuery's columns, as values.

The names and their order are one and the same everywhere: FIELDS.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from engagement.enrich import ANOMALY_NAMES, ContentRow, Contents, EnrichedEvents
from engagement.events import NULL, TYPE_NAMES
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

_TYPES: Final = pa.array(TYPE_NAMES, pa.string())
_ANOMALIES: Final = pa.array(ANOMALY_NAMES, pa.list_(pa.string()))
_CONTENT_TYPES: Final = (pa.string(), pa.string(), pa.string(), pa.int64())  # of ContentRow behind its id
_NULL, _NO_TEXT = pa.scalar(NULL.decode(), pa.string()), pa.scalar(None, pa.string())

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
    whole = np.array_equal(at, np.arange(len(batch)))
    events = batch.events if whole else [batch.events[index] for index in at.tolist()]
    event_ids = batch.event_ids if whole else [batch.event_ids[index] for index in at.tolist()]
    duration_ms, percentages = batch.duration_ms[at], batch.percentages[at]
    # What repeats itself is taken from a column that is there already: half the time of building it from objects.
    slugs, titles, content_types, lengths = _content_columns(batch.contents, batch.content_rows[at])
    columns: list[pa.Array[Any]] = [
        pa.array(event_ids, pa.string()),
        pa.array([event.content_id for event in events], pa.string()),
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


class _ContentColumns:
    """slug, title, type and length of all contents by row number. Rows never move, so what was made stays right."""

    def __init__(self) -> None:
        self.columns: list[pa.Array[Any]] = [pa.array([], data_type) for data_type in _CONTENT_TYPES]

    def take(self, contents: Contents, rows: Integers) -> list["pa.Array[Any]"]:
        """The columns of these rows."""
        known = len(self.columns[0])
        if known < len(contents.rows):
            added = [row or _NO_CONTENT for row in contents.rows[known:]]
            new = zip(*(row[1:] for row in added), strict=True)
            self.columns = [
                pa.concat_arrays([column, pa.array(values, data_type)])
                for column, values, data_type in zip(self.columns, new, _CONTENT_TYPES, strict=True)
            ]
        return [column.take(rows) for column in self.columns]


_columns_of: Final = WeakKeyDictionary[Contents, _ContentColumns]()


def _content_columns(contents: Contents, rows: Integers) -> list["pa.Array[Any]"]:
    columns = _columns_of.setdefault(contents, _ContentColumns())
    return columns.take(contents, np.maximum(rows, Contents.NONE))


def _payloads(raws: Sequence[Raw]) -> "pa.Array[Any]":
    """The payloads as they came, null where JSON says so; parse has checked their UTF-8."""
    joined = b"".join(raws)  # and the offsets of each: a third of the time of an array of bytes
    ends = np.zeros(len(raws) + 1, np.int32)
    np.cumsum([len(raw) for raw in raws], out=ends[1:])
    texts = pa.StringArray.from_buffers(len(raws), pa.py_buffer(ends.data), pa.py_buffer(joined))
    return texts if NULL not in joined else pc.if_else(pc.not_equal(texts, _NULL), texts, _NO_TEXT)


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
