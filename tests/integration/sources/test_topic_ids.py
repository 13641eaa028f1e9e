"""Which rows a topic holds, on a real broker: committed records only, in any shape, and what retention has removed."""

import json
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from sources.position_records import capture_key, read_last
from sources.topic_ids import TopicIds, read_ids


def produce(kafka: Any, topic: str, ids: Iterable[int], partition: int = 0) -> None:
    producer = Producer(kafka.properties)
    for number in ids:
        producer.produce(topic, json.dumps({"id": number, "device": "ios"}), partition=partition)
    producer.flush(20)


def transaction(kafka: Any, name: str) -> Producer:
    producer = Producer({**kafka.properties, "transactional.id": name, "transaction.timeout.ms": 30_000})
    producer.init_transactions(20)
    producer.begin_transaction()
    return producer


def held(found: TopicIds, up_to: int = 200) -> list[int]:
    asked = np.arange(up_to)
    return [int(each) for each in asked[found.ids.holds(asked)]]


def delete_before(kafka: Any, topic: str, partition: int, offset: int) -> None:
    admin: AdminClient = kafka.admin
    for done in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        done.result(20)


def test_every_committed_record_with_an_integer_id_counts(kafka: Any, unique: str) -> None:
    topic = kafka.topic(2)
    produce(kafka, topic, range(1, 50))
    produce(kafka, topic, [60], partition=1)
    others = (
        b"not json",
        b"[1]",
        b"",
        b'{"id":"70"}',
        b'{"id":7.5}',
        b'{"id":null,"device":"x"}',
        b'{"device":"x"}',
        b'{"id":99999999999999999999999}',
        b'{"before":null,"after":{"id":80,"device":"x"},"op":"c"}',
        b'{"schema":{},"payload":{"before":null,"after":{"id":81},"op":"r"}}',
    )
    producer = Producer(kafka.properties)
    for value in others:
        producer.produce(topic, value, partition=1)
    producer.produce(topic, None, key=b"tombstone", partition=1)
    producer.flush(20)
    aborted = transaction(kafka, unique)
    aborted.produce(topic, b'{"id":90}', partition=0)
    aborted.flush(20)
    aborted.abort_transaction(20)
    found = read_ids(kafka.properties, topic, "id")
    assert held(found) == [*range(1, 50), 60, 80, 81]
    assert (found.sent_up_to, found.emptied) == (None, False)


def test_an_empty_topic_holds_nothing(kafka: Any) -> None:
    found = read_ids(kafka.properties, kafka.topic(4), "id")
    assert (len(found.ids), found.sent_up_to, found.emptied) == (0, None, False)


def test_what_retention_has_removed_counts_as_sent_up_to_half_of_what_is_left(kafka: Any) -> None:
    topic = kafka.topic(2)
    first_at = time.time()
    for number in range(1, 21):  # twenty moments, two partitions
        produce(kafka, topic, [number], partition=number % 2)
        while time.time() < first_at + number * 0.05:
            time.sleep(0.001)
    delete_before(kafka, topic, 0, 3)  # 2 4 6 are gone
    found = read_ids(kafka.properties, topic, "id")
    assert held(found) == [1, 3, 5, *range(7, 21)]
    assert found.sent_up_to is not None
    assert 6 < found.sent_up_to < 20
    delete_before(kafka, topic, 0, 10)
    delete_before(kafka, topic, 1, 10)
    emptied = read_ids(kafka.properties, topic, "id")
    assert (len(emptied.ids), emptied.sent_up_to, emptied.emptied) == (0, None, True)


@pytest.mark.parametrize(("key", "waits"), [(capture_key("engagement"), False), ("provisioned/g/redis", True)])
def test_a_capture_that_died_in_a_transaction_holds_nobody_up(kafka: Any, unique: str, key: str, waits: bool) -> None:
    topic = kafka.topic(1, cleanup_policy="compact")
    producer = Producer(kafka.properties)
    producer.produce(topic, b"1", key=b"provisioned/g/partner")
    producer.flush(20)
    dead = transaction(kafka, unique)
    dead.produce(topic, b"2", key=key.encode())
    dead.flush(20)

    class Waited(Exception):
        pass

    def waiting(what: str) -> None:
        raise Waited

    if waits:
        with pytest.raises(Waited):
            read_last(kafka.properties, topic, waiting)
    else:
        assert read_last(kafka.properties, topic, waiting) == {"provisioned/g/partner": b"1"}
        with pytest.raises(Waited):
            read_last(kafka.properties, topic, waiting, captures=True)
    dead.abort_transaction(20)
