"""What is read from Kafka: ends, positions, times, and the dead letters of the last hour."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from api.kafka_positions import KafkaAway, KafkaPositions
from api.rejected import RejectedLetters


def produce(kafka: Any, topic: str, values: list[bytes], headers: dict[str, str] | None = None) -> None:
    producer = Producer(kafka.properties)
    for value in values:
        producer.produce(topic, value, partition=1, headers=headers)
    assert producer.flush(20) == 0


def test_where_it_ends_and_where_a_sink_stands(kafka: Any, unique: str, wait_for: Callable[..., Any]) -> None:
    topic = kafka.topic(partitions=2, retention_ms=7_200_000)
    before = time.time()
    produce(kafka, topic, [b"1", b"2", b"3"])
    committer = Consumer({**kafka.properties, "group.id": f"{unique}.partner"})
    committer.commit(offsets=[TopicPartition(topic, 1, 2)], asynchronous=False)
    committer.close()
    positions = KafkaPositions(kafka.properties, topic, unique, ("partner", "bigquery"))
    look = positions.look()
    assert look.ends == {0: 0, 1: 3}
    assert look.positions == {"partner": {1: 2}}
    assert positions.retention_s() == 7200
    at = wait_for(lambda: positions.time_of(1, 2))  # one call waits for a third of a second at most
    assert before - 5 < at < time.time() + 5
    assert positions.time_of(0, 0) is None


def test_a_topic_that_is_not_there_says_what_to_do(kafka: Any, unique: str) -> None:
    with pytest.raises(KafkaAway, match=r"no topic .*operations.provision"):
        KafkaPositions(kafka.properties, unique, unique, ()).look()


def test_a_broker_that_is_not_there_is_away(unique: str) -> None:
    with pytest.raises(KafkaAway, match="does not answer"):
        KafkaPositions({"bootstrap.servers": "127.0.0.1:1"}, unique, unique, ()).look()


def test_letters_are_counted_as_they_come(kafka: Any, wait_for: Callable[..., Any]) -> None:
    topic = kafka.topic(partitions=2)
    headers = {"reason": "not_json", "detail": "The value must be one JSON object.", "sink": "parse", "partition": "3"}
    produce(kafka, topic, [b"hello"] * 2, headers)
    letters, stop = RejectedLetters(kafka.properties, topic), threading.Event()
    letters.start(stop)
    try:
        wait_for(lambda: letters.rejected(time.time(), None)["total"] == 2, timeout=30)
        produce(kafka, topic, [b"world"], headers)
        wait_for(lambda: letters.rejected(time.time(), None)["total"] == 3, timeout=30)
        (reason,) = letters.rejected(time.time(), None)["reasons"]
        assert (reason["count"], reason["example"]["text"], reason["example"]["partition"]) == (3, "world", 3)
    finally:
        stop.set()
