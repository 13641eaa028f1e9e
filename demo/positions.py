"""Where the capture and every sink stand, read from where each keeps it, against where the input ends."""

from collections.abc import Mapping
from typing import Any

import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from sinks.redis_layout import Group

PATIENCE_S = 5.0


class Positions:
    """Reads only. sinks: the ones to be asked for; client: a Redis client; layout: of this group and topic."""

    def __init__(self, kafka: Mapping[str, str], topic: str, group: str, sinks: tuple[str, ...], client: Any) -> None:
        self._admin = AdminClient({**kafka, "log_level": 0})
        self._topic, self._group, self._sinks = topic, group, sinks
        self._redis = client
        self._layout = Group(group, topic, 1)  # the length of windows plays no part in positions
        self._partitions: list[int] = []

    def ends(self) -> dict[int, int]:
        """Kafka partition -> the offset behind its last committed record (or marker)."""
        if not self._partitions:
            topic = self._admin.list_topics(self._topic, timeout=PATIENCE_S).topics[self._topic]
            self._partitions = sorted(topic.partitions)
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(self._topic, partition): latest for partition in self._partitions}
        found = self._admin.list_offsets(
            wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=PATIENCE_S
        )
        return {place.partition: future.result(PATIENCE_S).offset for place, future in found.items()}

    def of(self, sink: str) -> dict[int, int]:
        """Kafka partition -> first offset this sink still needs; a partition it knows nothing of is absent."""
        return self._in_redis() if sink == "redis" else self._in_kafka(sink)

    def waiting(self) -> dict[str, int]:
        """Sink -> offsets between its position and the end; a partition without position counts whole."""
        ends = self.ends()
        waiting = {}
        for sink in self._sinks:
            stands = self.of(sink)
            waiting[sink] = sum(max(0, end - stands.get(partition, 0)) for partition, end in ends.items())
        return waiting

    def totals(self) -> dict[str, int]:
        """What the boards have counted since ever: events, rejected, late ...; watermark_us: of the newest event."""
        totals: dict[str, int] = {}
        for partition in self._redis.smembers(self._layout.partitions):
            position = self._redis.hgetall(self._layout.partition(int(partition)).position)
            for name, value in position.items():
                field = name.decode()
                if field.startswith("total_"):
                    totals[field[6:]] = totals.get(field[6:], 0) + int(value)
                elif field == "watermark_us":
                    totals[field] = max(totals.get(field, 0), int(value))
        return totals

    def _in_redis(self) -> dict[int, int]:
        stands = {}
        for partition in self._redis.smembers(self._layout.partitions):
            stored = self._redis.hget(self._layout.partition(int(partition)).position, "next")
            if stored is not None:
                stands[int(partition)] = int(stored)
        return stands

    def _in_kafka(self, sink: str) -> dict[int, int]:
        group = f"{self._group}.{sink}"
        future = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=PATIENCE_S
        )[group]
        committed = future.result(PATIENCE_S).topic_partitions or []
        return {
            place.partition: place.offset for place in committed if place.topic == self._topic and place.offset >= 0
        }


def last_write(dsn: str) -> int:
    """End of PostgreSQL's write-ahead log now, in bytes since its beginning."""
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        row = connection.execute("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint").fetchone()
    assert row is not None
    return int(row[0])


def captured(dsn: str, slot: str) -> int | None:
    """Up to where the capture has confirmed that Kafka has everything; None without a slot."""
    query = "SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::bigint FROM pg_replication_slots WHERE slot_name = %s"
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        row = connection.execute(query, [slot]).fetchone()
    return None if row is None or row[0] is None else int(row[0])
