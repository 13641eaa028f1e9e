"""Rows into PostgreSQL while things go wrong: from a seed, some of them such that parse must reject them."""

import contextlib
import json
import random
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from tests.pipeline import events

POISON = b"poison"  # in the payload of every row that parse must reject
POISON_SHARE = 0.01
BURST_SHARE, BURST_ROWS = 0.01, 1500  # now and then one large transaction
EVERY_S = 0.1
INSERT = """
INSERT INTO engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""


class Load:
    """A thread that inserts `per_second` rows a second. Rows whose commit nobody acknowledged may be there or not:
    the table says what has happened."""

    def __init__(self, dsn: str, contents: list[str], per_second: int, seed: int, poison: float | None = None) -> None:
        self._poison = POISON_SHARE if poison is None else poison
        self._dsn, self._contents, self._per_second = dsn, contents, per_second
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set():
            with (
                contextlib.suppress(psycopg.Error),
                psycopg.connect(self._dsn, connect_timeout=2, autocommit=True) as connection,
            ):
                while not self._stop.wait(EVERY_S):
                    self._insert(connection)
            self._stop.wait(0.1)

    def _insert(self, connection: "psycopg.Connection[Any]") -> None:
        count = BURST_ROWS if self._rng.random() < BURST_SHARE else max(1, int(self._per_second * EVERY_S))
        rows = [self._row(event) for event in self._events(count)]
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(INSERT, rows)

    def _events(self, count: int) -> list[dict[str, Any]]:
        return events(self._contents, count, seed=self._rng.randrange(1 << 30), spread_s=900, now=_a_moment_ago())

    def _row(self, event: dict[str, Any]) -> tuple[Any, ...]:
        poisoned = self._rng.random() < self._poison
        return (
            event["content_id"],
            uuid.UUID(int=int(event["user_id"].removeprefix("user_"))),
            event["event_type"],
            event["event_ts"],
            event["duration_ms"],
            "x" * 100 if poisoned else event["device"],
            json.dumps({POISON.decode() if poisoned else "n": 1}),
        )


def _a_moment_ago() -> datetime:
    return datetime.now(UTC) - timedelta(milliseconds=50)
