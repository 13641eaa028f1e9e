"""Realistic rows into PostgreSQL at a steady rate, with probes among them:

    python -m tests.performance.loader DSN RATE SECONDS

A transaction every 10 ms with the rows that are due. Every 50 ms one of them also holds a probe: the one event of a
content of its own (slug `probe-...`), so that whoever looks for it knows when it has come. For each probe a line on
standard output: content id, event time (seconds since 1970), time of the commit's answer (monotonic seconds); the last
line is `rows/s` and the rate that was reached.
"""

import sys
import time
from datetime import UTC, datetime

import psycopg

from generator.database import COPY
from generator.rhythm import even
from generator.rows import Record, Stream, records

TICK_S = 0.01
PROBE_EVERY_S = 0.05
BEGINS_IN_S = 0.5


def main(dsn: str, rate: str, seconds: str) -> None:
    per_second, length_s = float(rate), float(seconds)
    with psycopg.connect(dsn, autocommit=True) as connection:
        contents = connection.execute("SELECT id::text, length_seconds FROM content WHERE slug !~ '^probe-'").fetchall()
        probes = connection.execute("SELECT id::text FROM content WHERE slug ~ '^probe-' ORDER BY slug").fetchall()
        stream = Stream(contents, even(per_second), seed=1)
        taken = stream.take(round(per_second * length_s))
        # The texts are made beforehand: they need the start, and their making must not delay a commit.
        start_s = time.time() + BEGINS_IN_S + len(taken) / 150_000
        rows = list(records(taken, stream, round(start_s * 1e6)))
        time.sleep(max(0.0, start_s - time.time()))
        _write(connection, rows, per_second, [row[0] for row in probes])


def _write(connection: psycopg.Connection, rows: list[Record], rate: float, probes: list[str]) -> None:
    began, sent, probed = time.monotonic(), 0, 0
    while sent < len(rows):
        passed = time.monotonic() - began
        due = min(len(rows), int(passed * rate))
        probe = probes[probed] if passed >= probed * PROBE_EVERY_S and probed < len(probes) else None
        now = datetime.now(UTC)
        if due > sent or probe:
            with connection.transaction(), connection.cursor().copy(COPY) as copy:
                for row in rows[sent:due]:
                    copy.write_row(row)
                if probe:
                    copy.write_row((probe, None, "play", now.isoformat(), 1000, "probe", None))
            sent = due
        if probe:
            probed += 1
            sys.stdout.write(f"{probe} {now.timestamp():.6f} {time.monotonic():.6f}\n")
            sys.stdout.flush()
        time.sleep(max(0.0, began + passed + TICK_S - time.monotonic()))
    sys.stdout.write(f"rows/s {sent / (time.monotonic() - began):.1f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
