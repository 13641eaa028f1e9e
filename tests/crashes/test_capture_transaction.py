"""A transaction of many rows passes through the capture whole and once, also across a kill, in bounded memory.

BIG_TRANSACTION_ROWS=5000000 for the size that operators ask about; 150,000 rows otherwise.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import structlog
from confluent_kafka import Consumer, TopicPartition

from demo.services import postgres
from tests.fakes.capture import Capture, Captured, create_tables

log = structlog.get_logger()

ROWS = int(os.environ.get("BIG_TRANSACTION_ROWS", "150000"))
RSS_MB_MAX = 400
ROWS_PER_S_MIN = 2_000  # on a machine that runs other tests too; alone it is ten times that
SECONDS = 60 + ROWS / ROWS_PER_S_MIN

INSERT = (
    # no content: PostgreSQL would look each one up
    b"INSERT INTO engagement_events (event_type, event_ts, duration_ms, device, raw_payload) "
    b"SELECT 'pause', now(), n, 'ios', '{\"a\": 1}' "
    b"FROM generate_series(1, %s) n"
)


@pytest.fixture
def captured(kafka: Any, postgres_server: Any, unique: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """On a server that keeps all the log of such a transaction."""
    monkeypatch.setitem(postgres.OPTIONS, "max_slot_wal_keep_size", "-1")
    postgres_server.stop()
    postgres_server.start()
    create_tables(postgres_server.dsn)
    topic = kafka.topic()
    kafka.topic(1, name=f"{topic}.positions", cleanup_policy="compact")
    it = Captured(postgres_server.dsn, kafka.properties, topic, unique)
    yield it
    it.close()


@pytest.mark.timeout(3 * SECONDS)
def test_a_transaction_of_many_rows_killed_in_the_middle_comes_whole_and_once(
    captured: Captured, wait_for: Callable[..., Any]
) -> None:
    first = captured.capture().start()
    wait_for(lambda: first.logged("streaming"), timeout=60)
    with psycopg.connect(captured.dsn) as connection:
        connection.execute(INSERT, [ROWS])
    committed_at = time.monotonic()
    wait_for(lambda: _sent(captured) > ROWS * 0.4, timeout=SECONDS, message="two fifths of the rows")
    rss_mb = [_peak_rss_mb(first)]
    first.kill()
    left = _sent(captured)
    assert ROWS * 0.4 < left < ROWS, "killed in the middle of the transaction"
    second = captured.capture().start()
    ids = _all_ids(captured, ROWS, SECONDS)
    seconds = time.monotonic() - committed_at
    rss_mb.append(_peak_rss_mb(second))
    assert second.stop() == 0
    assert np.array_equal(ids, np.arange(1, ROWS + 1))
    assert max(rss_mb) < RSS_MB_MAX
    log.info("captured", rows=ROWS, seconds_from_commit=round(seconds, 1), peak_rss_mb=rss_mb, rows_before_kill=left)


def _sent(captured: Captured) -> int:
    """Rows of the transaction that are in Kafka, by the position beside them."""
    positions = captured.positions()
    return int(positions[-1].get("sent", 0)) if positions else 0


def _peak_rss_mb(capture: Capture) -> int:
    status = Path(f"/proc/{capture.running.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) // 1024


def _all_ids(captured: Captured, count: int, timeout: float) -> Any:
    """The ids in the topic, sorted, doubles and all; waits for so many and a moment longer."""
    consumer = Consumer({**captured.properties, "group.id": "unused", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(captured.topic, partition, 0) for partition in range(4)])
    found: list[Any] = []
    deadline = time.monotonic() + timeout
    try:
        while True:
            messages = [each for each in consumer.consume(10_000, 1.0) if each.error() is None]
            found.append(np.array([int(_ID.match(each.value())[1]) for each in messages], np.int64))  # type: ignore[index]
            if not messages and sum(map(len, found)) >= count:
                return np.sort(np.concatenate(found))
            assert time.monotonic() < deadline, f"{sum(map(len, found))} of {count} rows after {timeout:.0f} s"
    finally:
        consumer.close()


_ID = re.compile(rb'\{"id":(\d+),')
