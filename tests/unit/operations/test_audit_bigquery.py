"""Rows of BigQuery as the audit judges them."""

import pyarrow as pa

from operations.audit.bigquery import READ, judged

TYPES = {
    "content_length_seconds": pa.int64(),
    "duration_ms": pa.int64(),
    "engagement_seconds": pa.float64(),
    "engagement_percentage": pa.decimal128(38, 9),
    "event_ts": pa.timestamp("us", tz="UTC"),
    "processed_at": pa.timestamp("us", tz="UTC"),
    "kafka_timestamp": pa.timestamp("us", tz="UTC"),
    "kafka_partition": pa.int64(),
    "kafka_offset": pa.int64(),
    "anomalies": pa.list_(pa.string()),
}


def test_a_batch_without_rows_has_none():
    """A table that holds nothing of the range answers with one."""
    schema = pa.schema([pa.field(name, TYPES.get(name, pa.string())) for name in READ])
    rows, named = judged(pa.RecordBatch.from_pylist([], schema), {}, ("events", "id"), set())
    assert len(rows) == 0
    assert named == []
