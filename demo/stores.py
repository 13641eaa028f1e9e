"""Reads what each system holds, for the comparison at the end: plainly, and by none of the pipeline's own steps."""

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from demo.comparison import Contents, Entry
from sinks.redis_layout import Group

READ_S_MAX = 60.0
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def postgres_ids(dsn: str) -> Counter[str]:
    """Ids of the rows of engagement_events, as text."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT id::text FROM engagement_events")
        return Counter(row[0] for row in rows)


def kafka_contents(kafka: Mapping[str, str], topic: str, dead_letters: str) -> Contents:
    """The committed records of the topic, and which of them the dead letters name."""
    entries = [_entry(topic, message) for message in _records(kafka, topic) if message.value() is not None]
    refused: dict[str, set[tuple[int, int]]] = {}
    for letter in _records(kafka, dead_letters):
        headers = _headers(letter)
        if headers["topic"] == topic:
            refused.setdefault(headers["sink"], set()).add((int(headers["partition"]), int(headers["offset"])))
    return Contents(entries, {sink: frozenset(where) for sink, where in refused.items()})


def redis_minutes(client: Any, layout: Group, *, since_minute: int) -> Counter[tuple[str, int]]:
    """(content_id, minute) -> events of the stored minutes, all Kafka partitions together."""
    minutes = range(since_minute, int(time.time()) // 60 + 7)  # an event may lie five minutes ahead
    counts: Counter[tuple[str, int]] = Counter()
    for partition in client.smembers(layout.partitions):
        keys = layout.partition(int(partition))
        pipeline = client.pipeline(transaction=False)
        for minute in minutes:
            pipeline.hgetall(keys.totals("minute", minute * 60))
        for minute, rows in zip(minutes, pipeline.execute(), strict=True):
            for content_id, sums in rows.items():
                if content_id:  # '' is the count of late events
                    counts[content_id.decode(), minute] += int.from_bytes(sums[:8], "little")
    return counts


def partner_ids(store: Path) -> Counter[str]:
    """event_id -> effects at the demo's own partner."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10) as database:
        rows = database.execute("SELECT event_id, count(*) FROM effects GROUP BY event_id").fetchall()
    return Counter(dict(rows))


def bigquery_ids(client: Any, table: str) -> Counter[str]:
    """event_id -> rows of the table (project.dataset.table); the time filter is one that the table requires."""
    query = f"SELECT event_id, COUNT(*) FROM `{table}` WHERE event_ts >= TIMESTAMP '1970-01-01' GROUP BY event_id"
    return Counter({row[0]: int(row[1]) for row in client.query_and_wait(query)})


def _records(kafka: Mapping[str, str], topic: str) -> list[Any]:
    """All records of the topic that are committed now, partition by partition in offset order."""
    consumer = Consumer(
        {
            **kafka,
            "group.id": "demo-comparison",  # never committed to
            "enable.auto.commit": "false",
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        }
    )
    try:
        found = consumer.list_topics(topic, timeout=10).topics[topic]
        ends = {}
        for partition in found.partitions:
            ends[partition] = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
        records = []
        deadline = time.monotonic() + READ_S_MAX
        while any(place.offset < ends[place.partition] for place in _places(consumer, topic, ends)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"reading topic {topic} to its end took longer than {READ_S_MAX:.0f} s")
            message = consumer.poll(0.1)
            for record in ([message] if message is not None else []) + consumer.consume(5000, 0):
                if record.error():
                    raise KafkaException(record.error())
                records.append(record)
        return sorted(records, key=lambda record: (record.partition(), record.offset()))
    finally:
        consumer.close()


def _places(consumer: Consumer, topic: str, ends: Mapping[int, int]) -> list[TopicPartition]:
    """Where the consumer stands in each partition that is not empty; behind markers as well as records."""
    return consumer.position([TopicPartition(topic, partition) for partition, end in ends.items() if end > 0])


def _headers(record: Any) -> dict[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers() or []}


def _entry(topic: str, record: Any) -> Entry:
    """What counts of one record; whatever cannot be read is none of the comparison's business: parse refuses it."""
    headers = _headers(record)
    kafka_ms = int(headers.get("kafka_timestamp") or record.timestamp()[1])
    try:
        event = msgspec.json.decode(record.value())
    except (msgspec.MsgspecError, UnicodeDecodeError):
        event = {}
    event = event if isinstance(event, dict) else {}
    where = f"kafka:{topic}-{record.partition()}-{record.offset()}"
    event_id = headers.get("event_id") or (str(event["id"]) if event.get("id") is not None else where)
    content_id = event.get("content_id")
    if isinstance(content_id, str) and UUID.fullmatch(content_id):
        content_id = content_id.lower()
    event_us = _microseconds(event.get("event_ts"), kafka_ms)
    return Entry(
        record.partition(), record.offset(), kafka_ms, event_id, content_id, event_us, headers.get("for") or None
    )


def _microseconds(event_ts: Any, kafka_ms: int) -> int:
    try:
        moment = datetime.fromisoformat(event_ts)
    except (TypeError, ValueError):
        return kafka_ms * 1000
    if moment.tzinfo is None:
        return kafka_ms * 1000
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
