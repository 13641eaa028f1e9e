"""A whole pipeline for tests: real processes, started, killed and compared with what brute force computes."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from sinks.redis_layout import SUMMARY, SUMMARY_FIELD, Group, PartitionKeys
from sources.kafka_topics import ask
from sources.topic_positions import TopicPositions
from tests.brute_force import Expected, Seen, totals

ROOT = Path(__file__).parent.parent
READY_S = 60


@contextmanager
def every(seconds: float, look: Callable[[], None]) -> Iterator[None]:
    """Call `look` again and again on a thread while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            look()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass
class Flow:
    """One running `python -m bytewax.run dataflows.engagement`."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout: float = 40) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@dataclass
class Pipeline:
    """A topic, a database and a Redis of its own, and the flows on them."""

    kafka: Any
    postgres: str
    redis_url: str
    group: str
    work: Path
    partitions: int = 4
    env: dict[str, str] = field(default_factory=dict)
    flows: list[Flow] = field(default_factory=list)
    lengths: dict[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topic = f"{self.group}-events"
        self.letters = f"{self.group}-events.dead-letters"
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            for script in sorted((ROOT / "sql" / "postgres").glob("*.sql")):
                connection.execute(script.read_text(encoding="utf-8"))
            rows = connection.execute("SELECT id::text, length_seconds FROM content").fetchall()
        self.lengths = dict(rows)
        self.contents = sorted(self.lengths)

    def environment(self, **more: str) -> dict[str, str]:
        """The settings, for any of the commands."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "REDIS_"))},
            "DATABASE_URL": self.postgres,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "KAFKA_TOPIC": self.topic,
            "KAFKA_TOPIC_DEAD_LETTERS": self.letters,
            "KAFKA_TOPIC_PARTITIONS": str(self.partitions),
            "KAFKA_CONSUMER_GROUP": self.group,
            "REDIS_URL": self.redis_url,
            "SINKS": "redis",
            **self.env,
            **more,
        }

    def provision(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """python -m operations.provision"""
        run = subprocess.run(
            [sys.executable, "-m", "operations.provision", *arguments],
            cwd=ROOT,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=READY_S,
            check=False,
        )
        assert arguments or run.returncode == 0, run.stdout + run.stderr
        return run

    def start(
        self,
        name: str = "flow",
        *,
        addresses: Sequence[str] = (),
        index: int = 0,
        recovery: bool = True,
        snapshot_s: int = 1,
        **more: str,
    ) -> Flow:
        """One process; `name` is its recovery directory, `addresses` those of a Bytewax cluster."""
        command = [sys.executable, "-m", "bytewax.run", "dataflows.engagement"]
        if recovery:
            directory = self.work / name
            if not directory.exists():
                directory.mkdir(parents=True)
                subprocess.run([sys.executable, "-m", "bytewax.recovery", str(directory), "1"], check=True, cwd=ROOT)
            command += ["-r", str(directory), "-s", str(snapshot_s), "-b", "0"]
        if addresses:
            command += ["-i", str(index), "-a", ";".join(addresses)]
        log = self.work / f"{name}-{index}-{len(self.flows)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment(**more),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as the demo and containers have it: the kernel shares cores by session
            )
        flow = Flow(process, log)
        self.flows.append(flow)
        return flow

    def start_cluster(self, processes: int, name: str = "flow", **more: Any) -> list[Flow]:
        """A Bytewax cluster on one recovery directory."""
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(processes)]
        return [self.start(name, addresses=addresses, index=index, **more) for index in range(processes)]

    def forget_recovery(self, name: str = "flow") -> None:
        """Delete the recovery directory."""
        shutil.rmtree(self.work / name, ignore_errors=True)

    def produce(self, values: Iterable[bytes | dict[str, Any]], key: bytes | None = None) -> None:
        """Straight into the topic, keyed by content as the capture does."""
        producer = Producer({**self.kafka.properties, "partitioner": "murmur2_random", "linger.ms": 5})
        for value in values:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            content = value.get("content_id") if isinstance(value, dict) else None
            producer.produce(self.topic, raw, key=content.encode() if content else key)
            producer.poll(0)
        assert producer.flush(30) == 0

    def records(self, topic: str | None = None) -> list[Any]:
        """Every committed record of the topic, as confluent_kafka messages."""
        topic = topic or self.topic
        consumer = Consumer({**self.kafka.properties, "group.id": "test", "auto.offset.reset": "error"})
        ends = self.ends(topic, consumer)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        found: list[Any] = []
        deadline = time.monotonic() + 60
        while any(_position(consumer, topic, partition) < end for partition, end in ends.items()):
            assert time.monotonic() < deadline, f"{topic} not read within 60 s"
            found += [message for message in consumer.consume(5000, 0.1) if message.error() is None]
        consumer.close()
        return found

    def ends(self, topic: str | None = None, consumer: Consumer | None = None) -> dict[int, int]:
        """End of each partition."""
        topic = topic or self.topic
        asking = consumer or Consumer({**self.kafka.properties, "group.id": "test"})
        partitions = asking.list_topics(topic, timeout=10).topics[topic].partitions
        ends = {p: asking.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in partitions}
        if consumer is None:
            asking.close()
        return ends

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.redis_url)

    @property
    def layout(self) -> Group:
        return Group(self.group, self.topic, 10)

    def keys(self, partition: int) -> PartitionKeys:
        return self.layout.partition(partition)

    def positions(self) -> dict[int, int]:
        """What Redis needs next of each Kafka partition; -1: it has none."""
        client = self.client()
        found = {p: client.hget(self.keys(p).position, "next") for p in range(self.partitions)}
        return {partition: -1 if value is None else int(value) for partition, value in found.items()}

    def claimed(self, flow: Flow, timeout: float = READY_S) -> None:
        """Wait until the flow has claimed its partitions, and so listens to signals."""
        deadline = time.monotonic() + timeout
        while "partition_claimed" not in flow.said():
            assert flow.process.poll() is None, flow.said()[-3000:]
            assert time.monotonic() < deadline, flow.said()[-3000:]
            time.sleep(0.05)

    def caught_up(self, timeout: float = 60) -> None:
        """Wait until Redis stands at the end of every partition; a flow that died is an error, with its words."""
        ends = self.ends()
        deadline = time.monotonic() + timeout
        while self.positions() != ends:
            assert time.monotonic() < deadline, f"Redis at {self.positions()}, Kafka at {ends}\n{self.words()}"
            time.sleep(0.05)

    def sink_positions(self, sink: str) -> dict[int, int]:
        """What a sink needs next of each Kafka partition."""
        if sink == "redis":
            return self.positions()
        deadline = time.monotonic() + 60

        def waiting(what: str) -> None:
            assert time.monotonic() < deadline, f"no answer to: {what}\n{self.words()}"

        # A client for each try: one that was made while the broker was starting may never find it.
        return ask(f"read the positions of {sink}", lambda: self._committed(sink), waiting)

    def _committed(self, sink: str) -> dict[int, int]:
        positions = TopicPositions(self.kafka.properties, self.topic)
        try:
            return positions.committed(f"{self.group}.{sink}")
        finally:
            positions.close()

    def words(self) -> str:
        """The last lines of every flow."""
        return "\n".join(f"--- {flow.log.name}\n{flow.said()[-3000:]}" for flow in self.flows[-4:])

    def expected(self, rejected: Callable[[bytes], bool] = lambda value: False) -> Expected:
        """Brute force over the topic."""
        seen = [
            Seen(message.partition(), message.offset(), message.timestamp()[1], json.loads(message.value()))
            for message in self.records()
            if not rejected(message.value())
        ]
        return totals(seen, self.lengths)

    def stored(self) -> Expected:
        """What Redis holds, as readers take it: a window is the sum of its minutes and its stragglers."""
        found = Expected()
        for partition in range(self.partitions):
            for kind in ("minute", "window"):
                for start_s, rows in self._buckets(partition, kind):
                    late = SUMMARY.unpack(rows.pop(SUMMARY_FIELD, bytes(SUMMARY.size)))[1]
                    window = partition, start_s // 600 * 600
                    if late:
                        found.late[window] = late
                    for content, value in rows.items():
                        row = np.frombuffer(value, "<i8")
                        if kind == "minute":
                            found.minutes[partition, start_s][content.decode()] = row.tolist()
                        total = found.windows[window].get(content.decode(), 0)
                        found.windows[window][content.decode()] = (row + total).tolist()
        return found

    def _buckets(self, partition: int, kind: str) -> Iterator[tuple[int, dict[bytes, bytes]]]:
        """Start in seconds, and the hash, of every bucket of the kind."""
        client, stem = self.client(), self.keys(partition).totals(kind, 0).rpartition(":")[0]
        for key in set(client.scan_iter(match=f"{_escaped(stem)}:*", count=1000)):  # it may tell a key twice
            start = key.decode().removeprefix(stem + ":")
            if start.isdigit():
                yield int(start), client.hgetall(key)

    def assert_equal(self, rejected: Callable[[bytes], bool] = lambda value: False) -> Expected:
        """Redis holds, bit for bit, what brute force computes from the topic."""
        expected, stored = self.expected(rejected), self.stored()
        assert {key: rows for key, rows in stored.minutes.items() if rows} == dict(expected.minutes)
        assert {key: rows for key, rows in stored.windows.items() if rows} == dict(expected.windows)
        assert stored.late == expected.late
        return expected

    def close(self) -> None:
        for flow in self.flows:
            if flow.process.poll() is None:
                flow.kill()


