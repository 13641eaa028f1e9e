"""Time and memory of the audit: python -m tests.performance.bench_audit [--events 1000000]

Rows in a real PostgreSQL, their records in a real Kafka as the capture writes them, and files that stand for what
BigQuery (Arrow, as its read API sends it) and the partner (ids) hold. Making them is not measured. Each sink then loses
an event, and exactly these are named.
"""

import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pyarrow as pa
import typer
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from demo.services import KINDS
from engagement.enrich import Contents, enrich
from engagement.parse import parse
from engagement.rows import arrow_rows
from operations.audit import audit
from operations.audit.topic import EventsTopic
from settings import Settings
from sources.kafka_topics import admin_client
from sources.pgoutput import Column
from sources.row_json import RowJson
from tests.performance.record import Record, table

ROOT = Path(__file__).parents[2]
TOPIC, LETTERS, PARTITIONS = "audit", "audit.dead-letters", 4
INSERT = """
INSERT INTO engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload)
SELECT (SELECT array_agg(id) FROM content)[1 + n %% 60], md5((n %% 100000)::text)::uuid,
    (ARRAY['play', 'pause', 'finish', 'click'])[1 + n %% 4],
    now() - interval '30 minutes' + n * interval '10 microseconds',
    n %% 3000000, 'mobile', jsonb_build_object('n', n, 'app', '5.2.0')
FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
"""
COLUMNS = (
    *(("id", 20), ("content_id", 2950), ("user_id", 2950), ("event_type", 25), ("event_ts", 1184)),
    *(("duration_ms", 23), ("device", 25), ("raw_payload", 3802)),
)


