"""BigQuery's rows as the audit reads and replaces them, on the emulator."""

from datetime import UTC, datetime, timedelta

import pytest

from operations.audit.auditor import us_of
from operations.audit.bigquery import READ, TableRows
from sinks import bigquery_tables
from sinks.bigquery_client import BigQueryTable

MOMENT = datetime(2025, 8, 10, 14, 30, 25, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
RANGE = us_of(MOMENT - HOUR), us_of(MOMENT + HOUR)


def row(event_id, **fields):
    return {
        **dict.fromkeys(READ),
        "event_id": event_id,
        "event_type": "play",
        "event_ts": MOMENT,
        "duration_ms": 1500,
        "engagement_seconds": 1.5,
        "raw_payload": '{"a": "ü"}',
        "anomalies": ["over_length", "unknown_content"],
        "kafka_offset": 7,
        "kafka_timestamp": MOMENT,
        **fields,
    }


@pytest.fixture
def where(bigquery_emulator, unique):
    made = BigQueryTable(bigquery_emulator.project, unique, "events", bigquery_emulator.rest, bigquery_emulator.grpc)
    bigquery_tables.ensure(made.query_client(), made)
    return made


def held(table, begin_us=RANGE[0], end_us=RANGE[1]):
    rows = [each for batch in table.rows(begin_us, end_us) for each in batch.to_pylist()]
    return sorted(rows, key=lambda each: each["event_id"])


def test_rows_of_the_range_are_read_and_replaced_by_event(where):
    table, client, name = TableRows(where), where.query_client(), where.name
    assert held(table) == []
    table.replace([row("a"), row("b", anomalies=[])], *RANGE)
    table.replace([row("c", event_ts=MOMENT + 2 * HOUR)], us_of(MOMENT + HOUR), us_of(MOMENT + 3 * HOUR))
    assert held(table) == [row("a"), row("b", anomalies=[])]
    client.query_and_wait(
        f"INSERT INTO `{name}` (event_id, event_type, event_ts) VALUES "
        "('a', 'click', TIMESTAMP '2025-08-10 14:00:00 UTC'), ('b', 'click', TIMESTAMP '2025-08-10 15:00:00 UTC')"
    )
    assert [each["event_id"] for each in held(table)] == ["a", "a", "b", "b"]
    table.replace([row("a", device="tv")], *RANGE)
    assert [(each["event_id"], each["device"]) for each in held(table)] == [("a", "tv"), ("b", None), ("b", None)]
    table.replace([row("b", kafka_offset=1), row("b", kafka_offset=2)], *RANGE)
    assert sorted(each["kafka_offset"] for each in held(table)) == [1, 2, 7]
    assert len(held(table, RANGE[0], us_of(MOMENT + 3 * HOUR))) == 4
