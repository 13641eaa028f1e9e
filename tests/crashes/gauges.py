"""How far each deployment has come, looked at again and again by a thread: what tells that a process is at work."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition

from sinks.redis_layout import Group

EVERY_S = 0.06
PATIENCE_S = 1.0
ANEW_S = 5.0
SINKS_IN_KAFKA = ("partner", "dead_letters")


class Gauges:
    """by: name of a deployment's keeper -> Kafka partition -> a value that changes whenever its output does.

    bigquery  (partition) -> rows that landed
    """

    def __init__(
        self,
        properties: dict[str, str],
        redis_url: str,
        group: str,
        topic: str,
        partitions: int,
        bigquery: Callable[[int], int],
    ) -> None:
        # Consumers, not the admin client: librdkafka aborts the process in its requests when the broker goes away.
        self._consumers = {name: self._consumer(properties, f"{group}.{name}") for name in (*SINKS_IN_KAFKA, "capture")}
        self._properties = properties
        self._former: list[Consumer] = []
        self._made: dict[str, float] = {}
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=1)
        self._group, self._topic, self._partitions, self._bigquery = group, topic, partitions, bigquery
        self._layout = Group(group, topic, 10)
        self.by: dict[str, dict[int, Any]] = {}
        self.at: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        for consumer in self._consumers.values():
            consumer.close()

    def read(self, sink: str, partitions: list[int], since: float) -> Any:
        """The newest values, if they were read after `since` (monotonic), else None."""
        if self.at.get(sink, 0.0) <= since:
            return None
        values = self.by[sink]
        return tuple(values.get(partition) for partition in partitions)

    def _run(self) -> None:
        looks: list[tuple[str, Callable[[], dict[int, Any]]]] = [
            ("redis", self._in_redis),
            ("bigquery", lambda: {p: self._bigquery(p) for p in range(self._partitions)}),
            ("capture", self._ends),
            *((sink, lambda sink=sink: self._in_kafka(sink)) for sink in SINKS_IN_KAFKA),  # type: ignore[misc]
        ]
        while not self._stop.wait(EVERY_S):
            for sink, look in looks:
                at = time.monotonic()
                with contextlib.suppress(redis.RedisError):
                    try:
                        self.by[sink] = look()
                        self.at[sink] = at
                    except KafkaException:
                        self._ask_anew(sink, at)

    def _ask_anew(self, sink: str, now: float) -> None:
        """By another client: one may not find a broker again that went away. The old one is kept, closing may hang."""
        if now - max(self.at.get(sink, 0.0), self._made.get(sink, 0.0)) > ANEW_S:
            self._made[sink] = now
            self._former.append(self._consumers[sink])
            self._consumers[sink] = self._consumer(self._properties, f"{self._group}.{sink}")

    def _consumer(self, properties: dict[str, str], group: str) -> Consumer:
        """Assigned to nothing: it is only asked."""
        recovery = {"metadata.recovery.strategy": "none", "reconnect.backoff.max.ms": 500}
        return Consumer({**properties, **recovery, "group.id": group, "log_level": 0})

    def _in_redis(self) -> dict[int, Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for partition in range(self._partitions):
            pipeline.hget(self._layout.partition(partition).position, "next")
        return dict(enumerate(pipeline.execute()))

    def _ends(self) -> dict[int, Any]:
        places = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        return {
            place.partition: self._consumers["capture"].get_watermark_offsets(place, PATIENCE_S)[1] for place in places
        }

    def _in_kafka(self, sink: str) -> dict[int, Any]:
        places = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        found = self._consumers[sink].committed(places, timeout=PATIENCE_S)
        return {place.partition: (place.offset, place.metadata) for place in found}