class ArrowFile:
    """What BigQuery holds, as a file of record batches."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, begin_us: int, end_us: int) -> Iterator[pa.RecordBatch]:
        """All of them."""
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_stream(file) as batches:
            yield from batches

    def replace(self, rows: Sequence[Mapping[str, Any]], begin_us: int, end_us: int) -> None:
        """Not here."""
        raise NotImplementedError


def main(
    events: Annotated[int, typer.Option(min=1000)] = 1_000_000,
    output: Annotated[Path | None, typer.Option(help="JSON; default: the committed result")] = None,
) -> None:
    """Make, measure, print, record."""
    folder = Path(tempfile.mkdtemp(prefix="bench-audit-"))
    folder.chmod(0o711)
    servers = [KINDS[kind](folder / kind) for kind in ("postgres", "kafka")]
    try:
        for server in servers:
            server.start()
        _measure(events, folder, *servers, output)
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _measure(events: int, folder: Path, postgres: Any, kafka: Any, output: Path | None) -> None:
    begun = time.monotonic()
    env = {
        "DATABASE_URL": postgres.dsn,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "KAFKA_TOPIC": TOPIC,
        "KAFKA_TOPIC_DEAD_LETTERS": LETTERS,
        "SINKS": "bigquery,partner,dead_letters",
    }
    settings = Settings.from_env(env=env)
    _insert(settings, events)
    _produce(settings)
    ids, rows = _deliver(settings, folder)
    typer.echo(f"made {events:,} events in {time.monotonic() - begun:.0f} s")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        figures, named = child.submit(_audited, env, ids, rows).result()
    assert named == {("bigquery", "missing"): [str(events // 2)], ("partner", "missing"): [str(events // 3)]}, named
    record = Record("bench_audit", {"events": events})
    for name, figure in figures.items():
        record.figure(name, [figure])
    table(f"Audit of {events:,} events", ["", ""], [[name, f"{figure:,.1f}"] for name, figure in figures.items()])
    record.write(output)


def _audited(env: dict[str, str], ids: Path, rows: Path) -> tuple[dict[str, float], dict[tuple[str, str], list[str]]]:
    """In a process of its own, whose memory is measured: figures, and what was found."""
    stages: dict[str, float] = {}

    def told(stage: str, done: int, of: int) -> None:
        stages[stage] = time.monotonic()

    begun, settings = time.monotonic(), Settings.from_env(env=env)
    report = audit(settings, partner_ids=ids, bigquery=ArrowFile(rows), wait_s=0, progress=told)
    seconds, used = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
    figures = {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "rss_max_mb": used.ru_maxrss / 1024}
    figures |= {f"until_{stage}_read": at - begun for stage, at in stages.items()}
    return figures, {(each.where, each.kind): each.names for each in report.findings}


def _insert(settings: Settings, events: int) -> None:
    with psycopg.connect(settings.postgres) as connection:
        for script in sorted((ROOT / "sql" / "postgres").glob("*.sql")):
            connection.execute(script.read_text(encoding="utf-8").encode())
        connection.execute(INSERT.encode(), {"first": 1, "last": events})


def _produce(settings: Settings) -> None:
    """The rows as the capture would write them."""
    admin = admin_client(settings.kafka)
    stamped = {"message.timestamp.type": "LogAppendTime"}
    wanted = [NewTopic(name, PARTITIONS, 1, config=stamped) for name in (TOPIC, LETTERS)]
    for answer in admin.create_topics(wanted).values():
        answer.result(30)
    producer = Producer(
        {
            **settings.kafka,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,  # without it a broker that has just started doubles events, as the audit found
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
        }
    )
    row_json = RowJson([Column(name, oid) for name, oid in COLUMNS], "content_id")
    with psycopg.connect(settings.postgres, options="-c timezone=UTC") as connection:
        names = ", ".join(name for name, _ in COLUMNS)
        with connection.cursor().copy(f"COPY (SELECT {names} FROM engagement_events) TO STDOUT".encode()) as copy:
            for row in copy.rows():
                key, value = row_json.record([None if each is None else each.encode() for each in row])
                while True:
                    try:
                        producer.produce(TOPIC, value, key)
                        break
                    except BufferError:
                        producer.poll(0.05)
    assert producer.flush(60) == 0


def _deliver(settings: Settings, folder: Path) -> tuple[Path, Path]:
    """Files of what the partner and BigQuery hold, one event short each; the sinks stand at the end."""
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    reader = EventsTopic(settings.kafka, TOPIC)
    contents = Contents()
    with psycopg.connect(settings.postgres) as connection:
        [total] = connection.execute("SELECT count(*) FROM engagement_events").fetchone() or (0,)
        contents.put(connection.execute((ROOT / "sql/postgres/queries/content_all.sql").read_text().encode()))
    ids, rows = folder / "partner.ids", folder / "bigquery.arrow"
    writer: Any = None
    with ids.open("w") as ids_file, rows.open("wb") as rows_file:
        for partition, end in reader.ends().items():
            for records in reader.records(partition, 0, end):
                batch = enrich(parse(records), contents)
                ids_file.writelines(f"{each}\n" for each in batch.event_ids if each != str(total // 3))
                kept = [at for at, each in enumerate(batch.event_ids) if each != str(total // 2)]
                made = _placed(arrow_rows(batch, kept), batch, kept, reader)
                writer = writer or pa.ipc.new_stream(
                    rows_file, made.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
                )
                writer.write_batch(made)
        writer.close()
    places = [TopicPartition(TOPIC, partition, end) for partition, end in reader.ends().items()]
    for sink in settings.sinks:
        group = f"{settings.kafka_consumer_group}.{sink}"
        reader.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])[group].result(30)
    return ids, rows


def _placed(columns: pa.RecordBatch, batch: Any, kept: list[int], reader: EventsTopic) -> pa.RecordBatch:
    """With the columns that say which record a row came from."""
    count = len(kept)
    added = {
        "source_topic": pa.array([TOPIC] * count, pa.string()),
        "source_epoch": pa.array([reader.topic.topic_id] * count, pa.string()),
        "kafka_partition": pa.array([batch.span.partition.partition] * count, pa.int64()),
        "kafka_offset": pa.array(batch.offsets[kept]),
        "kafka_timestamp": pa.array(batch.timestamps_ms[kept] * 1000).view(pa.timestamp("us", tz="UTC")),
    }
    return pa.RecordBatch.from_arrays([*columns.columns, *added.values()], names=[*columns.schema.names, *added])


if __name__ == "__main__":
    typer.run(main)
