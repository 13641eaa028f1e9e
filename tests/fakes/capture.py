"""What tests of the capture share: its tables, its process, and what it has written."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, TopicPartition

ROOT = Path(__file__).parents[2]
CONTENT = "123e4567-e89b-12d3-a456-426614174000"


def create_tables(dsn: str, publication: str = "engagement") -> None:
    """The application's tables, the sample contents, and the publication."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for path in sorted((ROOT / "sql/postgres").glob("*.sql")):
            connection.execute(path.read_bytes())
        connection.execute(
            f"CREATE PUBLICATION {publication} FOR TABLE engagement_events WITH (publish = 'insert')".encode()
        )


INSERT = (
    b"INSERT INTO engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload) "
    b"SELECT (SELECT id FROM content ORDER BY slug OFFSET n %% 60 LIMIT 1), gen_random_uuid(), 'pause', "
    b"now() - n * interval '1 ms', n, 'ios', jsonb_build_object('n', n) FROM generate_series(1, %s) n"
)


def insert(dsn: str, rows: int, transactions: int = 1) -> None:
    with psycopg.connect(dsn) as connection:
        for _ in range(transactions):
            connection.execute(INSERT, [rows])
            connection.commit()


def ids_in_table(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM engagement_events ORDER BY id")]


@dataclass
class TopicReader:
    """All committed records of a topic, read on at each look."""

    properties: dict[str, str]
    topic: str
    partitions: int = 4
    records: list[tuple[int, bytes | None, bytes]] = field(default_factory=list)  # partition, key, value
    _consumer: Any = None

    def look(self, seconds: float = 0.05) -> list[tuple[int, bytes | None, bytes]]:
        if self._consumer is None:
            self._consumer = Consumer(
                {**self.properties, "group.id": "unused", "auto.offset.reset": "earliest", "fetch.wait.max.ms": 20}
            )
            self._consumer.assign([TopicPartition(self.topic, partition, 0) for partition in range(self.partitions)])
        message = self._consumer.poll(seconds)
        while message is not None:
            if message.error() is None:
                self.records.append((message.partition(), message.key(), message.value()))
            elif message.error().code() != KafkaError._PARTITION_EOF:
                raise AssertionError(message.error())
            message = self._consumer.poll(0)
        return self.records

    def ids(self) -> list[int]:
        """Ids of the rows, sorted: with doubles if there are any."""
        return sorted(json.loads(value)["id"] for _, _, value in self.look())

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()


@dataclass
class Capture:
    """The capture as operators run it, in a process of its own."""

    env: dict[str, str]
    flow: str = "dataflows.cdc_capture"
    prelude: str = ""  # Python to run in the process before the flow, such as a fault
    output: Path = field(default_factory=lambda: Path(tempfile.mkstemp(prefix="capture-")[1]))
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Capture":
        run = f"{self.prelude}\nimport runpy, sys\nsys.argv = ['run.py', {self.flow!r}]\n"
        run += "sys.path.insert(0, '.')\nrunpy.run_module('bytewax.run', run_name='__main__', alter_sys=True)"
        command = [sys.executable, "-c", run] if self.prelude else [sys.executable, "-m", "bytewax.run", self.flow]
        with self.output.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **self.env}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return self

    @property
    def running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None
        return self.process

    @property
    def log(self) -> str:
        return self.output.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of this event."""
        found = []
        for line in self.log.splitlines():
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if fields["event"] == event:
                    found.append(fields)
        return found

    def stop(self, timeout: float = 20) -> int:
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(timeout)

    def kill(self) -> None:
        self.running.kill()
        self.running.wait(10)

    def ended(self, timeout: float = 30) -> int:
        """The exit code. Raises AssertionError with the log where it does not end."""
        try:
            return self.running.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.log[-4000:]}") from None

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.kill()
        self.output.unlink(missing_ok=True)


@dataclass
class Captured:
    """One table, one topic, one slot; as many captures of it as a test starts."""

    dsn: str
    properties: dict[str, str]
    topic: str
    slot: str
    captures: list[Capture] = field(default_factory=list)
    reader: TopicReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = TopicReader(self.properties, self.topic)

    @property
    def env(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.dsn,
            "KAFKA_BOOTSTRAP_SERVERS": self.properties["bootstrap.servers"],
            "KAFKA_TOPIC_ENGAGEMENT_EVENTS": self.topic,
            "KAFKA_CONSUMER_GROUP": self.slot,
            "CDC_SLOT": self.slot,
        }

    def capture(self, flow: str = "dataflows.cdc_capture", prelude: str = "", **env: str) -> Capture:
        """A capture that is not started yet."""
        capture = Capture({**self.env, **env}, flow, prelude)
        self.captures.append(capture)
        return capture

    def await_ids(self, ids: Callable[[], list[int]], timeout: float = 30) -> None:
        """Wait until the topic has as many rows as the table, then compare: each once."""
        deadline = time.monotonic() + timeout
        while len(self.reader.ids()) < len(ids()):
            if time.monotonic() > deadline:
                logs = "\n---\n".join(capture.log[-3000:] for capture in self.captures)
                raise AssertionError(f"{len(self.reader.ids())} of {len(ids())} rows after {timeout} s\n{logs}")
        self.reader.look(0.3)
        assert self.reader.ids() == ids()

    def await_rows(self, more: int, timeout: float = 30) -> None:
        """Wait until the table has so many rows more than now."""
        self._await(lambda: len(ids_in_table(self.dsn)), more, timeout)

    def await_more(self, more: int, timeout: float = 30) -> None:
        """Wait until the topic has so many rows more than now."""
        self._await(lambda: len(self.reader.ids()), more, timeout)

    def _await(self, count: Callable[[], int], more: int, timeout: float) -> None:
        wanted, deadline = count() + more, time.monotonic() + timeout
        while count() < wanted:
            assert time.monotonic() < deadline, f"{count()} of {wanted} rows after {timeout} s"

    def recapture(self, **env: str) -> None:
        """python -m operations.provision --recapture"""
        command = [sys.executable, "-m", "operations.provision", "--recapture"]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **self.env, **env}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def drop_slot(self) -> None:
        """As an operator would who ends the reader first."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while True:
                connection.execute(
                    "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s",
                    [self.slot],
                )
                try:
                    connection.execute("SELECT pg_drop_replication_slot(%s)", [self.slot])
                    return
                except psycopg.errors.ObjectInUse:
                    continue  # its reader was back sooner

    def positions(self) -> list[dict[str, Any]]:
        """All positions that were stored and not compacted away, the newest last."""
        reader = TopicReader(self.properties, f"{self.topic}.positions", partitions=1)
        try:
            reader.look(1.0)
            found = [value for _, key, value in reader.records if key == f"capture/{self.slot}".encode()]
        finally:
            reader.close()
        return [json.loads(value)["position"] for value in found]

    def slot_row(self) -> dict[str, Any] | None:
        with psycopg.connect(self.dsn, row_factory=psycopg.rows.dict_row) as connection:
            query = "SELECT * FROM pg_replication_slots WHERE slot_name = %s"
            return connection.execute(query, [self.slot]).fetchone()

    def close(self) -> None:
        for capture in self.captures:
            capture.close()
        self.reader.close()
