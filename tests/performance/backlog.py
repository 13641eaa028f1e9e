"""What the benchmarks feed the pipeline: contents in PostgreSQL, and a topic full of their events.

Events are about 259 bytes of JSON with the fields of `engagement_events`; contents are drawn by Zipf's law with
exponent 1.0; the record's key is the content id, as the capture does it. Event times lie as if the events had come at
`per_second` up to now: in order, but for one in twenty up to 15 s late and one in a hundred up to four minutes.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
from confluent_kafka import Producer

CHUNK = 50_000
USERS = 100_000
TYPES = np.array(["play", "play", "play", "pause", "pause", "finish", "click"])
DEVICES = np.array(['"ios"', '"android"', '"web"', '"smart-speaker"', "null"])
EVENT = (
    '{"id":%d,"content_id":"%s","user_id":"5f0c1e7a-1111-4222-8333-%012d","event_type":"%s","event_ts":"%sZ",'
    '"duration_ms":%d,"device":%s,"raw_payload":{"app":"5.2.0.1","n":%d}}'
)
CONTENT = "COPY content (id, slug, title, content_type, length_seconds, publish_ts) FROM STDIN"


def content_id(number: int) -> str:
    return f"0c0ffee0-0000-4000-8000-{number:012x}"


def put_contents(dsn: str, count: int) -> list[str]:
    """Rows of `content`, as far as they are missing; their ids, most popular first."""
    ids = [content_id(number) for number in range(count)]
    kinds = ("podcast", "newsletter", "video")
    with psycopg.connect(dsn) as connection:
        there = {row[0] for row in connection.execute("SELECT id::text FROM content")}
        with connection.cursor().copy(CONTENT) as rows:
            for number, each in enumerate(ids):
                if each not in there:
                    title = f"A title of the usual length, number {number}"
                    length_s = 60 + number % 3600
                    rows.write_row((each, f"slug-{number}", title, kinds[number % 3], length_s, "2025-01-01T00:00:00Z"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE content")
    return ids


class Events:
    """Events of `contents`, one after another. The same seed gives the same ones, relative to `now_s`."""

    def __init__(self, contents: list[str], seed: int = 1) -> None:
        self._contents = contents
        self._draw = np.random.default_rng(seed)
        popularity = 1.0 / np.arange(1, len(contents) + 1)
        self._cumulative = np.cumsum(popularity) / popularity.sum()
        self._next_id = seed * 1_000_000_000

    def take(self, event_s: Any) -> list[tuple[bytes, bytes]]:
        """(key, value) of an event at each of these times: float64 [n], seconds since 1970."""
        draw, count = self._draw, len(event_s)
        late = draw.random(count)
        late_s = np.where(late < 0.05, draw.uniform(0, 15, count), 0.0)
        late_s = np.where(late < 0.01, draw.uniform(15, 240, count), late_s)
        stamps = np.datetime_as_string(((event_s - late_s) * 1e6).astype("int64").view("M8[us]"))
        which = np.minimum(np.searchsorted(self._cumulative, draw.random(count)), len(self._contents) - 1)
        columns = (
            which.tolist(),
            draw.integers(0, USERS, count).tolist(),
            draw.choice(TYPES, count).tolist(),
            stamps.tolist(),
            draw.integers(0, 3_000_000, count).tolist(),
            draw.choice(DEVICES, count).tolist(),
            draw.integers(0, 1000, count).tolist(),
        )
        made, first = [], self._next_id
        self._next_id += count
        for number, (content, user, kind, stamp, duration_ms, device, noise) in enumerate(zip(*columns, strict=True)):
            name = self._contents[content]
            value = EVENT % (first + number, name, user, kind, stamp, duration_ms, device, noise)
            made.append((name.encode(), value.encode()))
        return made

    def backlog(self, count: int, per_second: float, now_s: float) -> Iterator[list[tuple[bytes, bytes]]]:
        """Chunks of `count` events in all, as if they had come at `per_second` until `now_s`."""
        for first in range(0, count, CHUNK):
            numbers = np.arange(first, min(first + CHUNK, count))
            yield self.take(now_s - (count - numbers) / per_second)


class Feed:
    """Into one topic, keyed by content as the capture does."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "compression.type": "lz4",
                "batch.size": 262_144,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def send(self, records: list[tuple[bytes, bytes]]) -> None:
        produce: Callable[..., None] = self._producer.produce
        for key, value in records:
            while True:
                try:
                    produce(self._topic, value, key)
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.poll(0)

    def flush(self) -> None:
        assert self._producer.flush(120) == 0, f"{self._topic} did not take all records"


def fill(bootstrap: str, topic: str, contents: list[str], count: int, per_second: float) -> float:
    """A backlog of `count` events; the mean bytes of a value."""
    feed, size = Feed(bootstrap, topic), 0
    for records in Events(contents).backlog(count, per_second, time.time()):
        size += sum(len(value) for _, value in records)
        feed.send(records)
    feed.flush()
    return size / max(count, 1)
