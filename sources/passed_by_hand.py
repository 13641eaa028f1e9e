"""Events that an operator has told a sink to let go: `python -m operations.dead_letters pass SINK PARTITION OFFSET`."""

from collections.abc import Mapping

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from sources.position_records import Mark, pass_key, position_consumer, take
from sources.positions import PartitionId

POLL_SECONDS = 0.2

log = structlog.get_logger()


class PassedByHand:
    """Asked by a sink while its breaker is open: may this event become a dead letter?

    Opens its consumer at the first question and reads on from there at each later one. Never waits for Kafka: while it
    is away nothing has been passed."""

    def __init__(self, kafka: Mapping[str, str], positions_topic: str, group: str, sink: str) -> None:
        self._kafka, self._topic = dict(kafka), positions_topic
        self._group, self._sink = group, sink
        self._consumer: Consumer | None = None
        self._records: dict[str, bytes] = {}

    def __call__(self, partition: PartitionId, offset: int) -> bool:
        """Whether the event at `offset` was passed. Blocks for some 200 ms."""
        try:
            self._read_on()
        except KafkaException as failure:
            log.warning("passes_unreadable", topic=self._topic, error=failure.args[0].str())
        value = self._records.get(pass_key(self._group, self._sink, partition.partition, offset))
        return value is not None and msgspec.json.decode(value, type=Mark).topic_id == partition.topic_id

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _read_on(self) -> None:
        if self._consumer is None:
            self._consumer = position_consumer(self._kafka)
            self._consumer.assign([TopicPartition(self._topic, 0, 0)])
        read: dict[str, bytes] = {}
        while (message := self._consumer.poll(POLL_SECONDS)) is not None:
            take(message, read)
        self._records |= {key: value for key, value in read.items() if key.startswith("pass/")}
