"""What the comparison reads from the real systems, and that it fails when an event is missing or doubled there."""

import json
import sqlite3
import time
from collections import Counter

import psycopg
import pytest
import redis
from confluent_kafka import Producer

from demo import stores
from demo.comparison import compare
from sinks.redis_layout import Group

CONTENT = "123E4567-E89B-12D3-A456-426614174000"


def produce(kafka, topic, records, *, commit=True):
    """records: (partition, value, headers), in one transaction."""
    producer = Producer({**kafka.properties, "transactional.id": f"{topic}-{time.monotonic_ns()}"})
    producer.init_transactions(20)
    producer.begin_transaction()
    for partition, value, headers in records:
        producer.produce(topic, value, partition=partition, headers=headers)
    producer.flush(10)
    if commit:
        producer.commit_transaction(10)
    else:
        producer.abort_transaction(10)


def event(number, **fields):
    values = {"id": number, "content_id": CONTENT, "event_type": "play", "event_ts": "2025-08-10T14:30:25.5Z", **fields}
    return json.dumps(values).encode()


@pytest.fixture
def topics(kafka):
    return kafka.topic(partitions=2), kafka.topic(partitions=1)


def test_committed_records_are_read_to_the_end_behind_markers_and_aborted_ones(kafka, topics):
    topic, letters = topics
    produce(kafka, topic, [(0, event(1), []), (1, event(2), [])])
    produce(kafka, topic, [(0, event(3), [])], commit=False)
    produce(kafka, topic, [(0, event(4), []), (0, None, [])])
    contents = stores.kafka_contents(kafka.properties, topic, letters)
    assert contents.ids() == Counter(["1", "2", "4"])
    first = contents.entries[0]
    assert (first.partition, first.offset, first.content_id) == (0, 0, CONTENT.lower())
    assert first.event_us == 1754836225_500000


def test_an_empty_topic_is_empty(kafka, topics):
    assert stores.kafka_contents(kafka.properties, *topics).entries == []


def test_a_record_without_id_or_sense_is_named_by_its_place(kafka, topics):
    topic, letters = topics
    produce(kafka, topic, [(1, b"\xff", []), (1, b"[]", []), (1, b'{"id": null}', [])])
    contents = stores.kafka_contents(kafka.properties, topic, letters)
    assert [entry.event_id for entry in contents.entries] == [f"kafka:{topic}-1-{offset}" for offset in range(3)]
    assert all(entry.event_us == entry.kafka_ms * 1000 for entry in contents.entries)


def test_dead_letters_say_what_is_expected_nowhere(kafka, topics):
    topic, letters = topics
    produce(kafka, topic, [(0, event(1), []), (0, event(2), []), (0, event(3), [])])
    about = {"reason": "x", "topic": topic, "partition": "0"}
    produce(kafka, letters, [(0, b"", list({**about, "sink": "parse", "offset": "0"}.items()))])
    produce(kafka, letters, [(0, b"", list({**about, "sink": "partner", "offset": "1"}.items()))])
    produce(kafka, letters, [(0, b"", list({**about, "topic": "other", "sink": "parse", "offset": "2"}.items()))])
    contents = stores.kafka_contents(kafka.properties, topic, letters)
    assert contents.ids("partner") == Counter(["3"])
    assert contents.ids("bigquery") == Counter(["2", "3"])


def test_a_replayed_letter_keeps_its_own_id_and_time(kafka, topics):
    topic, letters = topics
    headers = [("for", "partner"), ("event_id", "old"), ("kafka_timestamp", "1754836225000")]
    produce(kafka, topic, [(0, event(1), headers)])
    (entry,) = stores.kafka_contents(kafka.properties, topic, letters).entries
    assert (entry.target, entry.event_id, entry.kafka_ms) == ("partner", "old", 1754836225000)


def test_an_event_missing_or_doubled_in_kafka_is_found(kafka, topics, postgres):
    topic, letters = topics
    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE TABLE engagement_events (id bigint)")
        connection.execute("INSERT INTO engagement_events VALUES (1), (2), (3)")
    produce(kafka, topic, [(0, event(1), []), (1, event(3), []), (1, event(3), [])])
    found = stores.kafka_contents(kafka.properties, topic, letters).ids()
    check = compare("ids", stores.postgres_ids(postgres), found)
    assert check.differences == "1 missing: 2; 1 doubled: 3 (2 of 1)"


def test_the_minutes_of_all_partitions_are_added_up(redis_url, unique):
    client = redis.Redis.from_url(redis_url)
    layout = Group(unique, "topic", 10)
    minute = int(time.time()) // 60
    for partition, events in ((0, 3), (1, 4)):
        client.sadd(layout.partitions, partition)
        keys = layout.partition(partition)
        row = events.to_bytes(8, "little") + bytes(64)
        client.hset(keys.totals("minute", minute * 60), mapping={"a": row, "": bytes(16)})
        client.hset(keys.totals("minute", (minute - 100) * 60), mapping={"a": row})
    assert stores.redis_minutes(client, layout, since_minute=minute - 60) == {("a", minute): 7}


def test_the_partner_s_effects_are_counted(tmp_path):
    from demo.partner_receiver import Store

    path = tmp_path / "partner's store.sqlite3"
    store = Store(path)
    store.take("k1", "d", [("1", "{}"), ("2", "{}")])
    store.take("k2", "d", [("2", "{}")])
    assert stores.partner_ids(path) == {"1": 1, "2": 2}
    store.close()
    with pytest.raises(sqlite3.OperationalError):
        stores.partner_ids(tmp_path / "none")


def test_the_rows_of_bigquery_are_counted(bigquery_emulator, unique):
    from sinks.bigquery_client import BigQueryTable

    table = BigQueryTable(bigquery_emulator.project, unique, "events", bigquery_emulator.rest, bigquery_emulator.grpc)
    client = table.query_client()
    client.create_dataset(unique)
    client.query_and_wait(f"CREATE TABLE `{table.name}` (event_id STRING, event_ts TIMESTAMP)")
    values = ", ".join(f"('{name}', TIMESTAMP '2025-08-10 14:30:25 UTC')" for name in "abb")
    client.query_and_wait(f"INSERT INTO `{table.name}` (event_id, event_ts) VALUES {values}")
    assert stores.bigquery_ids(client, table.name) == {"a": 1, "b": 2}
    client.close()
