"""The rows of engagement_events in a stretch of event time, as one snapshot sees them, and how far the capture is."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

CONNECT_S: Final = 10
ROWS_MAX: Final = 20_000
SQL: Final = Path(__file__).parents[2] / "sql" / "postgres" / "queries"
COLUMNS: Final = """
    SELECT id, content_id, user_id, event_type, (extract(epoch FROM event_ts) * 1000000)::bigint, duration_ms, device,
        raw_payload
    FROM engagement_events
"""
IN_RANGE: Final = """
    WHERE event_ts >= 'epoch'::timestamptz + %(begin)s * interval '1 microsecond'
        AND event_ts < 'epoch'::timestamptz + %(end)s * interval '1 microsecond'
"""
# The largest range that PostgreSQL's arithmetic takes without rounding: until the year 2255
LIMIT_US: Final = 9_000_000_000_000_000

Columns = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Captured:
    """How far the capture has come. behind_bytes: of PostgreSQL's log, None where it has no slot, or
    has given it up; 0: it has all."""

    behind_bytes: int | None


class EventsTable:
    """One snapshot of the table, taken when it is opened. Methods raise psycopg.Error."""

    def __init__(self, dsn: str, slot: str) -> None:
        self._dsn, self._slot = dsn, slot
        self.lowest: int | None = None  # ids among the rows that were read
        self.highest: int | None = None
        self._connection = psycopg.connect(dsn, connect_timeout=CONNECT_S)
        self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._connection.read_only = True
        # After the snapshot: all that it sees was logged before here.
        self._connection.execute("SELECT 1 FROM engagement_events LIMIT 1")
        self._log_end = _number(self._connection, "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint") or 0

    def captured(self, wait_s: float) -> Captured:
        """Wait until Kafka has all that this snapshot sees, at most so many seconds."""
        deadline = time.monotonic() + wait_s
        query = """
            SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::bigint FROM pg_replication_slots
            WHERE slot_name = %s AND wal_status IS DISTINCT FROM 'lost'
        """
        with psycopg.connect(self._dsn, connect_timeout=CONNECT_S, autocommit=True) as connection:
            while True:
                confirmed = _number(connection, query, [self._slot])
                if confirmed is None or confirmed >= self._log_end:
                    return Captured(None if confirmed is None else 0)
                if time.monotonic() > deadline:
                    return Captured(self._log_end - confirmed)
                time.sleep(0.1)

    def count(self, begin_us: int, end_us: int) -> int:
        """About how many rows there are in the range, for the progress bar."""
        query = f"EXPLAIN (FORMAT JSON) SELECT 1 FROM engagement_events {IN_RANGE}"
        row = self._connection.execute(query, _range(begin_us, end_us)).fetchone()
        return int(row[0][0]["Plan"]["Plan Rows"]) if row else 0

    def rows(self, begin_us: int, end_us: int) -> Iterator[list[tuple[int, Columns]]]:
        """(id, columns as `fingerprints.prints_of` takes them), many at a time."""
        batch: list[tuple[int, Columns]] = []
        query = f"COPY ({COLUMNS} {IN_RANGE}) TO STDOUT"
        with self._connection.cursor().copy(query, _range(begin_us, end_us)) as copy:
            for event_id, content, user, kind, at, duration, device, payload in copy.rows():
                batch.append(
                    (
                        int(event_id),
                        (
                            content,
                            user,
                            kind,
                            int(at),
                            None if duration is None else int(duration),
                            device,
                            None if payload == "null" else payload,
                        ),
                    )
                )
                if len(batch) == ROWS_MAX:
                    yield self._seen(batch)
                    batch = []
        if batch:
            yield self._seen(batch)

    def _seen(self, batch: list[tuple[int, Columns]]) -> list[tuple[int, Columns]]:
        ids = [event_id for event_id, _ in batch]
        self.lowest = min(ids) if self.lowest is None else min(self.lowest, *ids)
        self.highest = max(ids) if self.highest is None else max(self.highest, *ids)
        return batch

    def known_now(self, ids: Sequence[int]) -> set[int]:
        """Which of these ids the table has by now: rows that came after the snapshot too."""
        with psycopg.connect(self._dsn, connect_timeout=CONNECT_S) as connection:
            found = connection.execute("SELECT id FROM engagement_events WHERE id = ANY(%s)", [list(ids)])
            return {row[0] for row in found}

    def contents(self) -> list[tuple[Any, ...]]:
        """Every content as it is today: rows as `engagement.enrich.Contents.put` takes them."""
        return self._connection.execute((SQL / "content_all.sql").read_text(encoding="utf-8").encode()).fetchall()

    def close(self) -> None:
        self._connection.close()


def _range(begin_us: int, end_us: int) -> dict[str, int]:
    return {"begin": max(begin_us, -LIMIT_US), "end": min(end_us, LIMIT_US)}


def _number(connection: "psycopg.Connection[Any]", query: Any, arguments: Sequence[Any] = ()) -> int | None:
    row = connection.execute(query, arguments or None).fetchone()
    return None if row is None or row[0] is None else int(row[0])
