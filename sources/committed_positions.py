"""What a consumer group has committed, as anybody may ask; sinks themselves read it behind their fence."""

from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, TopicPartition

from sources.kafka_brokers import QUIET


class CommittedPositions:
    """Of one consumer group. One thread.

    By a consumer that joins nothing: the admin client's list_consumer_group_offsets (confluent-kafka 2.16.1) ends the
    process with SIGSEGV, or never answers, while the group's coordinator is loading.
    """

    def __init__(self, kafka: Mapping[str, str], group: str) -> None:
        self._consumer = Consumer({**QUIET, **kafka, "group.id": group, "enable.auto.commit": False})

    def of(self, topic: str, partitions: Iterable[int], patience_s: float) -> dict[int, int]:
        """Kafka partition -> offset; a partition without a position is absent. Raises KafkaException."""
        asked = [TopicPartition(topic, partition) for partition in partitions]
        found = self._consumer.committed(asked, timeout=patience_s) if asked else []
        return {place.partition: int(place.offset) for place in found if place.offset >= 0}

    def close(self) -> None:
        self._consumer.close()
