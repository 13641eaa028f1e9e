"""Where the capture and every sink stand, read from where each keeps it, against where the input ends."""

from collections.abc import Mapping
from typing import Any

import psycopg

from sinks.redis_layout import Group
from sources.topic_positions import TopicPositions


class Positions:
    """Reads only. sinks: the ones to be asked for; client: a Redis client; layout: of this group and topic."""

    def __init__(self, kafka: Mapping[str, str], topic: str, group: str, sinks: tuple[str, ...], client: Any) -> None:
        self._kafka = TopicPositions(kafka, topic)
        self._group, self._sinks = group, sinks
        self._redis = client
        self._layout = Group(group, topic, 1)  # the length of windows plays no part in positions

    def ends(self) -> dict[int, int]:
        """Kafka partition -> the offset behind its last committed record (or marker)."""
        return self._kafka.ends()

    def of(self, sink: str) -> dict[int, int]:
        """Kafka partition -> first offset this sink still needs; a partition it knows nothing of is absent."""
        return self._in_redis() if sink == "redis" else self._kafka.committed(f"{self._group}.{sink}")

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
