"""Rows per second from PostgreSQL to Kafka: a backlog, live, and what a capture in Python could reach at best.

    python -m tests.performance.bench_capture [--rows 200000] [--rounds 3] [--live-rate 20000]

backlog   the capture was down while rows came in transactions of 500; from the slot's activity until a read_committed
          consumer has seen the last row
ceiling   the same WAL read from another slot and not decoded, the same bytes produced in transactions of 10,000
          (tests/performance/capture_ceiling.py), in the same rounds
live      rows are loaded while it runs, a transaction every 10 ms; it keeps up where the last row is in Kafka within a
          second of its commit
"""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from confluent_kafka import Consumer, TopicPartition

from generator.database import COPY
from generator.rhythm import even
from generator.rows import Stream, records
from sources.kafka import REQUIRED, TUNED
from tests.conftest import poll
from tests.performance.drain import Drained, measure
from tests.performance.live import slot_active, until
from tests.performance.profile import hottest
from tests.performance.record import Record, console, table
from tests.performance.site import Site, launch, site
from tests.pipeline import ROOT, Flow, Pipeline

ROWS_PER_TRANSACTION = 500
CEILING_TOPIC = "ceiling-events"


def main(
    rows: Annotated[int, typer.Option(help="of the backlog")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    live_rate: Annotated[float, typer.Option(help="rows a second, live")] = 20_000,
    live_seconds: Annotated[float, typer.Option()] = 10,
    contents: Annotated[int, typer.Option()] = 100_000,
    profile: Annotated[Path | None, typer.Option(help="file: one more backlog under py-spy")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Measure, print, record."""
    options = {"rows": rows, "rounds": rounds, "live_rate": live_rate, "live_seconds": live_seconds}
    record = Record("bench_capture", {**options, "contents": contents})
    done: list[tuple[int, Drained]] = []
    with site(contents, ("kafka", "postgres", "redis")) as place:
        place.topic(CEILING_TOPIC, 0, 1)
        for number in range(1, rounds + 1):
            for each in _backlog(place, rows, number):
                done.append((number, each))
                _say(number, each)
        if profile:
            _backlog(place, rows, 0, profile)
            hottest(profile, "capture")
        live = _live(place, live_rate, live_seconds)
    record.samples = [{"round": number, **each.sample()} for number, each in done]
    for what in ("capture", "ceiling"):
        runs = [each for _, each in done if each.flow == what]
        record.figure(f"{what}.rate", (each.rate for each in runs))
        record.figure(f"{what}.cpu_per_million", (each.cpu_per_million for each in runs))
        record.figure(f"{what}.rss_mb", (each.rss_mb for each in runs))
    pairs = zip(done[::2], done[1::2], strict=True)
    record.figure("capture.of_ceiling", (capture.rate / ceiling.rate for (_, capture), (_, ceiling) in pairs))
    for key, value in live.items():
        record.figure(f"live.{key}", [value])
    figures = record.figures
    table(
        "PostgreSQL to Kafka, median (range)",
        ["", "rows/s", "of the ceiling", "CPU s/M", "RSS MB"],
        [
            [
                what,
                figures[f"{what}.rate"].text(),
                figures["capture.of_ceiling"].text(2) if what == "capture" else "",
                figures[f"{what}.cpu_per_million"].text(1),
                figures[f"{what}.rss_mb"].text(),
            ]
            for what in ("capture", "ceiling")
        ],
    )
    console.print(f"live: {live['loaded']:,.0f} rows/s loaded, all in Kafka {live['behind_s']:.2f} s after the last")
    record.write(output)


def _backlog(place: Site, rows: int, number: int, profile: Path | None = None) -> list[Drained]:
    """The capture, then the ceiling, over the same WAL."""
    pipeline = place.again(f"capture-{number}")
    slot = pipeline.env["CDC_SLOT"] = f"capture_{number}"
    with psycopg.connect(pipeline.postgres, autocommit=True) as database:
        database.execute("TRUNCATE engagement_events")
    first = launch(pipeline, "first", "bytewax.run", "dataflows.cdc_capture")  # makes the slot
    until(lambda: slot_active(pipeline), first)
    first.stop()
    with psycopg.connect(pipeline.postgres, autocommit=True) as database:
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [f"ceiling_{number}"])
    _insert(pipeline.postgres, rows)
    arriving = Arriving(pipeline, pipeline.topic)
    begin = time.monotonic()
    capture = launch(pipeline, "capture", "bytewax.run", "dataflows.cdc_capture")
    claimed = partial(slot_active, pipeline)
    found = [measure(place, "capture", [capture], arriving.count, rows, begin, claimed=claimed, profile=profile)]
    capture.kill()
    found.append(_ceiling(place, pipeline, f"ceiling_{number}", rows))
    for each in (slot, f"ceiling_{number}"):
        _drop(pipeline.postgres, each)
    return found


def _ceiling(place: Site, pipeline: Pipeline, slot: str, rows: int) -> Drained:
    arriving = Arriving(pipeline, CEILING_TOPIC)
    arguments = [pipeline.postgres, slot, place.bootstrap, pipeline.topic, CEILING_TOPIC, str(rows)]
    command = [sys.executable, "-m", "tests.performance.capture_ceiling", *arguments]
    log, begin = pipeline.work / "ceiling.log", time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output)
    running = Flow(process, log)
    place.started.append(running)
    try:
        return measure(place, "ceiling", [running], arriving.count, rows, begin)
    finally:
        running.kill()


def _live(place: Site, rate: float, seconds: float) -> dict[str, float]:
    """loaded: rows/s that PostgreSQL took;  behind_s: from the last commit until all of them are in Kafka."""
    pipeline = place.again("capture-live")
    pipeline.env["CDC_SLOT"] = "capture_live"
    with psycopg.connect(pipeline.postgres, autocommit=True) as database:
        database.execute("TRUNCATE engagement_events")
    capture = launch(pipeline, "capture", "bytewax.run", "dataflows.cdc_capture")
    until(lambda: slot_active(pipeline), capture)
    arriving = Arriving(pipeline, pipeline.topic)
    command = [sys.executable, "-m", "tests.performance.loader", pipeline.postgres, str(rate), str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as loader:
        while loader.poll() is None:
            arriving.count()
        ended = time.monotonic()
        assert loader.stdout is not None
        loaded = float(loader.stdout.read().rpartition("rows/s ")[2])
    rows = round(rate * seconds)
    until(lambda: arriving.count() >= rows, capture)
    behind_s = time.monotonic() - ended
    capture.kill()
    return {"loaded": loaded, "behind_s": behind_s}


class Arriving:
    """Committed records of a topic from now on, counted as they come."""

    def __init__(self, pipeline: Pipeline, topic: str) -> None:
        self._consumer = Consumer({**TUNED, **REQUIRED, "bootstrap.servers": pipeline.kafka.bootstrap})
        self._consumer.assign([TopicPartition(topic, p, end) for p, end in pipeline.ends(topic).items()])
        self._count = 0

    def count(self) -> int:
        self._count += sum(message.error() is None for message in self._consumer.consume(10_000, 0.05))
        return self._count


def _insert(dsn: str, rows: int) -> None:
    """Realistic rows, committed ROWS_PER_TRANSACTION at a time."""
    with psycopg.connect(dsn, autocommit=True) as database:
        contents = database.execute("SELECT id::text, length_seconds FROM content").fetchall()
        stream = Stream(contents, even(2000), seed=1, late=False)
        start_us = round((time.time() - rows / 2000) * 1e6)
        for first in range(0, rows, ROWS_PER_TRANSACTION):
            taken = stream.take(min(ROWS_PER_TRANSACTION, rows - first))
            with database.transaction(), database.cursor().copy(COPY) as copy:
                for row in records(taken, stream, start_us):
                    copy.write_row(row)


def _active(database: psycopg.Connection, slot: str) -> bool:
    row = database.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchone()
    return bool(row and row[0])


def _drop(dsn: str, slot: str) -> None:
    """Its reader was killed: the server may not have noticed yet."""
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", [slot]
        )
        poll(lambda: not _active(database, slot), 30, f"slot {slot} to be free")
        database.execute("SELECT pg_drop_replication_slot(%s)", [slot])


def _say(number: int, each: Drained) -> None:
    console.print(f"round {number}: {each.flow} {each.rate:,.0f} rows/s, {each.cpu_per_million:.1f} CPU s/M")


if __name__ == "__main__":
    typer.run(main)
