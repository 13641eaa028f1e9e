"""Where the topic ends and where each sink stands, read from Kafka: consumer group offsets, ends, times of records.

Reads only. Whoever asks does so from a thread of its own: while Kafka is away an answer takes PATIENCE_S.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from sources.kafka_topics import admin_client, settings_of
from sources.position_records import position_consumer
from sources.topic_positions import TopicPositions

PATIENCE_S = 5.0
RECORD_WAIT_S = 0.3
RETENTION = "retention.ms"


class KafkaAway(Exception):
    """Kafka did not answer, or has no such topic; the text says which."""


@dataclass(frozen=True, slots=True)
class KafkaLook:
    """ends: Kafka partition -> the offset behind its last committed record; positions: sink -> partition -> next."""

    ends: dict[int, int]
    positions: dict[str, dict[int, int]] = field(default_factory=dict)


class KafkaPositions:
    """Of one topic and consumer group. sinks: those that keep their position in Kafka."""

    def __init__(self, kafka: Mapping[str, str], topic: str, group: str, sinks: Iterable[str]) -> None:
        self._kafka, self._topic, self._group, self._sinks = kafka, topic, group, tuple(sinks)
        self._admin = admin_client(kafka)
        self._positions = TopicPositions(kafka, topic, PATIENCE_S)
        self._consumer: Any = None

    def look(self) -> KafkaLook:
        """Everything that moves. Raises KafkaAway."""
        try:
            ends = self._positions.ends()
            stand = {sink: self._positions.committed(f"{self._group}.{sink}") for sink in self._sinks}
        except KafkaException as failure:
            raise KafkaAway(f"Kafka does not answer: {failure}") from failure
        if not ends:
            raise KafkaAway(f"Kafka has no topic {self._topic}: create it with: python -m operations.provision")
        return KafkaLook(ends, {sink: found for sink, found in stand.items() if found})

    def retention_s(self) -> float | None:
        """For how long Kafka keeps a record; None: for ever. Raises KafkaAway."""
        try:
            kept = int(settings_of(self._admin, self._topic).get(RETENTION, -1))
        except (KafkaException, TimeoutError) as failure:
            raise KafkaAway(f"Kafka does not tell its retention: {failure}") from failure
        return kept / 1000 if kept >= 0 else None

    def time_of(self, partition: int, offset: int) -> float | None:
        """Kafka timestamp of the first record at or behind this offset, seconds; None where none comes at once."""
        if self._consumer is None:
            self._consumer = position_consumer(self._kafka)
        try:
            self._consumer.assign([TopicPartition(self._topic, partition, offset)])
            message = self._consumer.poll(RECORD_WAIT_S)
        except KafkaException:
            return None
        if message is None or message.error() is not None:
            return None
        return float(message.timestamp()[1] / 1000)
