"""Tables and views in BigQuery's own SQL, on the emulator, filled by the sink from real events.

The emulator neither enforces the partition filter nor keeps clustering: that the SQL asks for them is all it can show.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from engagement.enrich import ContentRow, Contents, EnrichedEvents, enrich
from engagement.parse import parse
from engagement.rows import arrow_rows, event_days
from sinks.bigquery import BigQuerySink
from sinks.bigquery_client import BigQueryTable
from sinks.bigquery_tables import SQL, VIEWS, check, ensure
from sinks.fenced_commit import Committed
from sources.positions import PartitionId, Span
from tests.fakes.bigquery_events import abandon
from tests.fakes.positions import FakeBroker, FakeFencedCommit

CONTENT_ID = "123e4567-e89b-12d3-a456-426614174000"
PARTITION = PartitionId("engagement-events", "topic-id", 2)


class Records:
    """Consecutive Kafka records from offset 0, received now."""

    def __init__(self, values: list[bytes | None], owner: str) -> None:
        self.span = Span(PARTITION, owner, 0, len(values))
        self.offsets = np.arange(len(values), dtype=np.int64)
        self.keys: list[bytes | None] = [b"key"] * len(values)
        self.values = values
        self.timestamps_ms = np.full(len(values), int(datetime.now(UTC).timestamp() * 1000), np.int64)
        self.headers = None


@pytest.fixture
def table(bigquery_emulator: Any, unique: str) -> BigQueryTable:
    dataset = f"t_{unique}".replace("-", "_")
    return BigQueryTable(
        bigquery_emulator.project, dataset, "enriched_events", bigquery_emulator.rest, bigquery_emulator.grpc
    )


@pytest.fixture
def query(table: BigQueryTable) -> Callable[[str], list[dict[str, Any]]]:
    client = table.query_client()
    ensure(client, table)
    where = f"{table.project}.{table.dataset}"

    def rows(sql: str) -> list[dict[str, Any]]:
        return [dict(row) for row in client.query_and_wait(sql.replace("$", where))]

    return rows


def event(minutes_ago: float, **fields: Any) -> bytes:
    event_ts = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat()
    return json.dumps({"content_id": CONTENT_ID, "event_type": "play", "event_ts": event_ts, **fields}).encode()


def enriched(values: list[bytes | None], owner: str = "me") -> EnrichedEvents:
    contents = Contents()
    contents.put([ContentRow(CONTENT_ID, "intro", "Introduction to Data Engineering", "video", 1800)])
    return enrich(parse(Records(values, owner)), contents)


def sink(table: BigQueryTable, owner: str = "me") -> BigQuerySink:
    broker = FakeBroker(positions={PARTITION.partition: Committed(0, "", 0.0)})
    made = BigQuerySink(
        table,
        rows=arrow_rows,
        day_of=event_days,
        position=lambda partition: FakeFencedCommit(broker, partition),
        dead_letters="dead",
        stopping=lambda: False,
        abandon=abandon,
    )
    made.claim(PARTITION, owner)
    return made


def test_provision_is_idempotent_and_check_names_what_is_missing(table: BigQueryTable) -> None:
    client = table.query_client()
    assert check(client, table) == [f"BigQuery dataset {table.project}.{table.dataset} is missing"]
    assert all(created for _, created in ensure(client, table))
    assert check(client, table) == []
    assert not any(created for _, created in ensure(client, table))
    client.query_and_wait(f"DROP VIEW `{table.project}.{table.dataset}.{VIEWS[0]}`")
    assert check(client, table) == [f"BigQuery view {table.project}.{table.dataset}.{VIEWS[0]} is missing"]


def test_check_names_a_column_of_another_type(table: BigQueryTable) -> None:
    client = table.query_client()
    client.create_dataset(f"{table.project}.{table.dataset}")
    client.query_and_wait(
        f"CREATE TABLE `{table.name}` (event_id INT64, event_ts TIMESTAMP) PARTITION BY TIMESTAMP_TRUNC(event_ts, DAY)"
    )
    problems = check(client, table)
    assert f"BigQuery table {table.name}: column event_id is INTEGER NULLABLE, not STRING REQUIRED" in problems
    assert f"BigQuery table {table.name} has no column content_id" in problems


def test_a_column_that_a_newer_version_added_is_added(table: BigQueryTable) -> None:
    client = table.query_client()
    client.create_dataset(f"{table.project}.{table.dataset}")
    sql = (SQL / "enriched_events" / "schema.sql").read_text().replace(",\n  ingest_timestamp TIMESTAMP", "")
    client.query_and_wait(sql.format(project=table.project, dataset=table.dataset, table=table.table))
    assert f"BigQuery table {table.name} has no column ingest_timestamp" in check(client, table)
    ensure(client, table)
    assert check(client, table) == []


def test_an_event_is_a_row_with_every_field(table: BigQueryTable, query: Any) -> None:
    payload = '{"b": 1.50,  "a": "é"}'
    values: list[bytes | None] = [
        event(5, id=7, event_type="pause", duration_ms=900_000, user_id="user_alice_2025", device="mobile")[:-1]
        + f', "raw_payload": {payload}}}'.encode(),
        b"not an event",
        event(5, id=8, content_id=None, event_type="finish"),
    ]
    made = enriched(values)
    sink(table).write([made])
    first, second = query("SELECT * FROM `$.enriched_events` WHERE event_ts > '2020-01-01' ORDER BY kafka_offset")
    assert first["event_id"] == "7"
    assert first["content_title"] == "Introduction to Data Engineering"
    assert first["content_length_seconds"] == 1800
    assert first["engagement_seconds"] == 900.0
    assert first["engagement_percentage"] == 50.0
    assert first["raw_payload"] == payload  # byte for byte
    assert first["anomalies"] == []
    assert (first["source_topic"], first["source_epoch"]) == (PARTITION.topic, PARTITION.topic_id)
    assert (first["kafka_partition"], first["kafka_offset"]) == (2, 0)
    assert int(first["kafka_timestamp"].timestamp() * 1000 + 0.5) == made.timestamps_ms[0]
    assert (second["event_id"], second["kafka_offset"]) == ("8", 2)
    assert second["content_id"] is None
    assert second["engagement_seconds"] is None
    assert second["anomalies"] == ["duration_missing"]


def test_the_views_answer_a_bare_select(table: BigQueryTable, query: Any) -> None:
    yesterday = 24 * 60
    values: list[bytes | None] = [
        event(1, id=1, user_id="a", duration_ms=900_000),
        event(1, id=2, user_id="b", duration_ms=450_000),
        event(1, id=2, user_id="b", duration_ms=450_000),  # the same event in two Kafka records
        event(yesterday, id=3, user_id="a", event_type="click"),
        event(yesterday * 60, id=4, user_id="a"),  # outside of every view
    ]
    sink(table).write([enriched(values)])
    summary = query("SELECT * FROM `$.daily_engagement_summary` ORDER BY day DESC")
    assert [(row["event_type"], row["events"]) for row in summary] == [("play", 3), ("click", 1)]
    newest = summary[0]
    assert newest["content_title"] == "Introduction to Data Engineering"
    assert newest["unique_users"] == 2
    assert newest["engagement_seconds"] == 1800.0
    assert newest["mean_percentage"] == pytest.approx(100 / 3)
    trends = query("SELECT * FROM `$.hourly_engagement_trends` ORDER BY hour DESC")
    assert [(row["content_type"], row["event_type"], row["events"]) for row in trends] == [
        ("video", "play", 3),
        ("video", "click", 1),
    ]
    once = query("SELECT event_id, kafka_offset FROM `$.enriched_events_once` ORDER BY kafka_offset")
    assert once == [
        {"event_id": "1", "kafka_offset": 0},
        {"event_id": "2", "kafka_offset": 1},
        {"event_id": "3", "kafka_offset": 3},
    ]


def test_i12_an_erasure_by_update_brings_nothing_back(table: BigQueryTable, query: Any) -> None:
    values: list[bytes | None] = [event(1, id=number, user_id="gone") for number in range(5)]
    sink(table).write([enriched(values)])
    query(
        "UPDATE `$.enriched_events` SET user_id = NULL, raw_payload = NULL "
        "WHERE user_id = 'gone' AND event_ts > '2020-01-01'"
    )
    sink(table, "you").write([enriched(values, "you")])
    [counted] = query(
        "SELECT COUNT(*) AS n, COUNT(user_id) AS named FROM `$.enriched_events` WHERE event_ts > '2020-01-01'"
    )
    assert counted == {"n": 5, "named": 0}


def test_i12_control_an_erasure_by_delete_brings_the_rows_back(table: BigQueryTable, query: Any) -> None:
    values: list[bytes | None] = [event(1, id=number, user_id="gone") for number in range(5)]
    sink(table).write([enriched(values)])
    query("DELETE FROM `$.enriched_events` WHERE kafka_offset >= 3 AND event_ts > '2020-01-01'")
    sink(table, "you").write([enriched(values, "you")])
    [counted] = query("SELECT COUNT(user_id) AS named FROM `$.enriched_events` WHERE event_ts > '2020-01-01'")
    assert counted == {"named": 5}


def test_i01_each_record_is_one_row_after_restarts(table: BigQueryTable, query: Any) -> None:
    values: list[bytes | None] = [event(number, id=number) for number in range(50)]
    for run in range(3):
        writer = sink(table, f"run {run}")
        writer.write([enriched(values, f"run {run}")])
        writer.close()
    [counted] = query(
        "SELECT COUNT(*) AS n, COUNT(DISTINCT kafka_offset) AS records FROM `$.enriched_events` "
        "WHERE event_ts > '2020-01-01'"
    )
    assert counted == {"n": 50, "records": 50}
    streams = query("SELECT claim FROM `$._sink_streams` ORDER BY claim")
    assert [row["claim"] for row in streams] == [1, 2, 3]
