"""Where a topic ends and where consumer groups stand in it, as anybody may ask: reads only."""

from collections.abc import Mapping

from confluent_kafka import Consumer, TopicPartition

from sources.kafka_brokers import QUIET


class TopicPositions:
    """Of one topic. One thread. All raise KafkaException where no broker answers within patience_s.

    By consumers that join nothing, not by the admin client of confluent-kafka 2.16.1: asked for a group's offsets while
    its coordinator is loading it ends the process with SIGSEGV, and with an assertion (eonce->refcnt > 0) when a broker
    goes away while it is asked for anything.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str, patience_s: float = 5.0) -> None:
        self._kafka, self._topic, self._patience_s = dict(kafka), topic, patience_s
        self._consumers: dict[str, Consumer] = {}
        self._partitions: list[int] = []

    def partitions(self) -> list[int]:
        """The topic's partitions, asked for until there are some; [] where there is no such topic."""
        if not self._partitions:
            known = self._consumer("unused").list_topics(self._topic, timeout=self._patience_s)
            self._partitions = sorted(known.topics[self._topic].partitions)
        return self._partitions

    def ends(self) -> dict[int, int]:
        """Kafka partition -> the offset behind its last committed record or marker."""
        consumer = self._consumer("unused")
        places = [TopicPartition(self._topic, partition) for partition in self.partitions()]
        return {
            place.partition: int(consumer.get_watermark_offsets(place, timeout=self._patience_s)[1]) for place in places
        }

    def committed(self, group: str) -> dict[int, int]:
        """Kafka partition -> offset that the group has committed; a partition without one is absent."""
        places = [TopicPartition(self._topic, partition) for partition in self.partitions()]
        found = self._consumer(group).committed(places, timeout=self._patience_s) if places else []
        return {place.partition: int(place.offset) for place in found if place.offset >= 0}

    def close(self) -> None:
        for consumer in self._consumers.values():
            consumer.close()

    def _consumer(self, group: str) -> Consumer:
        if group not in self._consumers:
            # A client that begins anew with the bootstrap servers is what trips over the assertion, too.
            asking = {**QUIET, **self._kafka, "group.id": group, "metadata.recovery.strategy": "none"}
            self._consumers[group] = Consumer({**asking, "enable.auto.commit": False})
        return self._consumers[group]