def events(
    contents: Sequence[str], count: int, *, seed: int = 1, spread_s: int = 1500, now: datetime | None = None
) -> list[dict[str, Any]]:
    """Realistic enough: event times over the last `spread_s` seconds, in order but for some, a few late ones."""
    rng = random.Random(seed)
    now = now or datetime.now(UTC)
    made = []
    for number in range(count):
        ago = spread_s * (1 - number / count) + rng.choice([0, 0, 0, rng.uniform(0, 60), rng.uniform(0, 1300)])
        made.append(
            {
                "id": seed * 10_000_000 + number,
                "content_id": rng.choice(contents[: 1 + int(rng.paretovariate(0.6)) % len(contents)]),
                "user_id": f"user_{rng.randrange(500)}",
                "event_type": rng.choice(["play", "play", "pause", "finish", "click"]),
                "event_ts": (now - timedelta(seconds=ago)).isoformat(timespec="milliseconds"),
                "duration_ms": rng.choice([None, rng.randrange(0, 4_000_000)]),
                "device": rng.choice(["ios", "android", "web", None]),
                "raw_payload": {"n": number},
            }
        )
    return made


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _position(consumer: Consumer, topic: str, partition: int) -> int:
    return max(0, int(consumer.position([TopicPartition(topic, partition)])[0].offset))


def _escaped(pattern: str) -> str:
    return pattern.replace("[", "\\[").replace("*", "\\*").replace("?", "\\?")
